"""Whether injection is exact: the student that goes on from its own cache must say what it says after the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch

from helmas_core.handoff.examples import Example
from helmas_core.models.inject import forward
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import endings, pad_left

_TIE = 2  # units in the last place of the largest logit: what reading in one pass or in two was seen to change in bf16
Tokens = Mapping[tuple[str, str], list[int]]


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
