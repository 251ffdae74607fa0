"""What every channel makes: sentences for the teacher, a question for the student, an answer that is told once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from helmas_core.data.item import pool

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """One item before it is padded.

    `sentences` are private, in their order, joined by `joint`; `filler` is what a sentence of filler becomes;
    `apart` keeps all filler between the sentences and the question; `kind` names the sort of answer in the item's id.
    """

    sentences: tuple[str, ...]
    question: str
    answer: str
    kind: str = ""
    joint: str = " "
    filler: str = "{}"
    apart: bool = False


Form = tuple[str, str]  # a sentence and its question: {n} is what is asked about, {v} what is told of it
Channel = Callable[[random.Random, str], Told]  # (random, split) -> one item of the split


def part(values: Sequence[T], split: str) -> list[T]:
    """The split's own of `values`: every fifth for test, every fifth for validation, the rest for train."""
    owner = {0: "test", 1: "validation"}
    return [value for index, value in enumerate(values) if owner.get(index % 5, "train") == split]


def phrased(forms: tuple[Sequence[T], Sequence[T]], split: str) -> Sequence[T]:
    """The split's phrasings: the second of `forms` is only met in test."""
    return forms[split == "test"]


def owned(rng: random.Random, split: str, make: Callable[[random.Random], str]) -> str:
    """A value of `make` that belongs to `split` by its hash."""
    while pool(value := make(rng)) != split:
        pass
    return value


def distinct(count: int, make: Callable[[], str]) -> list[str]:
    """`count` different values of `make`."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


def number(rng: random.Random, split: str, digits: int) -> str:
    """A number of the split with `digits` digits and no leading zero."""
    if digits == 1:  # too few for a hash to leave some to every split
        return rng.choice(part("0123456789", split))
    return owned(rng, split, lambda r: str(r.randrange(10 ** (digits - 1), 10**digits)))


def tell(rng: random.Random, form: Form, pairs: Sequence[tuple[str, str]], kind: str = "") -> Told:
    """Every (n, v) of `pairs` told in the sentence of `form`, and one of them asked about."""
    sentence, question = form
    asked, answer = rng.choice(pairs)
    return Told(tuple(sentence.format(n=n, v=v) for n, v in pairs), question.format(n=asked), answer, kind)
