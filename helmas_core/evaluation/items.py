"""What every arm said to every item: kept beside a report, for whoever wants to read before believing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from helmas_core.handoff.examples import Example

Key = tuple[str, str]


class Answers(Protocol):
    """One arm's answers by (data set, item)."""

    texts: dict[Key, str]
    right: dict[Key, bool]


def item_records(examples: Sequence[Example], arms: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """{task, id, question, answer, arms: {arm: {text, right}}} per item, in order; `category`, `choices`, `private`
    and `reasoning`, what only the teacher read, where the item has them, and a `cue` of its own that begins answers."""
    return [_record(example, arms) for example in examples]


def _record(example: Example, arms: Mapping[str, Answers]) -> dict[str, Any]:
    item, key = example.item, (example.task.name, example.item.id)
    maybe = {
        "category": item.category,
        "cue": item.cue if item.cue != example.task.cue else "",
        "choices": list(item.choices),
        "private": item.private,
        "reasoning": example.reasoning,
    }
    return {
        "task": example.task.name,
        "id": item.id,
        "question": item.question,
        "answer": item.answer,
        **{name: value for name, value in maybe.items() if value},
        "arms": {name: {"text": arm.texts[key], "right": arm.right[key]} for name, arm in arms.items()},
    }
