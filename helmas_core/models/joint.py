"""What several teachers keep of the same tokens, handed around as one cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from torch import Tensor

from helmas_core.models.cache import KVCache


@dataclass(frozen=True)
class JointCache(KVCache):
    """The first teacher's cache and, beside it, the `others`' over the same tokens, under the same mask and at the same
    positions: whatever is cut, moved or picked is so of all of them."""

    others: tuple[KVCache, ...] = ()

    @property
    def by_teacher(self) -> tuple[KVCache, ...]:
        first = KVCache(**{field.name: getattr(self, field.name) for field in fields(KVCache)})
        return (first, *self.others)

    @property
    def bytes(self) -> int:
        return sum(cache.bytes for cache in self.by_teacher)

    def map(self, change: Callable[[Tensor], Tensor]) -> KVCache:
        return replace(super().map(change), others=tuple(cache.map(change) for cache in self.others))

    def keep_first(self, counts: Tensor) -> KVCache:
        return replace(super().keep_first(counts), others=tuple(cache.keep_first(counts) for cache in self.others))

    def _about(self, change: Callable[[Tensor], Tensor]) -> KVCache:
        return replace(super()._about(change), others=tuple(cache._about(change) for cache in self.others))


def together(caches: Sequence[KVCache]) -> KVCache:
    """Several teachers' caches of the same tokens as one; a single teacher's as it is."""
    first, *others = caches
    if not others:
        return first
    return JointCache(**{field.name: getattr(first, field.name) for field in fields(KVCache)}, others=tuple(others))
