"""Neutral sentences that tell nothing: no names, no numbers, and no word that is ever an answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helmas_core.data.channels.words import listed

TOKENS_PER_WORD = 1.2  # of plain English under the tokenizers of today's models
_ADJECTIVES = listed("old quiet narrow heavy pale broken slow empty wide dusty cold gentle plain distant crooked warm")
_NOUNS = listed(
    "ferry gardener bell cart fence stranger lamp kitten wagon shutter visitor mirror barrel shepherd door coat "
    "ladder clerk crowd stove curtain horse bench wind"
)
_VERBS = (
    "waited",
    "stood",
    "leaned",
    "rested",
    "was seen",
    "was left",
    "stayed",
    "was mended",
    "moved a little",
    "was painted again",
    "went unnoticed",
    "could be heard",
)
_WHERE = (
    "beside the hedge",
    "near the water",
    "in the back room",
    "until the evening",
    "before the rain came",
    "at the end of the lane",
    "behind the shop",
    "for most of the day",
    "under a grey sky",
    "without any reason",
    "while others were talking",
    "as it always had",
    "on the far side of the yard",
    "after the music stopped",
    "by the open window",
    "and nobody spoke of it",
)


def sentences(rng: random.Random) -> Iterator[str]:
    """Filler without end."""
    while True:
        yield f"The {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} {rng.choice(_WHERE)}."


def fill(rng: random.Random, tokens: float, form: str = "{}") -> list[str]:
    """Sentences of about `tokens` tokens together, each put into `form`; none for 0 or less."""
    found: list[str] = []
    for sentence in map(form.format, sentences(rng)):
        if tokens <= 0:
            break
        found.append(sentence)
        tokens -= TOKENS_PER_WORD * len(sentence.split())
    return found
