"""A batch in parts, for a memory that does not hold it whole: their gradients add up to the batch's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_ADD_UP = {"ce", "kl"}  # means over rows; the others are means over all tokens of what they are given at once


def parts(items: Sequence[T], most: int | None) -> list[Sequence[T]]:
    """`items` in order, in as few parts of like size as hold at most `most` each."""
    count = 1 if most is None else math.ceil(len(items) / most)
    size = math.ceil(len(items) / count)
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def half(size: int) -> int:
    return math.ceil(size / 2)


def told(step: int, size: int, whole: int, losses: Mapping[Any, float]) -> str:
    """The note that goes with halving parts of `size` items."""
    apart = sorted(set(losses) - _ADD_UP)
    weighed = f"; {', '.join(apart)}: each part counts by its items, not by its tokens" if apart else ""
    return (
        f"step {step}: out of memory with {size} items at once; going on with {half(size)} (train.micro_batch), "
        f"the batch stays {whole}{weighed}"
    )
