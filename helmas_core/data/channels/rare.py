"""`rare`: names that are long in tokens and hard to guess, to be spelt exactly."""

from __future__ import annotations

import random

from helmas_core.data.channels.told import Told, distinct, part, phrased, tell
from helmas_core.data.channels.words import FIRST_NAMES, LAST_NAMES, NOUNS

PEOPLE = 3
_FORMS = (
    (
        ("The {n} belongs to {v}.", "Who does the {n} belong to?"),
        ("{v} brought the {n}.", "Who brought the {n}?"),
        ("The {n} was signed for by {v}.", "Who signed for the {n}?"),
    ),
    (
        ("It was {v} who repaired the {n}.", "Who repaired the {n}?"),
        ("The {n} was last seen with {v}.", "Who was the {n} last seen with?"),
    ),
)


def rare(rng: random.Random, split: str) -> Told:
    form = rng.choice(phrased(_FORMS, split))
    first, last = part(FIRST_NAMES, split), part(LAST_NAMES, split)
    people = distinct(PEOPLE, lambda: f"{rng.choice(first)} {rng.choice(last)}")
    return tell(rng, form, list(zip(rng.sample(part(NOUNS, split), PEOPLE), people, strict=True)))
