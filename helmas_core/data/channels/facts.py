"""`facts`: four private facts in plain sentences; both the person and the matter are needed to find the answer.

In test the sentences, names and values are new, and so are two sorts of value: codes and times of day.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from helmas_core.data.channels.told import Form, Told, number, owned, part, phrased
from helmas_core.data.channels.words import MONTHS, NAMES, NOUNS, PLACES

_SIGNS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True)
class Kind:
    """A sort of value, and its phrasings: those to learn from, then those of test."""

    value: Callable[[random.Random, str], str]
    forms: tuple[tuple[Form, ...], tuple[Form, ...]]


def _date(rng: random.Random, split: str) -> str:
    return owned(rng, split, lambda r: f"{r.randint(1, 28)} {r.choice(MONTHS)}")


def _code(rng: random.Random, split: str) -> str:
    return owned(rng, split, lambda r: "".join(r.choices(_SIGNS, k=3)) + "-" + "".join(r.choices(_SIGNS, k=2)))


def _time(rng: random.Random, split: str) -> str:
    return owned(rng, split, lambda r: f"{r.randint(6, 22)}:{r.randrange(60):02}")


KINDS = {
    "number": Kind(
        lambda rng, split: number(rng, split, rng.randint(2, 4)),
        (
            (
                ("{n}'s locker has the number {v}.", "Which number does {n}'s locker have?"),
                ("At the gate {n} was given badge {v}.", "Which badge was {n} given?"),
                ("{n} counted {v} steps on the way up.", "How many steps did {n} count?"),
                ("The parcel for {n} weighs {v} grams.", "How many grams does the parcel for {n} weigh?"),
            ),
            (
                ("In the raffle, ticket {v} went to {n}.", "Which raffle ticket went to {n}?"),
                ("{n} takes bus {v} every morning.", "Which bus does {n} take?"),
            ),
        ),
    ),
    "word": Kind(
        lambda rng, split: rng.choice(part(NOUNS, split)),
        (
            (
                ("{n} chose the password {v}.", "Which password did {n} choose?"),
                ("The boat that belongs to {n} is called {v}.", "What is {n}'s boat called?"),
                ("One word stood on the note from {n}: {v}.", "Which word stood on the note from {n}?"),
                ("{n} keeps the spare key under the {v}.", "What does {n} keep the spare key under?"),
            ),
            (
                ("For the team, {n} picked the name {v}.", "Which name did {n} pick for the team?"),
                ("Asked for the secret sign, {n} whispered {v}.", "What did {n} whisper?"),
            ),
        ),
    ),
    "date": Kind(
        _date,
        (
            (
                ("{n} was born on {v}.", "On which day was {n} born?"),
                ("The lease of {n} ends on {v}.", "On which day does the lease of {n} end?"),
                ("{n} will see the doctor on {v}.", "On which day will {n} see the doctor?"),
            ),
            (
                ("{v} is the day on which {n} moves out.", "On which day does {n} move out?"),
                ("{n} has booked the hall for {v}.", "For which day has {n} booked the hall?"),
            ),
        ),
    ),
    "place": Kind(
        lambda rng, split: rng.choice(part(PLACES, split)),
        (
            (
                ("{n} grew up in {v}.", "Where did {n} grow up?"),
                ("The train that {n} took went to {v}.", "Where did the train that {n} took go?"),
                ("{n} has rented a flat in {v}.", "Where has {n} rented a flat?"),
            ),
            (
                ("Since last year {n} has been teaching in {v}.", "Where has {n} been teaching?"),
                ("{v} is where {n} left the car.", "Where did {n} leave the car?"),
            ),
        ),
    ),
    "code": Kind(
        _code,
        (
            (),
            (
                ("The door opens for {n} with the code {v}.", "With which code does the door open for {n}?"),
                ("{n}'s booking is filed under {v}.", "What is {n}'s booking filed under?"),
            ),
        ),
    ),
    "time": Kind(
        _time,
        (
            (),
            (
                ("{n}'s flight leaves at {v}.", "At what time does {n}'s flight leave?"),
                ("The alarm of {n} is set for {v}.", "For what time is the alarm of {n} set?"),
            ),
        ),
    ),
}


def facts(rng: random.Random, split: str) -> Told:
    """Two matters, each told of two people."""
    matters = [(name, form) for name, kind in KINDS.items() for form in phrased(kind.forms, split)]
    chosen = [matter for matter in rng.sample(matters, 2) for _ in range(2)]
    people = rng.sample(part(NAMES, split), len(chosen))
    values: list[str] = []
    while len(set(values)) < len(chosen):
        values = [KINDS[name].value(rng, split) for name, _ in chosen]
    told = list(zip(chosen, people, values, strict=True))
    (kind, (_, question)), person, answer = rng.choice(told)
    rng.shuffle(told)
    sentences = tuple(form[0].format(n=n, v=v) for (_, form), n, v in told)
    return Told(sentences, question.format(n=person), answer, kind)
