"""What training begins with: both models' caches, in groups, and how near the closed-form start comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from helmas_core.handoff.examples import Example
from helmas_core.models.cache import KVCache
from helmas_core.training.objective import Objective


class Pairs(Sequence[tuple[KVCache, KVCache]]):
    """Both models' caches of each group of examples, read when asked for: all at once they may exceed the memory."""

    def __init__(self, objective: Objective, groups: Sequence[Sequence[Example]]) -> None:
        self.objective, self.groups = objective, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        return self.objective.states(self.groups[index])


@torch.no_grad()
def rms_ratio(objective: Objective, examples: Sequence[Example]) -> list[float]:
    """Smallest and largest ratio of a head's RMS, bridge output over the student's own; near 1 is healthy."""
    state, own = objective.states(examples)
    bridged, real = objective.bridge(state, own), state.mask[:, None, :, None]
    ratios = [
        (
            (
                (b.float() * real).square().sum((0, 2, 3)) / (o.float() * real).square().sum((0, 2, 3)).clamp(min=1e-12)
            ).sqrt()
        )
        for b, o in zip(bridged.keys + bridged.values, own.keys + own.values, strict=True)
    ]
    joined = torch.cat(ratios)
    return [round(joined.min().item(), 3), round(joined.max().item(), 3)]
