"""Texts that grow: what a model or a bridge made of the last one is kept, and only what is new is read.

A conversation is rendered whole every turn. Its ids mostly begin as they did a turn before; where a chat template
writes earlier turns anew, or a turn was taken back, reading goes on from the last id that both have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from helmas_core.bridges.base import Bridge
from helmas_core.handoff.told import Told, ids_of, over_student, told_to
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.hardware import clock
from helmas_core.models.joint import together
from helmas_core.models.pair import Member, Pair
from helmas_core.models.tokens import pad_left

PROBE = 16  # tokens: enough to see a token's neighbours, or its place in the text, change what a bridge makes of it
_TOLERANCE = 1e-3  # of the largest value: sums in another order differ by far less, another token's share by far more


@dataclass(frozen=True)
class _Kept:
    ids: tuple[int, ...]
    cache: KVCache


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids both begin with."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False)))


class _Growing:
    """Keeps the cache of the last text."""

    _kept: _Kept | None = None

    @property
    def bytes(self) -> int:
        return 0 if self._kept is None else self._kept.cache.bytes

    def forget(self) -> None:
        self._kept = None

    def _beginning(self, ids: Sequence[int]) -> tuple[int, KVCache | None]:
        """How many of `ids` the last text begins with too, and the cache of those; (0, None) where it is none."""
        known = 0 if self._kept is None else common_length(self._kept.ids, ids)
        return known, None if self._kept is None or known == 0 else self._kept.cache.tokens(0, known)


class Reader(_Growing):
    """One model and the cache of the last ids that it read. `new` counts those that it had to read for them; `hidden`
    are the hidden states that are kept with them."""

    def __init__(self, member: Member, pad: int, hidden: Sequence[int] = ()) -> None:
        self.member, self.pad, self.hidden, self.new = member, pad, hidden, 0

    def read(self, ids: Sequence[int]) -> KVCache:
        """The model's cache over `ids`, at least one, batch 1."""
        known, past = self._beginning(ids)
        self.new = len(ids) - known
        if past is None or self.new:
            added = pad_left([ids[known:]], self.pad, self.member.device)
            past = capture(self.member.model, *added, self.hidden, past)
        self._kept = _Kept(tuple(ids), past)  # one assignment: an interrupted reading leaves the old text whole
        return past

    def think(self, ids: Sequence[int]) -> KVCache:
        """What the model keeps of `ids` and of its latent steps after them, which come anew for every text."""
        if not self.member.latent_steps:
            return self.read(ids)
        self.new = len(ids)
        return self.member.read(*pad_left([ids], self.pad, self.member.device), self.hidden)


class BridgedReader(_Growing):
    """Teachers, bridge and, in mode "fuse", the student's own reading: the student's cache over a growing text.

    A bridge that makes of every token what it makes of it alone is given the new ones only. Whether it does is
    measured on the first text; one that does not is run over the whole text, and `notify` hears of it. A teacher with
    a tokenizer of its own reads on too, but which of its tokens stands for one of the student's may change with what is
    added, and all is bridged again. `state` is what the teachers keep of the last text, over the student's tokens.
    """

    def __init__(
        self, pair: Pair, bridge: Bridge, teachers: Sequence[Reader], student: Reader, notify: Callable[[str], None]
    ) -> None:
        self.pair, self.bridge, self.teachers, self.student = pair, bridge, teachers, student
        self.notify, self.seconds, self.bridged = notify, dict[str, float](), 0
        whole = bridge.stays_open or not bridge.aligned or bool(pair.teacher.latent_steps) or not pair.one_tokenizer
        self.pointwise: bool | None = False if whole else None
        self.state: KVCache

    @torch.no_grad()
    def read(self, ids: Sequence[int], told: Told | None = None) -> KVCache:
        """The bridged cache over `ids`, for which the teachers are `told` something else where they have another
        tokenizer; `seconds` and `bridged` then tell what it took and how many ids were new."""
        begin, told = clock(self.pair.device), tuple(ids) if told is None else told
        heard = [(teacher, told_to(told, place)) for place, teacher in enumerate(self.teachers)]
        self.state = state = together([over_student(r.think(ids_of(one)), r.member, [one]) for r, one in heard])
        read = clock(self.pair.device)
        own = self.student.read(ids) if self.bridge.mode == "fuse" else None
        start = clock(self.pair.device)
        cache = self._translate(ids, state, own)
        self.seconds = {"teacher reads": read - begin, "bridge": clock(self.pair.device) - start}
        self._kept = _Kept(tuple(ids), cache)
        return cache

    def _translate(self, ids: Sequence[int], state: KVCache, own: KVCache | None) -> KVCache:
        if self.pointwise is None and state.length > 1:
            self.pointwise = is_pointwise(self.bridge, state, own)
            if not self.pointwise:
                self.notify("this bridge makes of a token what its neighbours say: each turn is bridged as a whole")
        known, past = self._beginning(ids) if self.pointwise else (0, None)
        self.bridged = len(ids) - known
        if past is None:
            return self.bridge(state, own)
        return past if not self.bridged else past.append(_part(self.bridge, state, own, known, state.length))


def _part(bridge: Bridge, state: KVCache, own: KVCache | None, begin: int, end: int) -> KVCache:
    return bridge(state.tokens(begin, end), own and own.tokens(begin, end))


def is_pointwise(bridge: Bridge, state: KVCache, own: KVCache | None) -> bool:
    """Whether the first tokens of `state` come out the same bridged in two parts as bridged together."""
    end = min(state.length, PROBE)
    whole = _part(bridge, state, own, 0, end)
    parts = _part(bridge, state, own, 0, end // 2).append(_part(bridge, state, own, end // 2, end))
    pairs = zip((*whole.keys, *whole.values), (*parts.keys, *parts.values), strict=True)
    return all(bool((a - b).abs().amax() <= _TOLERANCE * a.abs().amax()) for a, b in pairs)
