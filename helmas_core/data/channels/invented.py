"""`invented`: names that nobody has, put together from the syllables of many spellings, to be spelt exactly.

A list of names is soon known by heart. These are new in every item, so that a bridge learns to pass on whatever pieces
of words a tokenizer makes of them.
"""

from __future__ import annotations

import random

from helmas_core.data.channels.told import Told, distinct, owned, part, phrased, tell
from helmas_core.data.channels.words import NOUNS, listed

NAMES = 3
_ONSETS = listed(
    "b bh br c ch cz d dh dr dz đ f fi g gh gl gr h hj j jó k kh kl kr kw l ll lj m mb mc mk n nd ng nj nw ñ p pr ps "
    "qu r rh ř s sc sh sk ş sł str sv sz š t th tj tl tr ts tz þ v vl w wr x y z zh zs ž ż"
)
_NUCLEI = listed("a aa ae ai ao aoi au á ä ã å e ea ei eo é è ë ę i ia ie io í î ï o oa oe oi ó ö ø u ua ui ú ü y ý")
_CODAS = listed("b ch ck d dh dt f g gh k l lj ll m mh n nd ng nn ns p r rd rg rn rsk s sh ss st sz t tz v x z ż")
_FORMS = (
    (
        ("{v} is written on the {n}.", "What is written on the {n}?"),
        ("Engraved in the {n} was the name {v}.", "Which name was engraved in the {n}?"),
        ("They called the {n} {v}.", "What did they call the {n}?"),
        ("On the label of the {n}: {v}.", "What is on the label of the {n}?"),
    ),
    (
        ("The {n} bears the mark {v}.", "Which mark does the {n} bear?"),
        ("{v} was spelt out on the {n}.", "What was spelt out on the {n}?"),
    ),
)


def invented(rng: random.Random, split: str) -> Told:
    form = rng.choice(phrased(_FORMS, split))
    names = distinct(NAMES, lambda: owned(rng, split, _name))
    return tell(rng, form, list(zip(rng.sample(part(NOUNS, split), NAMES), names, strict=True)))


def _name(rng: random.Random) -> str:
    """One or two words of one to three syllables, now and then joined by a hyphen."""
    words = [_word(rng) for _ in range(rng.choice((1, 2, 2)))]
    return rng.choice((" ", " ", " ", "-")).join(words)


def _word(rng: random.Random) -> str:
    """Up to three syllables, half of them with a plain vowel, and half of them open."""
    word = "".join(_syllable(rng) for _ in range(rng.choice((1, 2, 2, 3))))
    return word[:1].upper() + word[1:]


def _syllable(rng: random.Random) -> str:
    nucleus = rng.choice(_NUCLEI if rng.random() < 0.5 else "aeiou")
    return rng.choice(_ONSETS) + nucleus + (rng.choice(_CODAS) if rng.random() < 0.5 else "")
