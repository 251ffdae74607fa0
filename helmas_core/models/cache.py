"""The KV cache that helmas hands around. The only file that touches transformers' cache classes.

Shapes: B batch, L layers, H KV heads, T tokens, D head dim, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from helmas_core.errors import CacheError
from helmas_core.models.layers import layer_devices, layer_states

TransformersCache = DynamicCache
Pieces = Iterator[tuple[slice, Tensor]]  # which layers, and what they keep, [n, B, H, T, D]
AT_ONCE = {"cuda": 2**26, "cpu": 2**17}  # values: a quarter of a GiB in fp32, and what a core's own cache holds


def pieces(layers: Sequence[Tensor] | Tensor, kinds: Sequence[Hashable] = ()) -> Pieces:
    """Neighbouring layers of one shape and kind, [B, H, T, D] each, that are computed together, and where they stand:
    [n, B, H, T, D], views of one tensor [L, B, H, T, D] or of a single layer. As many as are small, since each call has
    a cost of its own."""
    alike = [(layer.shape, kind) for layer, kind in zip(layers, kinds or [None] * len(layers), strict=True)]
    most = AT_ONCE.get(layers[0].device.type, 0) if len(layers) else 0
    for _, run in groupby(range(len(layers)), alike.__getitem__):
        members = [*run]
        size = max(1, most // max(1, layers[members[0]].numel()))
        for begin in range(members[0], members[-1] + 1, size):
            part = slice(begin, min(begin + size, members[-1] + 1))
            some = layers[part]
            if not isinstance(some, Tensor):
                some = some[0][None] if len(some) == 1 else torch.stack(tuple(some))
            yield part, some


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, [B, H, T, D] each, with what attention needs to know about the tokens.

    All of it is on one device, whichever its model computes on.

    `mask` [B, T] is True on real tokens; `positions` [B, T] are the RoPE positions that the keys were (or will
    be) rotated to; `rotated` says whether RoPE is on the keys.

    Of a model that has read, `ids` [B, T] are the tokens, and `hidden` those of its hidden states that were asked for,
    [B, 1, T, E] each: laid out as one head, so that they are cut, padded and moved like keys and values.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    positions: Tensor
    rotated: bool = True
    ids: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()

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
    def by_teacher(self) -> tuple[KVCache, ...]:
        """What each teacher keeps, where several have read: here, one."""
        return (self,)

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, *self.hidden))

    def next_positions(self) -> Tensor:
        """[B]: the position of the first token after each row's last real one."""
        return torch.where(self.mask, self.positions, -1).amax(1) + 1

    def map(self, change: Callable[[Tensor], Tensor]) -> KVCache:
        """`change` applied to every key, value and hidden state; `mask`, `positions` and `ids` stay."""
        keys, values, hidden = (tuple(map(change, part)) for part in (self.keys, self.values, self.hidden))
        return replace(self, keys=keys, values=values, hidden=hidden)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> KVCache:
        moved = self.map(lambda t: t.to(device=device, dtype=dtype or t.dtype))
        return moved._about(lambda t: t.to(device))

    def on(self, model: PreTrainedModel) -> KVCache:
        """What `model` can go on from: each layer in its dtype, where it computes that layer."""
        where = layer_devices(model)
        keys, values = (
            tuple(t.to(device, model.dtype) for t, device in zip(part, where, strict=True))
            for part in (self.keys, self.values)
        )
        return replace(self, keys=keys, values=values)

    def row(self, index: int) -> KVCache:
        """One row without its padding, batch 1."""
        real = self.mask[index].nonzero()[:, 0]
        picked = self.map(lambda t: t[index : index + 1, :, real])
        return picked._about(lambda t: t[index : index + 1, real])

    def _about(self, change: Callable[[Tensor], Tensor]) -> KVCache:
        """`change` applied to what is said of each token."""
        ids = None if self.ids is None else change(self.ids)
        return replace(self, mask=change(self.mask), positions=change(self.positions), ids=ids)

    def rows(self, indices: Tensor) -> KVCache:
        """Some rows, in the order of `indices` [N], as wide as before."""
        return self.map(lambda t: t[indices])._about(lambda t: t[indices])

    def picked(self, columns: Tensor) -> KVCache:
        """For each row the places `columns` [B, N], at the positions that they had."""
        index = columns[:, None, :, None]
        return self.map(lambda t: t.gather(2, index.expand(-1, t.shape[1], -1, t.shape[3])))._about(
            lambda t: t.gather(1, columns)
        )

    def padded_left(self) -> KVCache:
        """The same with every row's padding before its first token, wherever it was."""
        return self if self.mask.all() else self.picked(self.mask.long().argsort(dim=1, stable=True))

    def keep_first(self, counts: Tensor) -> KVCache:
        """Hide all but the first `counts` [B] real tokens of each row; the length stays, for one shape per batch."""
        return replace(self, mask=self.mask & (self.mask.cumsum(1) <= counts[:, None]))

    def tokens(self, begin: int, end: int) -> KVCache:
        """The columns from `begin` up to `end` of every row, as views, at the positions that they had."""
        return self.map(lambda t: t[:, :, begin:end])._about(lambda t: t[:, begin:end])

    def first(self, length: int) -> KVCache:
        """The first `length` places, padding included."""
        return self if length == self.length else self.tokens(0, length)

    def without_last_hidden(self) -> KVCache:
        return replace(self, hidden=self.hidden[:-1])

    def append(self, more: KVCache) -> KVCache:
        """This cache and, after it, `more` of the same rows, which was read or made to follow it."""
        assert self.rotated == more.rotated
        parts = zip((self.keys, self.values, self.hidden), (more.keys, more.values, more.hidden), strict=True)
        keys, values, hidden = (tuple(torch.cat(both, 2) for both in zip(*part, strict=True)) for part in parts)
        mask, positions = torch.cat((self.mask, more.mask), 1), torch.cat((self.positions, more.positions), 1)
        ids = None if self.ids is None or more.ids is None else torch.cat((self.ids, more.ids), 1)
        return KVCache(keys, values, mask, positions, self.rotated, ids, hidden)

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

        parts = ([row.keys for row in rows], [row.values for row in rows], [row.hidden for row in rows])
        keys, values, hidden = (tuple(pad(layer, 2) for layer in zip(*part, strict=True)) for part in parts)
        mask, positions = pad([row.mask for row in rows], 1), pad([row.positions for row in rows], 1)
        known = [row.ids for row in rows if row.ids is not None]
        ids = pad(known, 1) if len(known) == len(rows) else None
        return cls(keys, values, mask, positions, rows[0].rotated, ids, hidden)

    def to_transformers(self) -> DynamicCache:
        """A fresh transformers cache over the same tensors, which it does not write to: what comes after them is joined
        to them in new ones, so generating with it leaves this one as it was."""
        if not self.rotated:
            raise CacheError("keys without RoPE cannot be injected", fix="rotate the cache first")
        filled = empty_cache()
        filled.layers.extend(_layer(*both) for both in zip(self.keys, self.values, strict=True))
        return filled


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A layer of a transformers cache that holds these very tensors: filled in its own way it would copy them."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


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


@torch.no_grad()
def capture(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, hidden: Sequence[int] = (), past: KVCache | None = None
) -> KVCache:
    """`read` without a gradient, after `past` if given: then what `model` keeps of both. `past` is left as it was."""
    if past is None:
        return read(model, ids, mask, hidden)
    filled, seen = past.on(model).to_transformers(), torch.cat((past.mask, mask.bool()), 1)
    positions = positions_of(mask.bool()) + past.next_positions()[:, None]
    states = _pass(model, filled, seen, positions, hidden, input_ids=ids)
    joined = tuple(torch.cat(both, 2) for both in zip(past.hidden, states, strict=True))
    places = torch.cat((past.positions, positions), 1)
    known = None if past.ids is None else torch.cat((past.ids, ids), 1)
    return KVCache(*read_layers(filled), seen, places, True, known, joined).to(mask.device)


def read(model: PreTrainedModel, ids: Tensor, mask: Tensor, hidden: Sequence[int] = (), start: int = 0) -> KVCache:
    """Read `ids` [B, T] with `model`, from the position `start` on, and return what its attention layers keep, and the
    hidden states of `hidden`.

    A model of L layers has L + 1 of them: 0 is the embeddings, i what layer i − 1 puts out, L is after the last norm.
    """
    mask = mask.bool()
    positions, filled = positions_of(mask) + start, empty_cache()
    states = _pass(model, filled, mask, positions, hidden, input_ids=ids)
    return KVCache(*read_layers(filled), mask, positions, True, ids, states).to(mask.device)


def extend(model: PreTrainedModel, state: KVCache, inputs: Tensor, hidden: Sequence[int] = ()) -> KVCache:
    """`state` and one more place for each row, at which `model` is given an embedding, [B, 1, E], and no token.

    `hidden` are those that `state` has.
    """
    filled, added = state.on(model).to_transformers(), state.mask.new_ones(len(inputs), 1)
    mask = torch.cat((state.mask, added), 1)
    positions = torch.cat((state.positions, state.next_positions()[:, None]), 1)
    states = _pass(model, filled, mask, positions[:, -1:], hidden, inputs_embeds=inputs)
    joined = tuple(torch.cat(pair, 2) for pair in zip(state.hidden, states, strict=True))
    return KVCache(*read_layers(filled), mask, positions, True, None, joined).to(mask.device)


def _pass(
    model: PreTrainedModel,
    filled: DynamicCache,
    mask: Tensor,
    positions: Tensor,
    hidden: Sequence[int],
    **given: Tensor,
) -> tuple[Tensor, ...]:
    """Let `model` read on into `filled`; its hidden states of `hidden`, [B, 1, T, E] each, on the mask's device."""
    tensors = {"attention_mask": mask.long(), "position_ids": positions, **given}
    placed = {name: tensor.to(model.device) for name, tensor in tensors.items()}
    with layer_states(model, hidden) if hidden else nullcontext({}) as seen:
        out = model.base_model(past_key_values=filled, use_cache=True, **placed)
    seen[len(filled.layers)] = out.last_hidden_state
    return tuple(seen[i][:, None].to(mask.device) for i in hidden)
