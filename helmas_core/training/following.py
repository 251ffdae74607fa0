"""What the student reads after the hand-off while training: the question's cue and answer, the source's own
continuation, or a stretch of the source to be said again; of a text always one of the last two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helmas_core.config import TrainConfig
from helmas_core.handoff.examples import Example
from helmas_core.models.tokens import pad_left
from helmas_core.training.losses import IGNORE

LEAD = 8  # tokens of a stretch to be said again that only tell which one it is


@dataclass(frozen=True)
class Following:
    """ids, mask and labels [B, N]; `visible` [B] is how many source tokens come before them."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    visible: Tensor

    @property
    def columns(self) -> Tensor:
        """The columns at which some row is scored."""
        return (self.labels != IGNORE).any(0).nonzero()[:, 0]

    def rows(self, indices: Tensor) -> Following:
        """Some rows, without the padding that they share."""
        width = int(self.mask[indices].sum(1).max())
        ids, mask, labels = (t[indices, -width:] for t in (self.ids, self.mask, self.labels))
        return Following(ids, mask, labels, self.visible[indices])

    def by_length(self) -> list[Tensor]:
        """The rows' indices: short and long ones apart where padding would be a third of the work, else all."""
        lengths, order = self.mask.sum(1).sort()
        total, longest = len(order), int(lengths[-1])
        costs = [n * int(lengths[n - 1]) + (total - n) * longest for n in range(1, total)]
        if not costs or min(costs) > 2 / 3 * total * longest:
            return [order]
        cut = 1 + costs.index(min(costs))
        return [order[:cut], order[cut:]]


def choose(
    examples: Sequence[Example], config: TrainConfig, rng: random.Random, pad: int, device: torch.device
) -> Following:
    """Per example: a recitation with probability `config.recitation`, of the rest a continuation with probability
    `config.continuation`, else the answer if there is one."""
    rows = [_row(example, config, rng) for example in examples]
    ids, mask = pad_left([r[0] for r in rows], pad, device)
    labels, _ = pad_left([r[1] for r in rows], IGNORE, device)
    return Following(ids, mask, labels, torch.tensor([r[2] for r in rows], device=device))


def _row(example: Example, config: TrainConfig, rng: random.Random) -> tuple[list[int], list[int], int]:
    """(ids, labels, visible source tokens); a label is the token after, where it is to be scored."""
    source, cuts = example.source, example.cuts
    if config.recitation and len(source) > LEAD and rng.random() < config.recitation:
        return _said_again(source, rng.randrange(len(source) - LEAD), config.continuation_tokens)
    if not example.target or (cuts and rng.random() < config.continuation):
        cut = rng.choice(cuts)
        ids = list(source[cut : cut + config.continuation_tokens])
        return ids, [*ids[1:], IGNORE], cut
    ids = [*example.query, *example.target]
    scored = len(example.query) - 1
    return ids[:-1], [IGNORE] * scored + list(example.target), len(source)


def _said_again(source: Sequence[int], start: int, length: int) -> tuple[list[int], list[int], int]:
    """`length` tokens after `LEAD` from `start`, with all of the source handed over: some dozens to learn from, where
    an answer would be a few. What a chat template puts before the user's words is said again as well."""
    ids = list(source[start : start + LEAD + length])
    return ids[:-1], [IGNORE] * (LEAD - 1) + ids[LEAD:], len(source)
