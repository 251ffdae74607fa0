"""Stage: per student layer, from the teacher's width to the student's. All layers run as one batched product.

Inputs and outputs are standardised, so no biases are needed. Shapes: L student layers, N rows, I in, O out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


def _weight(layers: int, inputs: int, outputs: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(layers, inputs, outputs) / math.sqrt(inputs))


class Casts:
    """Weights in the dtype of what they are to meet, cast again only after they have changed.

    Where a gradient is wanted the weight itself comes back: autocast casts it there.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[tuple[Any, ...], Tensor]] = {}

    def __call__(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        if weight.dtype == dtype or torch.is_grad_enabled():
            return weight
        state = (weight.data_ptr(), weight._version, dtype)
        if self.kept.get(id(weight), ((), weight))[0] != state:
            self.kept[id(weight)] = (state, weight.detach().to(dtype))
        return self.kept[id(weight)][1]


class DeepProjector(nn.Module):
    """`depth` linear maps with GELU between them; one of them is a plain linear map.

    `set_linear` starts it at any given linear map exactly, although it is deep: gelu(x) − gelu(−x) = x, so a
    hidden layer of [A, −A] followed by [B; −B] computes A·B.
    """

    def __init__(self, layers: int, inputs: int, outputs: int, hidden: int, depth: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (depth - 1), outputs]
        self.maps = nn.ParameterList(_weight(layers, a, b) for a, b in pairwise(widths))
        self.cast = Casts()

    def forward(self, x: Tensor) -> Tensor:
        """[L, N, I] → [L, N, O]."""
        for index, weight in enumerate(self.maps):
            x = torch.bmm(gelu(x) if index else x, self.cast(weight, x.dtype))
        return x

    @torch.no_grad()
    def set_linear(self, weight: Tensor) -> None:
        """Compute `weight` [L, I, O], or its best approximation where the hidden width is too small."""
        final = len(self.maps) - 1
        if final == 0:
            self.maps[0].copy_(weight)
            return
        first, last = _factors(weight, min(self.maps[0].shape[2] // 2, *weight.shape[1:]))
        between = torch.eye(first.shape[2]).to(weight).expand(len(weight), -1, -1)
        for index, target in enumerate(self.maps):
            block = first if index == 0 else last if index == final else between
            block = torch.cat((block, -block), 2) if index < final else block
            block = torch.cat((block, -block), 1) if index else block
            if index:
                target[:, block.shape[1] :, : block.shape[2]] = 0.0  # spare units join later, through training
            target[:, : block.shape[1], : block.shape[2]] = block


def _factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[L, I, R] and [L, R, O] whose product is `weight`, exactly if R reaches its smaller side."""
    if rank == weight.shape[1]:
        return torch.eye(rank).to(weight).expand(len(weight), -1, -1), weight
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    root = sizes[:, :rank].sqrt()
    return left[:, :, :rank] * root[:, None], root[:, :, None] * right[:, :rank]


class WideProjector(nn.Module):
    """A linear map, of full or of low rank, plus from depth 2 on a GELU residual whose last map starts at zero."""

    def __init__(self, layers: int, inputs: int, outputs: int, hidden: int, depth: int, rank: int | None) -> None:
        super().__init__()
        self.linear = _weight(layers, inputs, rank or outputs)
        self.widen = None if rank is None else _weight(layers, rank, outputs)
        self.residual = DeepProjector(layers, inputs, outputs, hidden, depth) if depth > 1 else None
        if self.residual is not None:
            nn.init.zeros_(self.residual.maps[-1])
        self.cast = Casts()

    def forward(self, x: Tensor) -> Tensor:
        """[L, N, I] → [L, N, O]."""
        straight = torch.bmm(x, self.cast(self.linear, x.dtype))
        straight = straight if self.widen is None else torch.bmm(straight, self.cast(self.widen, x.dtype))
        return straight if self.residual is None else straight + self.residual(x)

    @torch.no_grad()
    def set_linear(self, weight: Tensor) -> None:
        """Start at `weight` [L, I, O], or at its nearest map of this projector's rank."""
        if self.widen is None:
            self.linear.copy_(weight)
            return
        for part, factor in zip((self.linear, self.widen), _factors(weight, self.widen.shape[1]), strict=True):
            part.copy_(factor)

    def matrix(self) -> Tensor:
        """The linear map as one matrix, [L, I, O]."""
        return self.linear if self.widen is None else torch.bmm(self.linear, self.widen)


class HeadMap(nn.Module):
    """Ht teacher heads → Hs student heads, per layer, K and V apart; starts as the nearest heads' mean."""

    def __init__(self, layers: int, teacher_heads: int, student_heads: int) -> None:
        super().__init__()
        shares = torch.zeros(student_heads, teacher_heads)
        for s in range(student_heads):
            first = s * teacher_heads // student_heads
            last = max(first + 1, -(-(s + 1) * teacher_heads // student_heads))
            shares[s, first:last] = 1 / (last - first)
        self.weight = nn.Parameter(shares.repeat(2, layers, 1, 1))

    def forward(self, states: Tensor, which: int) -> Tensor:
        """[L, B, Ht, T, D] → [L, B, Hs, T, D]; `which` is 0 for keys, 1 for values."""
        return torch.einsum("lbhtd,lsh->lbstd", states, self.weight[which].to(states.dtype))
