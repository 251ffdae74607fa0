"""Planted duplicates are found whatever they wear; other sums are other items."""

from __future__ import annotations

import pytest

from helmas_core.data.item import Item
from helmas_core.data.overlap import item_hash, normalise, overlapping, pack_hashes, shared, unpack_hashes
from helmas_core.errors import DataError

pytestmark = pytest.mark.unit
PLAIN = Item("a", "Zoë sells 1,200 well-made pots. How many are left?", "3")


@pytest.mark.parametrize(
    "question",
    [
        "ZOË SELLS 1,200 WELL-MADE POTS. HOW MANY ARE LEFT?",
        "  Zoë  sells 1,200\nwell-made pots. How many are left ?",
        "Zoe sells 1200 well made pots; how many are left",
        "Zoe\u0308 sells １２００ well\u2013made pots… How many are left?!",
    ],
)
def test_planted_duplicates_are_found(question: str) -> None:
    known = unpack_hashes(pack_hashes([PLAIN, Item("z", "Something else", "1")]))
    assert overlapping([Item("b", question, "another answer"), Item("c", "New.", "3")], known) == ["b"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("1+2", "1-2"),
        ("1+2", "12"),
        ("1.5 m", "15 m"),
        ("6/3", "6*3"),
        ("x = -4", "x = 4"),
        ("1 23", "12 3"),
        ("1, 23", "12, 3"),
    ],
)
def test_other_sums_are_other_items(ours: str, theirs: str) -> None:
    assert normalise(ours) != normalise(theirs)


def test_choices_and_private_text_count() -> None:
    asked = [Item("1", "Which?", "A", choices=("x", "y")), Item("2", "which", "B", choices=("Y.", "X"))]
    assert item_hash(asked[0]) == item_hash(asked[1])
    assert item_hash(asked[0]) != item_hash(Item("3", "Which?", "A", choices=("x", "z")))
    assert item_hash(asked[0]) != item_hash(Item("4", "Which?", "A", private="Told.", choices=("x", "y")))
    assert shared(asked[:1], asked[1:]) == [("1", "2")]


def test_damaged_hashes_are_refused() -> None:
    with pytest.raises(DataError, match="damaged"):
        unpack_hashes("abc")
