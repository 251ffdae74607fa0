"""Alignment across tokenizers: total, monotone, within bounds, by characters of the text, blind to what follows."""

from __future__ import annotations

import os
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helmas_core.errors import DataError
from helmas_core.models.align import Alignment, Span, Tokenised, align, align_parts, shares
from helmas_core.models.tokens import encode, offsets
from tests.foreign import TOKENIZERS, byte_level, unigram, word_piece

pytestmark = pytest.mark.unit
EXAMPLES = int(os.environ.get("HELMAS_ALIGN_EXAMPLES", "100"))
NASTY = [
    "👩‍👩‍👧",
    "👋🏽",
    "🇩🇪",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "你好",
    "世界",
    "日本語",
    "한국",
    "e\u0301",
    "a\u0323\u0308",
    "\u0301",
    "ﬁ",
    "Ⅷ",
    "½",
]
SPACES = [" ", "   ", "\t\t", "\n", "\n\n  \n", "\u00a0", "\u3000", "\r\n", "\u2028", "\u200b"]
CONTROL = ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\ufeff", "\u200d", "\ufffd", "<|end|>", "<s>", "[UNK]"]
WORDS = ["the", "seat", "numbers", "Kolor", "821", "copy-editor", "café", "naïve", "x", ".", ",", "42"]
pieces = st.one_of(
    st.sampled_from(NASTY), st.sampled_from(SPACES), st.sampled_from(CONTROL), st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)  # fmt: skip
texts = st.lists(pieces, max_size=12).map("".join)
BOTH = list(permutations(TOKENIZERS, 2))


def _spans(name: str, text: str) -> list[Span]:
    tokenizer = TOKENIZERS[name]()
    return offsets(tokenizer, text, len(encode(tokenizer, text)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(texts, st.sampled_from(BOTH))
def test_every_text_is_aligned_by_its_characters(text: str, both: tuple[str, str]) -> None:
    teacher, student = (_spans(name, text) for name in both)
    if student and not teacher:
        with pytest.raises(DataError, match="no token"):
            align(teacher, student)
        return
    places = align(teacher, student)
    assert len(places) == len(student)
    assert all(0 <= place < len(teacher) for place in places)
    assert all(one <= next for one, next in pairwise(places))
    for place, (_, end) in zip(places, student, strict=True):
        holding = [i for i, (begin, stop) in enumerate(teacher) if begin < end <= stop]
        assert not holding or place in holding  # looked up one by one, without a word of how it is done
    _unique_spans_meet(teacher, student, places)


def _unique_spans_meet(teacher: list[Span], student: list[Span], places: list[int]) -> None:
    """A token that both have, and that shares its characters with no other, is aligned with itself."""

    def alone(span: Span, spans: list[Span]) -> bool:
        return sum(begin < span[1] and span[0] < end for begin, end in spans) == 1 and span in spans

    for place, span in zip(places, student, strict=True):
        if alone(span, student) and alone(span, teacher):
            assert teacher[place] == span


@settings(max_examples=EXAMPLES, deadline=None)
@given(texts, st.sampled_from(list(TOKENIZERS)))
def test_what_is_cut_alike_is_aligned_with_itself(text: str, name: str) -> None:
    spans = _spans(name, text)
    assert align(spans, spans) == list(range(len(spans)))
    found = align_parts(*[Tokenised(spans, [(0, len(text))])] * 2) if spans else Alignment((), ())
    assert (found.exact, found.split, found.merged) == (len(spans), 0, 0)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(texts, min_size=5, max_size=5), st.lists(texts, min_size=3, max_size=3), st.sampled_from(BOTH))
def test_between_template_pieces_no_place_tells_of_what_follows(
    said: list[str], pieces: list[str], both: tuple[str, str]
) -> None:
    """Two shared texts, with other template pieces before, between and after them for either model."""
    sides = []
    for name, own in zip(both, (pieces, said[2:]), strict=True):
        text = own[0] + said[0] + own[1] + said[1] + own[2]
        first, second = len(own[0]), len(own[0] + said[0] + own[1])
        shared = [(first, first + len(said[0])), (second, second + len(said[1]))]
        sides.append((Tokenised(_spans(name, text), shared), text))
    (teacher, _), (student, _) = sides
    if not teacher.tokens:
        return
    found = align_parts(teacher, student)
    assert len(found.places) == len(student.tokens)
    assert all(0 <= place < len(teacher.tokens) for place in found.places)
    assert all(one <= next for one, next in pairwise(found.places))
    for count in (i for i in range(1, len(student.tokens)) if found.open[i]):
        seen = max(end for _, end in teacher.tokens[: found.places[count - 1] + 1])
        left = min(begin for begin, _ in student.tokens[count:])
        for theirs, ours in zip(teacher.shared, student.shared, strict=True):  # nothing said is heard before its time
            assert min(seen, theirs[1]) - theirs[0] <= max(0, min(left, ours[1]) - ours[0])


def test_bytes_of_one_character_are_counted_from_the_last() -> None:
    teacher, student = [(0, 2), (1, 2), (2, 5)], [(0, 1), (1, 2), (1, 2), (1, 2), (2, 5)]
    assert align(teacher, student) == [0, 0, 0, 1, 2]
    assert align(student, teacher) == [2, 3, 4]


def test_a_character_without_a_token_belongs_to_the_one_before() -> None:
    assert align([(0, 3), (6, 9)], [(0, 3), (3, 6), (6, 9)]) == [0, 0, 1]
    assert align([(2, 4)], [(0, 2), (2, 4)]) == [0, 0]


def test_exact_split_and_merged_tokens_are_told_apart() -> None:
    teacher = Tokenised([(0, 3), (3, 5), (5, 6), (6, 10)], [(0, 10)])
    student = Tokenised([(0, 3), (3, 6), (6, 8), (8, 10)], [(0, 10)])
    found = align_parts(teacher, student)
    assert found.places == (0, 2, 3, 3)
    assert (found.exact, found.split, found.merged) == (1, 1, 2)
    assert found.open == (True, True, True, False, True)
    assert shares([found, found]) == {"tokens": 8, "exact": 0.25, "split": 0.25, "merged": 0.5}


def test_template_pieces_are_spread_and_the_first_token_stands_for_the_first() -> None:
    teacher = Tokenised([(0, 1), (1, 2), (2, 3), (3, 6)], [(3, 6)])
    student = Tokenised([(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 13)], [(10, 13)])
    assert align_parts(teacher, student).places == (0, 0, 1, 2, 2, 3)
    assert align_parts(Tokenised([(0, 3)], [(0, 3)]), student).places == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("text", ["a 👩‍👩‍👧 b", "你好 世界", "cafe\u0301 naïve", "x\n\n\n  y"])
def test_the_tokenizers_of_these_tests_differ(text: str) -> None:
    cuts = [_spans(name, text) for name in TOKENIZERS]
    assert cuts[0] != cuts[1] != cuts[2] != cuts[0]
    assert len({t.backend_tokenizer.to_str() for t in (byte_level(), unigram(), word_piece())}) == 3
