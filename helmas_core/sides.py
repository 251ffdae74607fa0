"""What the models of a pair are called in documents: teacher, teacher_2, …, student. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Model = TypeVar("Model")
_SIDE = re.compile(r"teacher(_[1-9]\d*)?|student")


def by_side(teachers: Sequence[Model], student: Model) -> dict[str, Model]:
    """Each model under its name, the teachers first."""
    names = ["teacher", *(f"teacher_{number}" for number in range(2, len(teachers) + 1))]
    return {**dict(zip(names, teachers, strict=True)), "student": student}


def named(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The models that a `[pair]` section names; None for one that it does not."""
    more = pair.get("more_teachers")
    return by_side([pair.get("teacher"), *(more if isinstance(more, list | tuple) else ())], pair.get("student"))


def described(pair: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models that a document on a pair describes, in the same order."""
    found = [name for name, model in pair.items() if _SIDE.fullmatch(name) and isinstance(model, Mapping)]
    return {name: pair[name] for name in sorted(found, key=lambda name: (name == "student", len(name), name))}
