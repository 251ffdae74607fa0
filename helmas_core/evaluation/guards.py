"""What must hold before a report is believed: injection is exact, answers are readable, the hand-off does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch

from helmas_core.errors import HelmasError
from helmas_core.handoff.examples import Example
from helmas_core.models.inject import forward
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import endings, pad_left

THRESHOLD = 0.1  # share of an arm's items from which on it is warned of
_READERS = ("teacher", "text", "bridge", "own")  # the student alone often has nothing to say
_TIE = 2  # units in the last place of the largest logit: what reading in one pass or in two was seen to change in bf16
Tokens = Mapping[tuple[str, str], list[int]]


class InexactError(HelmasError):
    """The student answers differently when it goes on from its own cache: no other arm can be trusted."""


@torch.no_grad()
def exactness(pair: Pair, examples: Sequence[Example], own: Tokens, text: Tokens) -> dict[str, Any]:
    """Items on which `own` and `text` wrote other tokens: {"compared", "differ": [ids], "ties": [ids]}.

    In fp32 any token counts. In bf16 and fp16 the two ways of reading differ in last digits, and greedy decoding takes
    the other of two equally good tokens: an item is a tie, reported and forgiven, if at its first difference the
    student that read the text gives both tokens the same logit to within 2 units in the last place of the largest one.
    """
    found: dict[str, Any] = {"compared": len(own), "differ": [], "ties": []}
    for example in examples:
        key = (example.task.name, example.item.id)
        if own[key] != text[key]:
            found["ties" if _tied(pair, example, own[key], text[key]) else "differ"].append(example.item.id)
    return found


def _tied(pair: Pair, example: Example, own: list[int], text: list[int]) -> bool:
    dtype = pair.student.model.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(own, text, strict=False)))
    read = [*example.source, *example.query, *own[:same]]
    logits = forward(pair.student.model, None, *pad_left([read], pair.pad, pair.device))[0, -1].float()
    ends = list(endings(pair.tokenizer))  # a row that is shorter ended here
    ours, theirs = (logits[[row[same]] if len(row) > same else ends].max() for row in (own, text))
    unit = torch.finfo(dtype).eps * logits.abs().max()  # a logit is a sum of terms of that size
    return bool((ours - theirs).abs() <= _TIE * unit)


def inexact(document: Mapping[str, Any]) -> str:
    """What to tell of a report whose own cache did not do what the text does; "" where all is well."""
    found = document.get("exactness")
    if not found or not found["differ"]:
        return ""
    return (
        f"own and text differ on {len(found['differ'])} of {found['compared']} items, first {found['differ'][0]}: "
        "injection is not exact on this machine, so no arm that injects a cache can be trusted"
    )


def require_exact(documents: Sequence[Mapping[str, Any]]) -> None:
    """InexactError for the first report whose injection is not exact."""
    for document in documents:
        if what := inexact(document):
            fix = (
                "try -s pair.attention=eager, -s pair.dtype=fp32 or --batch 1; "
                "-s eval.allow_inexact=true goes on with a warning"
            )
            raise InexactError(what, where=str(document["dataset"]), fix=fix)


def warnings_of(document: Mapping[str, Any]) -> list[str]:
    """A line for every rate in a report that puts its figures in doubt."""
    found = [inexact(document)]
    for name in _READERS:
        arm = document["arms"].get(name, {})
        for key, what, fix in (
            ("unparsed", "hold no answer that can be read", "look at what they say"),
            ("truncated", "were cut off", "raise eval.max_new_tokens"),
        ):
            if arm.get(key, 0) > THRESHOLD:
                found.append(f"{arm[key]:.0%} of the {name} arm's answers {what}; {fix}")
    leak = (document.get("reasoning") or {}).get("names_answer", 0)
    if leak > THRESHOLD:
        found.append(
            f"the reasoning handed over names the answer in {leak:.0%} of the items: they show that an answer travels, "
            "not that thinking does; data.cut_last_step = true takes the last step off"
        )
    return [line for line in found if line]
