"""`code`: constants and functions in a snippet; asked for is what one of them holds or returns."""

from __future__ import annotations

import random

from helmas_core.data.channels.told import Told, distinct, number, owned, phrased
from helmas_core.data.channels.words import NOUNS

PARTS = 4
_WORDS = ("limit", "size", "offset", "count", "level")
# the snippet and the question: {n} is a name in lower case, {N} in upper case, {C} capitalised, {v} the value
_FORMS = (
    (
        ("{N} = {v}", "What is the value of {N}?"),
        ("def {n}():\n    return {v}", "What does {n}() return?"),
        ('config["{n}"] = {v}', 'What is the value of config["{n}"]?'),
        ("def add_{n}(x):\n    return x + {v}", "What does add_{n}(0) return?"),
    ),
    (
        ("class {C}:\n    value = {v}", "What is {C}.value?"),
        ("{n} = lambda: {v}", "What does {n}() return?"),
        ("const {n} = {v};", "What is the value of the constant {n}?"),
    ),
)


def _name(rng: random.Random, split: str) -> str:
    return owned(rng, split, lambda r: f"{r.choice(NOUNS)}_{r.choice(_WORDS)}")


def code(rng: random.Random, split: str) -> Told:
    names = distinct(PARTS, lambda: _name(rng, split))
    values = distinct(PARTS, lambda: number(rng, split, rng.randint(2, 4)))
    told = []
    for name, value in zip(names, values, strict=True):
        snippet, question = rng.choice(phrased(_FORMS, split))
        words = {"n": name, "N": name.upper(), "C": name.title().replace("_", ""), "v": value}
        told.append((snippet.format(**words), question.format(**words), value))
    _, question, answer = rng.choice(told)
    return Told(tuple(snippet for snippet, _, _ in told), question, answer, joint="\n", filler="# {}")
