"""`relay`: the teacher reads private facts, the student is only asked about one of them.

Names, values and phrasings are split between train and test, so a bridge that passes has carried content
and not memorised it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product

from helmas_core.data.item import Item, pool

FACTS = 4
ATTRIBUTES = (
    "locker code",
    "badge number",
    "room number",
    "bus number",
    "seat number",
    "ticket number",
    "door code",
    "shelf number",
)
_BEGINNINGS = [c + v for c in "BDFGKLMNPRSTVZ" for v in "aio"]
_ENDINGS = ("ra", "na", "mi", "ken", "lor", "vik")
_FORMS = {
    "train": (
        ("{A}s:", "The {a}s are", "Here are the {a}s:", "Noted {a}s:", "We gave out these {a}s:"),
        ("What is the {a} of {n}?", "What is {n}'s {a}?", "Which {a} does {n} have?", "Which is the {a} of {n}?"),
    ),
    "test": (
        ("These are the {a}s:", "We noted the {a}s:", "All {a}s:"),
        ("Which {a} is {n}'s?", "What {a} does {n} have?"),
    ),
}
_FORMS["validation"] = _FORMS["train"]


@cache
def names(*splits: str) -> tuple[str, ...]:
    """Every name of the given splits."""
    spelled = ("".join(parts) for parts in product(_BEGINNINGS, _ENDINGS))
    return tuple(name for name in spelled if pool(name) in splits)


@cache
def _values(split: str) -> dict[str, list[str]]:
    """The split's three-digit values by their first two digits."""
    by_start: dict[str, list[str]] = {}
    for value in map(str, range(100, 1000)):
        if pool(value) == split:
            by_start.setdefault(value[:2], []).append(value)
    return by_start


def _sample_values(rng: random.Random, split: str, count: int) -> list[str]:
    """Values of which no two begin alike: a first token then tells whose value is being said."""
    known = _values(split)
    return [rng.choice(known[start]) for start in rng.sample(list(known), count)]


def story(
    rng: random.Random, split: str, people: Sequence[str] = (), facts: int = FACTS
) -> tuple[str, list[tuple[str, str, str]]]:
    """A text of `facts` private facts, and (question, cue, answer) for each; `people` are the split's names."""
    attribute, (openings, questions) = rng.choice(ATTRIBUTES), _FORMS[split]
    told = list(zip(rng.sample(people or names(split), facts), _sample_values(rng, split, facts), strict=True))
    words = {"a": attribute, "A": attribute.capitalize()}
    opening, separator = rng.choice(openings).format(**words), rng.choice((", ", "; "))
    text = f"{opening} {separator.join(f'{n} {v}' for n, v in told)}."
    return text, [(rng.choice(questions).format(n=n, **words), f"\nAnswer: {n}", v) for n, v in told]


def items(split: str, count: int, seed: int = 0) -> list[Item]:
    """`count` items of `split` ("train", "validation", "test"); the same for the same seed."""
    rng = random.Random(f"relay/{split}/{seed}")
    made = []
    for index in range(count):
        private, known = story(rng, split)
        question, cue, answer = rng.choice(known)
        made.append(Item(f"relay-{split}-{seed}-{index}", question, answer, private=private, cue=cue))
    return made
