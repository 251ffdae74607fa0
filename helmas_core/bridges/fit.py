"""What can be had without a gradient: standardisation statistics and a ridge regression.

Cached states carry large constant parts (key biases up to ±200 in Qwen2.5), so bridges work on standardised
states. Shapes: B batch, L layers, H KV heads, T tokens, D head dim; N rows, I in, O out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count

import torch
from torch import Tensor, nn

from helmas_core.errors import DataError
from helmas_core.models.cache import KVCache, Pieces

AUTO_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Statistics(nn.Module):
    """Mean and standard deviation of keys and values per layer, head and channel; fp32, stored with the bridge."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, layers, heads, dim))
        self.register_buffer("std", torch.ones(2, layers, heads, dim))

    def set(self, sums: Sums) -> None:
        mean = sums.total / sums.count
        self.mean.copy_(mean)
        self.std.copy_((sums.squares / sums.count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-4))

    def standardise(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean[:, :, :, None], self.std[:, :, :, None]
        return (keys - mean[0]) / std[0], (values - mean[1]) / std[1]

    @torch.no_grad()
    def standardise_into(self, out: Tensor, which: int, states: Pieces) -> Tensor:
        """The same for keys (`which` is 0) or values (1) that come some layers at a time, [n, B, H, T, D], without a
        copy in between: `out` is [L, B, H, T, D], of any layout and dtype. No gradient goes through it."""
        scale = 1 / self.std[which, :, None, :, None]
        shift = -self.mean[which, :, None, :, None] * scale
        for part, some in states:
            out[part].copy_(torch.addcmul(shift[part], some.float(), scale[part]))
        return out

    def restore(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean[:, :, :, None], self.std[:, :, :, None]
        return torch.addcmul(mean[0], keys, std[0]), torch.addcmul(mean[1], values, std[1])


class Sums:
    """What statistics are made of, in fp64, where a mean of 200 beside a deviation of 1 loses nothing."""

    def __init__(self, of: Statistics) -> None:
        self.count, self.total, self.squares = 0, torch.zeros_like(of.mean).double(), torch.zeros_like(of.mean).double()

    def add(self, keys: Tensor, values: Tensor, mask: Tensor) -> None:
        """Keys and values [B, L, H, T, D] with their mask [B, T]; padding does not count."""
        for which, state in enumerate((keys, values)):
            rows = state.permute(0, 3, 1, 2, 4)[mask].double()
            self.total[which] += rows.sum(0)
            self.squares[which] += rows.square().sum(0)
        self.count += int(mask.sum())


@dataclass(frozen=True)
class Moments:
    """What least squares needs to know of rows X [L, N, I] and Y [L, N, O], per layer, in fp32; moments add up."""

    gram: Tensor
    cross: Tensor
    power: Tensor
    rows: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        x, y = x.float(), y.float()
        return cls(x.transpose(1, 2) @ x, x.transpose(1, 2) @ y, y.square().sum((1, 2)), x.shape[1])

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def solve(self, strength: float, rank: int | None = None) -> Tensor:
        """W [L, I, O] of min ‖XW − Y‖² + λN‖W‖², where λ is `strength`; with `rank` R, the best of that rank.
        DataError for a λ too small to solve with."""
        regular = self.gram.clone()
        regular.diagonal(dim1=1, dim2=2).add_(strength * self.rows)
        solution = torch.cholesky_solve(self.cross, _factor(regular, strength))
        return solution if rank is None else self._reduce(solution, rank)

    def _reduce(self, solution: Tensor, rank: int) -> Tensor:
        """Reduced-rank ridge regression (Mukherjee and Zhu, 2011): of the full solution W, keep the R directions of
        the outputs with the largest fitted power Wᵀ(XᵀX + λN)W = WᵀXᵀY."""
        fitted = solution.transpose(1, 2) @ self.cross
        top = torch.linalg.eigh((fitted + fitted.transpose(1, 2)) / 2).eigenvectors[:, :, -rank:]
        return solution @ top @ top.transpose(1, 2)

    def unexplained(self, weight: Tensor) -> float:
        """Share of the targets' power that W = `weight` [L, I, O] leaves on these rows, mean over layers."""
        residual = self.power - 2 * (weight * self.cross).sum((1, 2)) + (weight * (self.gram @ weight)).sum((1, 2))
        return (residual / self.power).mean().item()


def _factor(matrix: Tensor, strength: float) -> Tensor:
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        why = f"a strength of {strength:g} is too small for fp32, since features depend on each other"
        raise DataError(why, where="bridge.ridge", fix="raise it") from error


class Ridge:
    """Ridge regression per layer from streamed rows, of which only the moments are kept.

    Of several strengths it takes, for all layers together, the one that leaves least of the held-out rows
    unexplained, and fits all rows with it.
    """

    def __init__(self, strengths: Sequence[float], rank: int | None = None) -> None:
        self.strengths, self.rank = tuple(strengths), rank
        self.strength = self.strengths[0]
        self.kept: Moments | None = None
        self.held: Moments | None = None

    def add(self, x: Tensor, y: Tensor, real: Tensor, held: Tensor) -> None:
        """x [L, N, I], y [L, N, O], real and held [N] bool: padding is left out, held-out rows choose the strength."""
        held = held & (len(self.strengths) > 1)
        self.kept = _extend(self.kept, x, y, real & ~held)
        self.held = _extend(self.held, x, y, real & held)

    def solve(self) -> Tensor:
        """W [L, I, O]; DataError if several strengths are given and no rows to choose by."""
        if len(self.strengths) > 1:
            self.strength = self._choose()
        assert self.kept is not None
        self.moments = self.kept if self.held is None else self.kept + self.held
        self.solution = self.moments.solve(self.strength, self.rank)
        return self.solution

    def _choose(self) -> float:
        if self.kept is None or self.held is None:
            fix = "raise train.calibration_items, or give one number"
            raise DataError("too few items to choose a ridge strength by", where="bridge.ridge", fix=fix)
        errors = [self._held_out(self.kept, self.held, strength) for strength in self.strengths]
        return self.strengths[errors.index(min(errors))]

    def _held_out(self, kept: Moments, held: Moments, strength: float) -> float:
        try:
            return held.unexplained(kept.solve(strength, self.rank))
        except DataError:
            return float("inf")

    def unexplained(self) -> float:
        """Share of the targets' power that the solution leaves, on the rows that it was fitted to."""
        return self.moments.unexplained(self.solution)


def held_out(
    batches: Sequence[tuple[KVCache, KVCache]],
) -> Iterator[tuple[tuple[KVCache, KVCache], Tensor]]:
    """Each batch, and which of its items [B] are kept apart to choose a strength by: the first of every ten."""
    items = count()
    for pair in batches:
        yield pair, torch.tensor([next(items) % 10 == 0 for _ in range(pair[0].batch)])


def _extend(moments: Moments | None, x: Tensor, y: Tensor, rows: Tensor) -> Moments | None:
    """`moments` and those of the chosen `rows` [N] together."""
    if not rows.any():
        return moments
    new = Moments.of(x[:, rows], y[:, rows])
    return new if moments is None else moments + new
