"""Which items are the same question in other dress: hashes of normalised text, small enough to travel with a bridge.

Two items are the same if private text, question and choices are, whatever their case, accents, spacing, punctuation,
the order of the choices, the data set and the answer. Rewordings are not found.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from helmas_core.data.item import Item
from helmas_core.errors import DataError

WIDTH = 16  # hex digits of a 64-bit hash
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_APART = re.compile(r"(?<=\d)[\s,;]+(?=\d)")  # 1 23 is not 12 3
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# what tells 1+2 from 12: operators, a point inside a number, a minus or a slash that touches one
_KEPT = re.compile(r"\d\.\d|[+*^=<>%\x00]|(?<=\d)\s*[-/]|[-/](?=\s*\d)")


def normalise(text: str) -> str:
    """Letters and digits alone, case and accents folded (NFKD), with the signs that make arithmetic what it is."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    plain = _APART.sub("\x00", _THOUSANDS.sub("", _DASHES.sub("-", plain)))
    kept = {place for match in _KEPT.finditer(plain) for place in range(*match.span())}
    return "".join(char for place, char in enumerate(plain) if char.isalnum() or (place in kept and not char.isspace()))


def item_hash(item: Item) -> str:
    """The 64-bit hash, in hex, of what an item tells and asks."""
    parts = [normalise(f"{item.private} {item.question}"), *sorted(map(normalise, item.choices))]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=WIDTH // 2).hexdigest()


def pack_hashes(items: Iterable[Item]) -> str:
    """The hashes of `items`, sorted, each once, joined without a gap."""
    return "".join(sorted({item_hash(item) for item in items}))


def unpack_hashes(packed: str) -> frozenset[str]:
    """The set that `pack_hashes` was made of. DataError for text that it cannot have made."""
    if len(packed) % WIDTH or not re.fullmatch(r"[0-9a-f]*", packed):
        raise DataError("hashes of training items are damaged", where="training.hashes", fix="train the bridge again")
    return frozenset(packed[i : i + WIDTH] for i in range(0, len(packed), WIDTH))


def join_hashes(*packed: str) -> str:
    """What `pack_hashes` would make of all items together."""
    return "".join(sorted(frozenset().union(*map(unpack_hashes, packed))))


def overlapping(items: Sequence[Item], known: frozenset[str]) -> list[str]:
    """The ids of those of `items` whose hash is `known`."""
    return [item.id for item in items if item_hash(item) in known]


def shared(ours: Sequence[Item], theirs: Sequence[Item]) -> list[tuple[str, str]]:
    """(our id, their id) of every item of `ours` that `theirs` holds too."""
    found = {item_hash(item): item.id for item in reversed(theirs)}
    return [(item.id, found[key]) for item in ours if (key := item_hash(item)) in found]
