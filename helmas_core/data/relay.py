"""`relay`: the teacher reads private facts, the student is only asked about one of them.

Names, values and phrasings are split between train and test, so a bridge that passes has carried content
and not memorised it.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import product

from helmas_core.data.item import Item, pool

FACTS = 4
ATTRIBUTES = (
    "locker code",
    "badge number",
    "room number",
    "bus line",
    "seat number",
    "ticket number",
    "door code",
    "shelf number",
)
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeio"]
_ENDINGS = ("ra", "na", "la", "mi", "to", "ken", "lor", "mar", "nes", "rin", "sol", "tas", "vik")
_TRAIN_FACTS = (
    "The {a} of {n} is {v}.",
    "{n}'s {a} is {v}.",
    "{n} has {a} {v}.",
    "For {n}, the {a} is {v}.",
    "{n} was given {a} {v}.",
    "Note that {n} has the {a} {v}.",
    "We gave {n} the {a} {v}.",
    "{v} is the {a} of {n}.",
    "The {a} {v} belongs to {n}.",
)
_TEST_FACTS = (
    "The {a} given to {n} is {v}.",
    "{n} has the {a} {v}.",
    "Note that {n}'s {a} is {v}.",
    "{v} is {n}'s {a}.",
)
_TRAIN_QUESTIONS = (
    "What is the {a} of {n}?",
    "What is {n}'s {a}?",
    "Which {a} does {n} have?",
    "Which is the {a} of {n}?",
)
_TEST_QUESTIONS = (
    "Which {a} was given to {n}?",
    "What {a} does {n} have?",
)


@cache
def _names(split: str) -> tuple[str, ...]:
    spelled = ("".join(parts).capitalize() for parts in product(_SYLLABLES, _SYLLABLES, _ENDINGS))
    return tuple(name for name in spelled if pool(name) == split)


@cache
def _values(split: str) -> tuple[str, ...]:
    return tuple(str(v) for v in range(100, 1000) if pool(str(v)) == split)


def _facts(rng: random.Random, split: str, count: int) -> list[tuple[str, str, str]]:
    names = rng.sample(_names(split), count)
    values = rng.sample(_values(split), count)
    return [(name, rng.choice(ATTRIBUTES), value) for name, value in zip(names, values, strict=True)]


def story(rng: random.Random, split: str, facts: int = FACTS, questions: int = 1) -> tuple[str, list[tuple[str, str]]]:
    """A text of `facts` private facts and `questions` (question, answer) pairs about distinct ones."""
    told = _facts(rng, split, facts)
    fact_forms, question_forms = (_TEST_FACTS, _TEST_QUESTIONS) if split == "test" else (_TRAIN_FACTS, _TRAIN_QUESTIONS)
    text = " ".join(rng.choice(fact_forms).format(n=n, a=a, v=v) for n, a, v in told)
    asked = rng.sample(told, questions)
    return text, [(rng.choice(question_forms).format(n=n, a=a), v) for n, a, v in asked]


def items(split: str, count: int, seed: int = 0) -> list[Item]:
    """`count` distinct items of `split` ("train", "validation", "test"); the same for the same seed."""
    rng = random.Random(f"relay/{split}/{seed}")
    made = []
    for index in range(count):
        private, [(question, answer)] = story(rng, split)
        made.append(Item(f"relay-{split}-{seed}-{index}", question, answer, private=private))
    return made
