"""`digits`: four numbers of one to eight digits, each with a place of its own; every length is as likely."""

from __future__ import annotations

import random
from dataclasses import replace

from helmas_core.data.channels.told import Told, distinct, number, part, phrased, tell
from helmas_core.data.channels.words import PLACES

NUMBERS = 4
LENGTHS = range(1, 9)
_FORMS = (
    (
        ("The meter in {n} shows {v}.", "What does the meter in {n} show?"),
        ("From {n} the number {v} was sent.", "Which number was sent from {n}?"),
        ("The total for {n} is {v}.", "What is the total for {n}?"),
    ),
    (
        ("{n} reported a count of {v}.", "Which count did {n} report?"),
        ("The figure noted beside {n} was {v}.", "Which figure was noted beside {n}?"),
    ),
)


def digits(rng: random.Random, split: str) -> Told:
    form = rng.choice(phrased(_FORMS, split))
    places = rng.sample(part(PLACES, split), NUMBERS)
    numbers = distinct(NUMBERS, lambda: number(rng, split, rng.choice(LENGTHS)))
    told = tell(rng, form, list(zip(places, numbers, strict=True)))
    return replace(told, kind=f"{len(told.answer)}-digits")
