"""Several teachers: each has a bridge of its own, and the student's cache is the gated sum of what they make.

The bridges are of one method with the same options; weights, statistics and the closed-form start are each one's own.
Gates are a softmax over the teachers, for every student layer, keys and values apart, and equal when training begins.
Shapes: N teachers, B batch, L layers, H KV heads, T tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from helmas_core.bridges.base import Bridge, KeysValues
from helmas_core.errors import CacheError
from helmas_core.models.adapter import StudentCopy, StudentLora
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Pair

Read = tuple[KVCache, KVCache]


class Ensemble(Bridge):
    """A bridge over what several teachers keep of the same tokens, a `JointCache`.

    What of the student is trained along belongs to the first teacher's bridge.
    """

    def __init__(self, bridges: Sequence[Bridge]) -> None:
        first = bridges[0]
        super().__init__(first.teacher_geometry, first.student_geometry, first.mode, first.options)
        self.losses, self.aligned = first.losses, first.aligned
        self.bridges = nn.ModuleList(bridges)
        self.gates = nn.Parameter(torch.zeros(len(bridges), 2, first.student_geometry.layers))

    @property
    def by_teacher(self) -> Sequence[Bridge]:
        return tuple(self.bridges)  # type: ignore[return-value]

    @property
    def trained_student(self) -> StudentLora | StudentCopy | None:
        return self.by_teacher[0].trained_student

    def attach(self, pair: Pair) -> Bridge:
        for bridge, view in zip(self.by_teacher, pair.views, strict=True):
            bridge.attach(view)
        return super().attach(pair)

    def shares(self) -> Tensor:
        """[N, 2, Ls]: what of the student's keys and of its values comes from each teacher; they add up to 1."""
        return self.gates.softmax(0)

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        made = [bridge(heard, own) for bridge, heard in self._heard(state)]
        keys, values = self._mixed([cache.stacked() for cache in made])
        return replace(made[0], keys=keys.unbind(1), values=values.unbind(1))

    def standard_form(self, own: KVCache) -> KeysValues:
        return self.by_teacher[0].standard_form(own)

    def translated(self, state: KVCache, own: KVCache) -> KeysValues:
        return self._mixed([bridge.translated(heard, own) for bridge, heard in self._heard(state)])

    def fit(self, batches: Sequence[Read]) -> dict[str, Any]:
        """Each bridge as if it were the only one; the first one's figures, and the others' under `more_teachers`."""
        figures, *more = (bridge.fit(_Told(batches, place)) for place, bridge in enumerate(self.by_teacher))
        return {**figures, "more_teachers": more}

    def anneal(self, share: float) -> None:
        for bridge in self.by_teacher:
            bridge.anneal(share)

    def diagnostics(self) -> dict[str, Any]:
        """`teachers` [2, Ls, N] are the gates; `blend` is over all teachers' layers, side by side, and `gate` the mean
        of the bridges' own, each teacher's with its share."""
        shares = self.shares().detach()
        found = [bridge.diagnostics() for bridge in self.by_teacher]
        blend, gate = (_weighted(shares, [one.get(name) for one in found]) for name in ("blend", "gate"))
        return {
            "blend": None if blend is None else torch.cat(blend, 2),
            "gate": None if gate is None else torch.stack(gate).sum(0),
            "teachers": shares.permute(1, 2, 0),
        }

    def _heard(self, state: KVCache) -> list[tuple[Bridge, KVCache]]:
        """Each bridge with what its teacher keeps."""
        if len(state.by_teacher) != len(self.bridges):
            what = f"{len(state.by_teacher)} teachers have read, and the bridge is for {len(self.bridges)}"
            raise CacheError(what, fix="read with all of the pair's teachers")
        return list(zip(self.by_teacher, state.by_teacher, strict=True))

    def _mixed(self, parts: Sequence[KeysValues]) -> KeysValues:
        """The gated sum of keys and of values, [B, Ls, Hs, T, Ds] each."""
        keys, values = self.shares()[:, :, None, :, None, None, None].unbind(1)
        return _sum(keys, [part[0] for part in parts]), _sum(values, [part[1] for part in parts])


class _Told(Sequence[Read]):
    """Of batches that several teachers have read, what one of them keeps."""

    def __init__(self, batches: Sequence[Read], place: int) -> None:
        self.batches, self.place = batches, place

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        state, own = self.batches[index]
        return state.by_teacher[self.place], own


def _sum(shares: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)


def _weighted(shares: Tensor, found: Sequence[Tensor | None]) -> list[Tensor] | None:
    """[2, Ls, …] of each teacher times its share; None for what the method does not have."""
    known = [one for one in found if one is not None]
    return [share[..., None] * one for share, one in zip(shares, known, strict=True)] if known else None
