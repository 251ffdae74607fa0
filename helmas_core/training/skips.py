"""Steps whose loss or gradient is not finite: left out, counted, and named by what was in their batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helmas_core.errors import TrainingError
from helmas_core.handoff.examples import Example

_NAMED = 8


@dataclass
class Skips:
    """How many steps were skipped: in all, and in a row up to now, of which `limit` are borne."""

    limit: int
    note: Callable[[str], None]
    total: int = 0
    in_a_row: int = 0

    def add(self, step: int, what: str, examples: Sequence[Example]) -> None:
        """Skip `step`; TrainingError where too many have come to nothing."""
        self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
        told = f"step {step}: the {what} is not finite, on {named(examples)}"
        if self.in_a_row > self.limit:
            what = f"{told}; {self.in_a_row} step{'s' * (self.in_a_row > 1)} in a row"
            fix = "lower the learning rate, or leave these items out (train.max_skipped)"
            raise TrainingError(what, fix=fix)
        self.note(f"warning: {told}; skipped, {self.total} so far")


def named(examples: Sequence[Example]) -> str:
    """relay 17, relay 4 and 30 more."""
    names = [f"{example.task.name} {example.item.id}" for example in examples]
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
