"""The KV cache that helmas hands around. The only file that touches transformers' cache classes.

Shapes: B batch, L layers, H KV heads, T tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from helmas_core.errors import CacheError

TransformersCache = DynamicCache


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, [B, H, T, D] each, with what attention needs to know about the tokens.

    `mask` [B, T] is True on real tokens; `positions` [B, T] are the RoPE positions that the keys were (or will
    be) rotated to; `rotated` says whether RoPE is on the keys.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    positions: Tensor
    rotated: bool = True

    @property
    def layers(self) -> int:
        return len(self.keys)

    @property
    def batch(self) -> int:
        return self.mask.shape[0]

    @property
    def length(self) -> int:
        return self.mask.shape[1]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def next_positions(self) -> Tensor:
        """[B]: the position of the first token after each row's last real one."""
        return torch.where(self.mask, self.positions, -1).amax(1) + 1

    def map(self, change: Callable[[Tensor], Tensor]) -> KVCache:
        return replace(self, keys=tuple(map(change, self.keys)), values=tuple(map(change, self.values)))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> KVCache:
        moved = self.map(lambda t: t.to(device=device, dtype=dtype or t.dtype))
        return replace(moved, mask=self.mask.to(device), positions=self.positions.to(device))

    def row(self, index: int) -> KVCache:
        """One row without its padding, batch 1."""
        real = self.mask[index].nonzero()[:, 0]
        picked = self.map(lambda t: t[index : index + 1, :, real])
        return replace(
            picked, mask=self.mask[index : index + 1, real], positions=self.positions[index : index + 1, real]
        )

    def rows(self, indices: Tensor) -> KVCache:
        """Some rows, in the order of `indices` [N], as wide as before."""
        picked = self.map(lambda t: t[indices])
        return replace(picked, mask=self.mask[indices], positions=self.positions[indices])

    def keep_first(self, counts: Tensor) -> KVCache:
        """Hide all but the first `counts` [B] real tokens of each row; the length stays, for one shape per batch."""
        return replace(self, mask=self.mask & (self.mask.cumsum(1) <= counts[:, None]))

    def tokens(self, begin: int, end: int) -> KVCache:
        """The columns from `begin` up to `end` of every row, as views, at the positions that they had."""
        picked = self.map(lambda t: t[:, :, begin:end])
        return replace(picked, mask=self.mask[:, begin:end], positions=self.positions[:, begin:end])

    def append(self, more: KVCache) -> KVCache:
        """This cache and, after it, `more` of the same rows, which was read or made to follow it."""
        assert self.rotated == more.rotated

        def joined(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(both, 2) for both in zip(ours, theirs, strict=True))

        mask, positions = torch.cat((self.mask, more.mask), 1), torch.cat((self.positions, more.positions), 1)
        keys, values = joined(self.keys, more.keys), joined(self.values, more.values)
        return KVCache(keys, values, mask, positions, self.rotated)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Keys and values as [B, L, H, T, D]."""
        return torch.stack(self.keys, 1), torch.stack(self.values, 1)

    @classmethod
    def unstack(cls, keys: Tensor, values: Tensor, mask: Tensor, positions: Tensor, rotated: bool) -> KVCache:
        return cls(keys.unbind(1), values.unbind(1), mask, positions, rotated)

    @classmethod
    def join(cls, rows: Sequence[KVCache]) -> KVCache:
        """Batch caches of different lengths; shorter ones are padded on the left, out of attention's sight."""
        width = max(row.length for row in rows)

        def pad(tensors: Sequence[Tensor], dim: int) -> Tensor:
            return torch.cat([_pad_left(t, width - t.shape[dim], dim) for t in tensors])

        layers = range(rows[0].layers)
        keys = tuple(pad([row.keys[i] for row in rows], 2) for i in layers)
        values = tuple(pad([row.values[i] for row in rows], 2) for i in layers)
        mask, positions = pad([row.mask for row in rows], 1), pad([row.positions for row in rows], 1)
        return cls(keys, values, mask, positions, rows[0].rotated)

    def to_transformers(self) -> DynamicCache:
        """A fresh transformers cache; generating with it leaves this one as it was."""
        if not self.rotated:
            raise CacheError("keys without RoPE cannot be injected", fix="rotate the cache first")
        return DynamicCache(list(zip(self.keys, self.values, strict=True)))


def _pad_left(tensor: Tensor, count: int, dim: int) -> Tensor:
    if count == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = count
    return torch.cat([tensor.new_zeros(shape), tensor], dim)


def positions_of(mask: Tensor) -> Tensor:
    """[B, T] positions 0, 1, … over the real tokens of a mask; padding gets 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def empty_cache() -> DynamicCache:
    """A plain cache: one made from a config would drop all but a window on sliding layers."""
    return DynamicCache()


def read_layers(cache: DynamicCache) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values of a filled transformers cache; a layer without them is an error that names it."""
    keys, values = [], []
    for index, layer in enumerate(cache.layers):
        key, value = getattr(layer, "keys", None), getattr(layer, "values", None)
        if key is None or value is None or key.numel() == 0:
            raise CacheError("the layer keeps no keys and values", where=f"layer {index}", fix="use another model")
        keys.append(key)
        values.append(value)
    return tuple(keys), tuple(values)


def capture(model: PreTrainedModel, ids: Tensor, mask: Tensor, past: KVCache | None = None) -> KVCache:
    """Read `ids` [B, T] with `model`, after `past` if given, and return what its attention layers keep of both.

    No gradient; `past` is left as it was.
    """
    mask = mask.bool()
    positions, filled = positions_of(mask), empty_cache()
    if past is not None:
        filled = past.to_transformers()
        positions = positions + past.next_positions()[:, None]
        mask = torch.cat((past.mask, mask), 1)
    with torch.no_grad():
        model.base_model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=filled,
            use_cache=True,
        )
    keys, values = read_layers(filled)
    return KVCache(keys, values, mask, positions if past is None else torch.cat((past.positions, positions), 1))
