"""What can be had without a gradient: standardisation statistics and a ridge regression.

Cached states carry large constant parts (key biases up to ±200 in Qwen2.5), so bridges work on standardised
states. Shapes: B batch, L layers, H KV heads, T tokens, D head dim; N rows, I in, O out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Statistics(nn.Module):
    """Mean and standard deviation of keys and values per layer, head and channel; fp32, stored with the bridge."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, layers, heads, dim))
        self.register_buffer("std", torch.ones(2, layers, heads, dim))

    def measure(self, states: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """From (keys, values, mask) batches, [B, L, H, T, D] twice and [B, T]; padding does not count. The sums
        run in fp64, where a mean of 200 beside a deviation of 1 loses nothing."""
        count, total, squares = 0, torch.zeros(self.mean.shape).double(), torch.zeros(self.mean.shape).double()
        for keys, values, mask in states:
            for which, state in enumerate((keys, values)):
                rows = state.double().permute(0, 3, 1, 2, 4)[mask].cpu()
                total[which] += rows.sum(0)
                squares[which] += rows.square().sum(0)
            count += int(mask.sum())
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-4))

    def standardise(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean[:, :, :, None], self.std[:, :, :, None]
        return (keys - mean[0]) / std[0], (values - mean[1]) / std[1]

    def restore(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean[:, :, :, None], self.std[:, :, :, None]
        return keys * std[0] + mean[0], values * std[1] + mean[1]


class Ridge:
    """min ‖XW − Y‖² + λN‖W‖² per layer, from streamed rows; only the Gram matrices are kept, in fp32."""

    def __init__(self, strength: float) -> None:
        self.strength, self.rows = strength, 0
        self.gram: Tensor | None = None

    def add(self, x: Tensor, y: Tensor, real: Tensor) -> None:
        """x [L, N, I], y [L, N, O], real [N] bool."""
        x, y = x[:, real].float(), y[:, real].float()
        gram, cross, power = x.transpose(1, 2) @ x, x.transpose(1, 2) @ y, y.square().sum((1, 2))
        if self.gram is None:
            self.gram, self.cross, self.power = gram, cross, power
        else:
            self.gram, self.cross, self.power = self.gram + gram, self.cross + cross, self.power + power
        self.rows += int(real.sum())

    def solve(self) -> Tensor:
        """W [L, I, O]."""
        assert self.gram is not None
        regular = self.gram + self.strength * self.rows * torch.eye(self.gram.shape[1]).to(self.gram)
        self.solution = torch.cholesky_solve(self.cross, torch.linalg.cholesky(regular))
        return self.solution

    def unexplained(self) -> float:
        """Share of the targets' power that the solution leaves, on the rows that it was fitted to."""
        assert self.gram is not None
        w = self.solution
        residual = self.power - 2 * (w * self.cross).sum((1, 2)) + (w * (self.gram @ w)).sum((1, 2))
        return (residual / self.power).mean().item()
