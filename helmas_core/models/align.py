"""Which of the teacher's tokens stands for each of the student's, where the two cut a text with different tokenizers.

Each model reads a text in its own natural tokens. For a student token stands the teacher token that holds its last
character, since that one has read all of it. Characters are those of the text as it was given, whatever a normalizer
makes of it; tokens that end at one character, as the bytes of an emoji do, are counted from the last of them. Pure
functions on the offsets of fast tokenizers; no torch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from helmas_core.errors import DataError

Span = tuple[int, int]  # of characters, from the first up to the one after the last


@dataclass(frozen=True)
class Tokenised:
    """The characters of every token of a text, and those of the parts that both models are given, in order.

    What lies between the parts is the model's own: pieces of its chat template.
    """

    tokens: Sequence[Span]
    shared: Sequence[Span]


@dataclass(frozen=True)
class Alignment:
    """`places`: for every student token the teacher's. `open[i]`: what is told of the first i student tokens ends with
    them, so that what follows may be scored. `exact`, `split` and `merged` count the student's tokens of shared text
    that are one token of the teacher's, several, and part of one or none at all."""

    places: tuple[int, ...]
    open: tuple[bool, ...]
    exact: int = 0
    split: int = 0
    merged: int = 0


def align(teacher: Sequence[Span], student: Sequence[Span]) -> list[int]:
    """For every student token of a text the place of the teacher's: total, monotone, and the identity where both cut
    alike. A character that no teacher token holds belongs to the token before it. DataError without teacher tokens."""
    if student and not teacher:
        raise DataError("the teacher's tokenizer makes no token of this text", fix="leave it out")
    return _places(_rising(teacher), _rising(student))


def align_parts(teacher: Tokenised, student: Tokenised) -> Alignment:
    """Shared parts by their characters. In between, where the texts differ, a template piece's tokens are spread over
    the other's, first to first and last to last: what a model keeps of its very first token is like no other."""
    if student.tokens and not teacher.tokens:
        raise DataError("the teacher's tokenizer makes no token of this text", fix="leave it out")
    t, s = _rising(teacher.tokens), _rising(student.tokens)
    parts = _parts_of(t, teacher.shared), _parts_of(s, student.shared)
    places: list[int] = []
    ends, counts = [0] * len(t), Counter[str]()
    for part in range(2 * len(student.shared) + 1):
        theirs, ours = (range(bisect_left(of, part), bisect_right(of, part)) for of in parts)
        if part % 2 == 0:
            places += _spread(theirs, len(ours))
            before = student.shared[part // 2 - 1][1] if part else 0  # such a token tells nothing of what comes after
            ends[theirs.start : theirs.stop] = [before] * len(theirs)
            continue
        shift = student.shared[part // 2][0] - teacher.shared[part // 2][0]
        moved, cut = _shifted(t, shift), slice(ours.start, ours.stop)
        found = _places(moved, s[cut])
        places += found
        ends[theirs.start : theirs.stop] = [end for _, end in moved[theirs.start : theirs.stop]]
        counts.update(_kinds(_shifted(tiled(t), shift), tiled(s)[cut], found))
    places = list(accumulate(places, max))
    told = [ends[place] <= begin for place, (begin, _) in zip(places, tiled(s)[1:], strict=False)]
    return Alignment(tuple(places), (True, *told, True), **counts)


def shares(alignments: Iterable[Alignment]) -> dict[str, Any]:
    """How many of the student's tokens stand in shared text, and the shares of each kind among them."""
    kinds = ("exact", "split", "merged")
    counts = [sum(column) for column in zip(*((a.exact, a.split, a.merged) for a in alignments), strict=True)]
    total = sum(counts)
    return {"tokens": total, **{kind: round(n / max(1, total), 4) for kind, n in zip(kinds, counts, strict=True)}}


def tiled(tokens: Sequence[Span]) -> list[Span]:
    """Spans that leave no character out before a token: some tokenizers give a space to its word, others to none."""
    ends = [0, *(end for _, end in tokens)]
    return [(min(begin, before), end) for (begin, end), before in zip(tokens, ends, strict=False)]


def _rising(tokens: Sequence[Span]) -> list[Span]:
    """Spans whose ends never fall; a normalizer may change the order of marks."""
    ends = accumulate((end for _, end in tokens), max)
    return [(begin, end) for (begin, _), end in zip(tokens, ends, strict=True)]


def _shifted(tokens: Sequence[Span], by: int) -> list[Span]:
    return [(begin + by, end + by) for begin, end in tokens]


def _places(teacher: Sequence[Span], student: Sequence[Span]) -> list[int]:
    theirs, ours = [end for _, end in teacher], [end for _, end in student]
    return [_place(teacher, theirs, end, bisect_right(ours, end) - i) for i, end in enumerate(ours)]


def _place(teacher: Sequence[Span], ends: Sequence[int], end: int, from_last: int) -> int:
    """The token that holds the character before `end`; of several that end there the `from_last`-th from the last."""
    first, after = bisect_left(ends, end), bisect_right(ends, end)
    if first < after:
        return max(first, after - from_last)
    inside = first < len(ends) and teacher[first][0] < end
    return first if inside else max(0, first - 1)


def _kinds(teacher: Sequence[Span], student: Sequence[Span], places: Sequence[int]) -> list[str]:
    """Per student token "exact", "split" or "merged"."""
    theirs, ours = (Counter(end for _, end in spans) for spans in (teacher, student))

    def kind(place: int, span: Span) -> str:
        (begin, end), cut = teacher[place], (theirs[span[1]], ours[span[1]])
        if end != span[1] or begin < span[0] or cut[0] < cut[1]:
            return "merged"
        return "exact" if begin == span[0] and cut[0] == cut[1] else "split"

    return [kind(place, span) for place, span in zip(places, student, strict=True)]


def _spread(theirs: range, count: int) -> list[int]:
    """`count` places evenly over `theirs`, both ends included; the place before where there are none."""
    if not theirs:
        return [max(0, theirs.start - 1)] * count
    last = len(theirs) - 1
    return [theirs.start + (last if count == 1 else round(i * last / (count - 1))) for i in range(count)]


def _parts_of(tokens: Sequence[Span], shared: Sequence[Span]) -> list[int]:
    """For every token the part that its last character is in: 2 i + 1 for the i-th shared one, even numbers between."""
    bounds = [bound for span in shared for bound in span]
    return [bisect_left(bounds, end) for _, end in tokens]
