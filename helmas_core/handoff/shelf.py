"""One model's part of the store: the states of the sources that it has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from helmas_core.config import TrainConfig
from helmas_core.handoff import packing
from helmas_core.handoff.keys import digest, producer
from helmas_core.handoff.packing import Form
from helmas_core.handoff.store import FORMAT, Store
from helmas_core.handoff.told import Ids
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Member, Pair
from helmas_core.progress import Progress


class Shelf:
    """States by token ids, a row without padding each, [1, H, T, D] per layer, on the CPU in the model's dtype.

    Rows with hidden states are kept apart from rows without: what no method asks for takes no room.
    """

    def __init__(self, store: Store, pair: Pair, member: Member, form: Form, hidden: Sequence[int] = ()) -> None:
        self.store, self.member, self.hidden = store, member, tuple(hidden)
        self.form: Form = form
        self.name = digest(FORMAT, producer(pair, member), form, *([self.hidden] if hidden else []), *self._thought())

    def __contains__(self, ids: Ids) -> bool:
        geometry = self.member.geometry
        places = len(ids) + self.member.latent_steps
        shape = (geometry.layers, geometry.kv_heads, places, geometry.head_dim)
        hidden = (len(self.hidden), 1, places, geometry.hidden_size) if self.hidden else ()
        return self.store.layout(self._key(ids)) == packing.layout(shape, self.member.model.dtype, self.form, hidden)

    def read(self, ids: Ids) -> KVCache | None:
        entry = self.store.get(self._key(ids)) if ids in self else None
        return None if entry is None else self._unpack(ids, entry)

    def write(self, sources: Sequence[Ids], rows: Sequence[KVCache]) -> list[KVCache]:
        """Keep `rows`, and return them as they will be read again, whether or not there is room for them."""
        packed = [packing.pack(row, self.form) for row in rows]
        self.store.put({self._key(ids): entry for ids, entry in zip(sources, packed, strict=True)})
        return [self._unpack(ids, entry) for ids, entry in zip(sources, packed, strict=True)]

    def _unpack(self, ids: Ids, entry: Mapping[str, Tensor]) -> KVCache:
        row = packing.unpack(entry, self.member.model.dtype)
        return row if self.member.latent_steps else replace(row, ids=torch.tensor([ids]))

    def _thought(self) -> list[str]:
        """What tells states with latent steps from those without."""
        return [f"latent {self.member.latent_steps}"] if self.member.latent_steps else []

    def _key(self, ids: Ids) -> str:
        return digest(self.name, ids)


def open_store(config: TrainConfig, progress: Progress) -> Store | None:
    """The store of states that the configuration names; None without one."""
    if config.store is None:
        return None
    return Store(config.store.expanduser() / "states", config.store_gib, progress.note)
