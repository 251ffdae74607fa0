"""One model's part of the store: the states of the sources that it has read."""

from __future__ import annotations

from collections.abc import Sequence

from helmas_core.config import TrainConfig
from helmas_core.handoff import packing
from helmas_core.handoff.keys import digest, producer
from helmas_core.handoff.packing import Form
from helmas_core.handoff.store import FORMAT, Store
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Member, Pair
from helmas_core.progress import Progress

Ids = tuple[int, ...]


class Shelf:
    """States by token ids, a row without padding each, [1, H, T, D] per layer, on the CPU in the model's dtype."""

    def __init__(self, store: Store, pair: Pair, member: Member, form: Form) -> None:
        self.store, self.member = store, member
        self.form: Form = form
        self.name = digest(FORMAT, producer(pair, member), form)

    def __contains__(self, ids: Ids) -> bool:
        geometry = self.member.geometry
        shape = (geometry.layers, geometry.kv_heads, len(ids), geometry.head_dim)
        return self.store.layout(self._key(ids)) == packing.layout(shape, self.member.model.dtype, self.form)

    def read(self, ids: Ids) -> KVCache | None:
        entry = self.store.get(self._key(ids)) if ids in self else None
        return None if entry is None else packing.unpack(entry, self.member.model.dtype)

    def write(self, sources: Sequence[Ids], rows: Sequence[KVCache]) -> list[KVCache]:
        """Keep `rows`, and return them as they will be read again, whether or not there is room for them."""
        packed = [packing.pack(row, self.form) for row in rows]
        self.store.put({self._key(ids): entry for ids, entry in zip(sources, packed, strict=True)})
        return [packing.unpack(entry, self.member.model.dtype) for entry in packed]

    def _key(self, ids: Ids) -> str:
        return digest(self.name, ids)


def open_store(config: TrainConfig, progress: Progress) -> Store | None:
    """The store of states that the configuration names; None without one."""
    if config.store is None:
        return None
    return Store(config.store.expanduser() / "states", config.store_gib, progress.note)
