"""Data order and learning rate as functions of the step alone, so that a resumed run needs no hidden state."""

from __future__ import annotations

import math
import random


def batch_indices(seed: int, stage: int, step: int, size: int, count: int) -> list[int]:
    """The indices of batch `step`: consecutive slices of one seeded permutation of range(count) per epoch."""
    picked = []
    for position in range(step * size, (step + 1) * size):
        epoch, offset = divmod(position, count)
        picked.append(_permutation(seed, stage, epoch, count)[offset])
    return picked


_last: dict[tuple[int, int, int, int], list[int]] = {}


def _permutation(seed: int, stage: int, epoch: int, count: int) -> list[int]:
    key = (seed, stage, epoch, count)
    if key not in _last:
        if len(_last) > 4:
            _last.clear()
        _last[key] = random.Random(f"{seed}/{stage}/{epoch}").sample(range(count), count)
    return _last[key]


def step_random(seed: int, stage: int, step: int) -> random.Random:
    """The random choices of one step."""
    return random.Random(f"step/{seed}/{stage}/{step}")


def noise_seed(seed: int, step: int) -> int:
    """For what a bridge draws in one step, such as dropout."""
    return random.Random(f"noise/{seed}/{step}").getrandbits(63)


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over `warmup` of the steps, then cosine down to a twentieth of `peak`."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
