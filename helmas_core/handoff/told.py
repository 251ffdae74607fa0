"""What a teacher reads in a source's place: the same ids, or its own and which of them each student token is.

The only place where a teacher's state is brought to the student's tokens: bridges, arms and losses know no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from helmas_core.errors import DataError
from helmas_core.models.align import Alignment, Span, Tokenised, align_parts
from helmas_core.models.cache import KVCache, positions_of
from helmas_core.models.pair import Member, Pair
from helmas_core.models.tokens import offsets, pad_left

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Aligned:
    """`ids` are the teacher's; `places` say for every student token which of them stands for it."""

    ids: Ids
    places: Ids

    def __add__(self, after: Aligned) -> Aligned:
        ids = self.ids + after.ids
        moved = (min(place + len(self.ids), len(ids) - 1) for place in after.places)
        return Aligned(ids, (*self.places, *moved))

    def first(self, length: int) -> Aligned:
        """Up to the student's first `length` tokens."""
        places = self.places[:length]
        return Aligned(self.ids[: places[-1] + 1] if places else (), places)


One = Ids | Aligned  # what one teacher reads


@dataclass(frozen=True)
class Each:
    """What several teachers read where they do not all read the same: one of the `parts` each."""

    parts: tuple[One, ...]


Told = One | Each


class Written(NamedTuple):
    """A text with its ids in one of the tokenizers, and the characters that both models are given."""

    text: str
    ids: Sequence[int]
    shared: Sequence[Span]


def told_to(told: Told, place: int) -> One:
    """What the teacher in that place reads, the first one in 0."""
    return told.parts[place] if isinstance(told, Each) else told


def told_each(parts: Iterable[One]) -> Told:
    """What the teachers read, one after the other, as one."""
    parts = tuple(parts)
    return parts[0] if len(set(parts)) == 1 else Each(parts)


def ids_of(told: One) -> Ids:
    """What the teacher's model is given."""
    return told.ids if isinstance(told, Aligned) else told


def fit(told: Told, length: int) -> Told:
    """`told` cut or repeated to `length` student tokens."""
    if isinstance(told, Each):
        return Each(tuple(_fit(part, length) for part in told.parts))
    return _fit(told, length)


def _fit(told: One, length: int) -> One:
    if not isinstance(told, Aligned):
        return (told * (length // max(1, len(told)) + 1))[:length]
    whole = told
    while len(whole.places) < length:
        whole = whole + told
    return whole.first(length)


def alignment_of(pair: Pair, teacher: Written, student: Written) -> Alignment:
    """How the teacher's ids stand for the student's; DataError where what both are given differs."""
    parts = [[side.text[begin:end] for begin, end in side.shared] for side in (teacher, student)]
    if parts[0] != parts[1]:
        raise DataError("the two chat templates give the models different texts", where="data.chat_template")
    both = (pair.as_teacher, teacher), (pair, student)
    cut = [Tokenised(offsets(view.tokenizer, w.text, len(w.ids)), w.shared) for view, w in both]
    return align_parts(*cut)


def tell(pair: Pair, teacher: Written, student: Written) -> One:
    """What the teacher reads for the student's text."""
    if pair.codec is None:
        return tuple(student.ids)
    if not teacher.ids:  # where it has no template, the first token of what comes after stands for all
        return Aligned((), (0,) * len(student.ids))
    return Aligned(tuple(teacher.ids), alignment_of(pair, teacher, student).places)


def joined(first: Told, second: Told) -> Told:
    """The one and then the other."""
    several = [told for told in (first, second) if isinstance(told, Each)]
    if several:
        places = range(len(several[0].parts))
        return Each(tuple(join_one(told_to(first, place), told_to(second, place)) for place in places))
    return join_one(told_to(first, 0), told_to(second, 0))


def join_one(first: One, second: One) -> One:
    """The same for one teacher."""
    if isinstance(first, Aligned) and isinstance(second, Aligned):
        return first + second
    return (*ids_of(first), *ids_of(second))


def over_student(state: KVCache, member: Member, told: Sequence[One]) -> KVCache:
    """The teacher's cache of `told` as one over the student's tokens: its `places` picked, its RoPE taken off, under
    the student's mask and at its positions. Latent steps after what was read follow as they are. What was told in the
    student's own ids is such a cache already."""
    aligned = [one for one in told if isinstance(one, Aligned)]
    if not aligned:
        return state
    rows = [[*one.places, *range(len(one.ids), len(one.ids) + member.latent_steps)] for one in aligned]
    places, mask = pad_left(rows, 0, state.mask.device)
    begins = state.length - state.mask.sum(1, keepdim=True)
    plain = member.rope.unrotate(state.picked((places + begins) * mask))
    return replace(plain, mask=mask.bool(), positions=positions_of(mask), ids=None)
