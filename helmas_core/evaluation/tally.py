"""Every arm's answers, item by item, and what they come to: accuracies, paired differences, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from helmas_core.config import CONTROLS
from helmas_core.data.parse import same_answer
from helmas_core.evaluation.statistics import paired_difference, wilson
from helmas_core.handoff.examples import Example
from helmas_core.models.inject import Generation
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode

Key = tuple[str, str]
TIMES = ("seconds_p50", "seconds_p95", "tokens_per_second")
CONTRASTS = (("bridge", "student"), ("bridge", "deranged"), ("bridge", "text"), ("bridge", "teacher"), ("own", "text"))
CONTRASTS += tuple(("bridge", control) for control in CONTROLS)


@dataclass
class Tally:
    """One arm's answers, by data set and item."""

    right: dict[Key, bool] = field(default_factory=dict)
    tokens: dict[Key, list[int]] = field(default_factory=dict)
    texts: dict[Key, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    unparsed: int = 0
    truncated: int = 0

    def add(self, pair: Pair, examples: Sequence[Example], written: Generation, seconds: float, cued: bool) -> None:
        """Score a batch that took `seconds`; each of its items counts with an equal part."""
        self.seconds += [seconds / len(examples)] * len(examples)
        for example, tokens, truncated in zip(examples, written.tokens, written.truncated, strict=True):
            text = decode(pair.tokenizer, tokens)
            predicted = example.task.parse(text, cued)
            self.unparsed += predicted is None
            self.truncated += truncated and not example.choices
            key = (example.task.name, example.item.id)
            self.tokens[key], self.texts[key] = tokens, text
            self.right[key] = same_answer(example.task, predicted, example.item.answer)

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Tally:
        """One arm's answers of several processes, which share no item."""
        whole = cls()
        for part in parts:
            whole.right |= part.right
            whole.tokens |= part.tokens
            whole.texts |= part.texts
            whole.seconds += part.seconds
            whole.unparsed += part.unparsed
            whole.truncated += part.truncated
        return whole

    def summary(self, timed: bool) -> dict[str, Any]:
        """The arm's part of the document; times are null unless it was `timed`.

        `seconds_p50` and `seconds_p95` are what an item costs at this batch size, since each counts with an equal part
        of its batch's time; how long one waits for a single answer is measured with eval.batch = 1.
        """
        n, right = len(self.right), sum(self.right.values())
        times: dict[str, Any] = self._times() if timed and self.seconds else dict.fromkeys(TIMES)
        return {
            "accuracy": round(right / n, 4),
            "ci": list(wilson(right, n)),
            "n": n,
            "unparsed": round(self.unparsed / n, 4),
            "truncated": round(self.truncated / n, 4),
            **times,
        }

    def _times(self) -> dict[str, float]:
        p50, p95 = torch.tensor(self.seconds).quantile(torch.tensor([0.5, 0.95])).tolist()
        written = sum(map(len, self.tokens.values()))
        figures = round(p50, 4), round(p95, 4), round(written / max(1e-9, sum(self.seconds)), 2)
        return dict(zip(TIMES, figures, strict=True))


def outcomes(tallies: dict[str, Tally]) -> dict[str, Any]:
    """Which items each arm got right: {"items": [[data set, id], …], "right": {arm: "0110…"}}, in one order."""
    items = sorted(next(iter(tallies.values())).right)
    right = {arm: "".join(str(int(tally.right[item])) for item in items) for arm, tally in tallies.items()}
    return {"items": [list(item) for item in items], "right": right}


def contrasts(tallies: dict[str, Tally], seed: int) -> dict[str, Any]:
    """Paired differences between the arms that were run."""
    found = {}
    for ours, theirs in CONTRASTS:
        if ours in tallies and theirs in tallies:
            ids = list(tallies[ours].right)
            pairs = [[tallies[arm].right[i] for i in ids] for arm in (ours, theirs)]
            found[f"{ours}-{theirs}"] = paired_difference(pairs[0], pairs[1], seed)
    return found


def agreement(tallies: dict[str, Tally]) -> dict[str, float]:
    """Share of items on which two arms wrote the same tokens; `own-text` is 1 when injection is exact."""
    if not {"own", "text"} <= tallies.keys():
        return {}
    own, text = tallies["own"].tokens, tallies["text"].tokens
    return {"own-text": round(sum(own[i] == text[i] for i in own) / len(own), 4)}
