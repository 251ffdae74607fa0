"""`copy`: a phrase to be said again; all filler stands between the phrase and the question."""

from __future__ import annotations

import random

from helmas_core.data.channels.told import Told, part, phrased
from helmas_core.data.channels.words import NOUNS

LENGTHS = (3, 4, 5, 6)  # of a phrase, in words
_FORMS = (
    (
        ("Remember these words: {v}.", "Which words were to be remembered?"),
        ("The line to keep in mind is: {v}.", "Which line was to be kept in mind?"),
        ("Someone called out: {v}.", "What did someone call out?"),
    ),
    (
        ("On the wall it said: {v}.", "What did it say on the wall?"),
        ("The first message was: {v}.", "What was the first message?"),
    ),
)


def copy(rng: random.Random, split: str) -> Told:
    """A few nouns in no order that a model could guess."""
    phrase = " ".join(rng.sample(part(NOUNS, split), rng.choice(LENGTHS)))
    sentence, question = rng.choice(phrased(_FORMS, split))
    return Told((sentence.format(v=phrase),), question, phrase, f"{len(phrase.split())}-words", apart=True)
