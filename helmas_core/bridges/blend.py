"""Stage: mix the teacher's layers into as many as the student has. Over the layer axis only, K and V apart.

Shapes: B batch, L layers (Lt teacher, Ls student), H KV heads, T tokens, D head dim. Layers come first, so that mixing
them moves nothing about.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Blending = Literal["skip", "blend", "attention"]


def centres(teacher_layers: int, student_layers: int) -> Tensor:
    """[Ls] fp32: the teacher layer, as a fraction, at each student layer's relative depth."""
    return torch.arange(student_layers) * ((teacher_layers - 1) / max(1, student_layers - 1))


def nearest_layers(teacher_layers: int, student_layers: int, count: int) -> Tensor:
    """[Ls, k]: the k teacher layers nearest to each student layer's relative depth, or all if there are fewer."""
    count = min(count, teacher_layers)
    start = (centres(teacher_layers, student_layers) - (count - 1) / 2).round().clamp(0, teacher_layers - count)
    return start.long()[:, None] + torch.arange(count)


def from_the_top(teacher_layers: int, student_layers: int) -> list[int]:
    """For each student layer the teacher layer as far from the last as it is; the first where there are too few."""
    return [max(0, teacher_layers - student_layers + layer) for layer in range(student_layers)]


class SkipBlend(nn.Module):
    """Uniform stride: one teacher layer for each student layer, no parameters."""

    chosen: Tensor

    def __init__(self, teacher_layers: int, student_layers: int) -> None:
        super().__init__()
        self.teacher_layers = teacher_layers
        self.register_buffer("chosen", centres(teacher_layers, student_layers).round().long(), persistent=False)

    def forward(self, states: Tensor, which: int) -> Tensor:  # noqa: ARG002 - all blends are called alike
        """[Lt, B, H, T, D] → [Ls, B, H, T, D]; `which` is 0 for keys, 1 for values."""
        return states[self.chosen]

    def weights(self) -> Tensor:
        """[2, Ls, Lt]: the share of each teacher layer in each student layer."""
        return nn.functional.one_hot(self.chosen, self.teacher_layers).float().expand(2, -1, -1)


class LocalBlend(nn.Module):
    """Local convolution along the layer axis: `kernel` taps around each student layer's relative depth.

    A tap has one weight per rotary pair of channels (i, i + D/2), shared over heads, so blending commutes with
    RoPE: 2 · Ls · kernel · D/2 parameters, 10,752 for 36 → 28 layers of head dim 128.
    """

    window: Tensor

    def __init__(self, teacher_layers: int, student_layers: int, head_dim: int, kernel: int) -> None:
        super().__init__()
        self.teacher_layers = teacher_layers
        kernel = min(kernel, teacher_layers)
        middle = centres(teacher_layers, student_layers)
        start = (middle - (kernel - 1) / 2).round().clamp(0, teacher_layers - kernel).long()
        window = start[:, None] + torch.arange(kernel)
        self.register_buffer("window", window, persistent=False)
        nearest = nn.functional.one_hot((window - middle[:, None]).abs().argmin(1), kernel).float()
        self.taps = nn.Parameter(nearest[None, :, :, None].repeat(2, 1, 1, (head_dim + 1) // 2))

    def forward(self, states: Tensor, which: int) -> Tensor:
        taps = torch.cat((self.taps[which], self.taps[which]), -1)[..., : states.shape[-1]]
        return torch.einsum("lkbhtd,lkd->lbhtd", states[self.window], taps.to(states.dtype))

    def weights(self) -> Tensor:
        mean = self.taps.detach().float().mean(-1)
        spread = mean.new_zeros(2, len(self.window), self.teacher_layers)
        return spread.scatter(2, self.window.expand(2, -1, -1), mean)


class AttentionBlend(nn.Module):
    """Global pooling: a softmax over all teacher layers, started at the one of the same relative depth.

    2 · Ls · Lt parameters, 2,016 for 36 → 28.
    """

    def __init__(self, teacher_layers: int, student_layers: int) -> None:
        super().__init__()
        distance = (torch.arange(teacher_layers) - centres(teacher_layers, student_layers)[:, None]).abs()
        self.logits = nn.Parameter(-distance.repeat(2, 1, 1))

    def forward(self, states: Tensor, which: int) -> Tensor:
        shares = self.logits[which].softmax(-1).to(states.dtype)
        return torch.mm(shares, states.flatten(1)).unflatten(1, states.shape[1:])

    def weights(self) -> Tensor:
        return self.logits.detach().float().softmax(-1)


def build_blend(kind: Blending, teacher_layers: int, student_layers: int, head_dim: int, kernel: int) -> nn.Module:
    if kind == "skip":
        return SkipBlend(teacher_layers, student_layers)
    if kind == "blend":
        return LocalBlend(teacher_layers, student_layers, head_dim, kernel)
    return AttentionBlend(teacher_layers, student_layers)
