"""What methods on keys and values share: standardised states without RoPE, and the way back to a cache.

Shapes: B batch, L layers, H KV heads, T tokens, D head dim; t teacher, s student.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from helmas_core.bridges.base import COMPARING, FUNCTIONAL, Bridge, KeysValues
from helmas_core.bridges.fit import Statistics, Sums
from helmas_core.config import Section
from helmas_core.errors import CacheError
from helmas_core.models.cache import KVCache, Pieces, pieces
from helmas_core.models.geometry import Geometry
from helmas_core.models.rope import Rope


class StandardBridge(Bridge):
    """Keys and values are seen with RoPE off, in units of their own deviation per layer, head and channel."""

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: Section) -> None:
        super().__init__(teacher, student, mode, options)
        self.source = Statistics(teacher.layers, teacher.kv_heads, teacher.head_dim)
        self.target = Statistics(student.layers, student.kv_heads, student.head_dim)

    @property
    def takes_rope_off(self) -> bool:
        return True

    def teacher_form(self, state: KVCache) -> KeysValues:
        """A teacher's cache, standardised, [B, Lt, Ht, T, Dt] each."""
        return self.source.standardise(*self._plain(state, 0))

    def by_token(self, state: KVCache, dtype: torch.dtype) -> Tensor:
        """The same as one row for each token, all layers side by side: [B · T, Lt, 2 · Ht · Dt]."""
        layers, heads, dim = self.source.mean.shape[1:]
        rows = torch.empty(state.batch, state.length, layers, 2, heads, dim, dtype=dtype, device=state.mask.device)
        for out, (which, states) in zip(rows.permute(3, 2, 0, 4, 1, 5), self._streams(state), strict=True):
            self.source.standardise_into(out, which, states)
        return rows.flatten(3).flatten(0, 1)

    def by_layer(self, state: KVCache, dtype: torch.dtype) -> Iterator[Tensor]:
        """The same layer by layer, keys and then values: [Lt, B, Ht, T, Dt] each."""
        layers, heads, dim = self.source.mean.shape[1:]
        shape = (layers, state.batch, heads, state.length, dim)
        for which, states in self._streams(state):
            rows = torch.empty(shape, dtype=dtype, device=state.mask.device)
            yield self.source.standardise_into(rows, which, states)

    def _streams(self, state: KVCache) -> Iterator[tuple[int, Pieces]]:
        """A teacher's keys (0), without RoPE unless the method leaves it on, and its values (1)."""
        rope = self._rope(0)
        turned = rope.turned(state.keys, state.positions, on=not state.rotated)
        yield 0, turned if self._turns(state) else pieces(state.keys)
        yield 1, pieces(state.values)

    def standard_form(self, own: KVCache) -> KeysValues:
        """A student's cache, standardised, [B, Ls, Hs, T, Ds] each."""
        return self.target.standardise(*self._plain(own, 1))

    def to_cache(self, keys: Tensor, values: Tensor, like: KVCache) -> KVCache:
        """Keys without RoPE and values, as a cache at the positions of `like`."""
        made = KVCache.unstack(keys, values, like.mask, like.positions, rotated=True)
        if not self.takes_rope_off:
            return made
        turned = self._rope(1).turned(keys.transpose(0, 1), like.positions, on=True)
        return replace(made, keys=tuple(key for _, some in turned for key in some.to(keys.dtype)))

    def _plain(self, cache: KVCache, side: int) -> KeysValues:
        """fp32, [B, L, H, T, D] each, and RoPE off unless the method leaves it on; `side` is 0 for the teacher."""
        keys, values = self._turned(cache, side).stacked()
        return keys.float(), values.float()

    def _turned(self, cache: KVCache, side: int) -> KVCache:
        """RoPE off, or on where the method leaves it on."""
        rope = self._rope(side)
        if not self._turns(cache):
            return cache
        return rope.unrotate(cache) if cache.rotated else rope.rotate(cache)

    def _turns(self, cache: KVCache) -> bool:
        """Whether RoPE is on where the method sees keys without it, or off where it sees them with it."""
        return cache.rotated is self.takes_rope_off

    def _rope(self, side: int) -> Rope:
        if self.ropes is None:
            raise CacheError("the bridge has no models' angles", fix="call bridge.attach(pair) first")
        return self.ropes[side]

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        self.fit_statistics(batches)
        return {"start": "random"}

    def fit_statistics(self, batches: Sequence[tuple[KVCache, KVCache]]) -> None:
        both, device = (self.source, self.target), self.source.mean.device
        sums = [Sums(statistics) for statistics in both]
        for pair in batches:
            for side, cache in enumerate(cache.to(device) for cache in pair):
                sums[side].add(*self._plain(cache, side), cache.mask)
        for statistics, found in zip(both, sums, strict=True):
            statistics.set(found)


class Translator(StandardBridge):
    """A bridge whose output stands for the student's own cache, so that the two can be compared.

    A method implements `translate`; `fuse_gate` makes the gate of mode "fuse".
    """

    losses = FUNCTIONAL | COMPARING
    gate: nn.Parameter | None

    @abstractmethod
    def translate(self, state: KVCache) -> KeysValues:
        """Standardised keys (RoPE off) and values for the student, [B, Ls, Hs, T, Ds] each, fp32."""

    def translated(self, state: KVCache, own: KVCache) -> KeysValues:  # noqa: ARG002 - before anything is fused
        return self.translate(state)

    def hand_over(self, state: KVCache, own: KVCache | None, translated: KeysValues | None) -> KVCache:
        return self.finish(*(self.translate(state) if translated is None else translated), state, own)

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        """Same tokens, positions and mask as `state`."""
        return self.hand_over(state, own, None)

    def finish(self, keys: Tensor, values: Tensor, state: KVCache, own: KVCache | None) -> KVCache:
        """`translate`'s output as a cache at the state's positions, fused with `own` in mode "fuse"."""
        keys, values = self.target.restore(keys, values)
        if self.gate is not None:
            keys, values = self._fuse(keys, values, own)
        return self.to_cache(keys, values, state)

    def _fuse(self, keys: Tensor, values: Tensor, own: KVCache | None) -> KeysValues:
        """own + σ(gate) · (bridge − own), per layer and head, before RoPE goes on."""
        assert self.gate is not None
        gates = self.gate.sigmoid()[:, None, :, :, None, None]
        plain = self._plain(needed(own), 1)
        mixed = [o + g * (t - o) for o, g, t in zip(plain, gates, (keys, values), strict=True)]
        return mixed[0], mixed[1]

    def diagnostics(self) -> dict[str, Any]:
        return {"gate": None if self.gate is None else self.gate.detach().sigmoid()}


def product_dtype(state: KVCache) -> torch.dtype:
    """What matrix products on `state` are computed in: fp32 where a gradient is wanted, unless autocast says otherwise;
    without one bf16, as the models themselves, where that is what they keep."""
    device, kept = state.mask.device.type, state.keys[0].dtype
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return kept if kept == torch.bfloat16 and not torch.is_grad_enabled() else torch.float32


def fuse_gate(mode: str, student: Geometry) -> nn.Parameter | None:
    """[2, Ls, Hs] logits, nearly shut at the start; None where nothing is fused."""
    return nn.Parameter(torch.full((2, student.layers, student.kv_heads), -2.0)) if mode == "fuse" else None


def needed(own: KVCache | None) -> KVCache:
    if own is None:
        raise CacheError('mode "fuse" needs the student\'s own cache', fix="pass own=")
    return own


def token_rows(states: KeysValues) -> Tensor:
    """Keys and values of all heads, side by side: [B, L, H, T, D] each → [L, B, T, 2·H·D]."""
    both = torch.stack(states, 2).permute(1, 0, 4, 2, 3, 5)  # [L, B, T, 2, H, D]
    return both.flatten(3)


def neighbours(rows: Tensor, window: Tensor) -> Tensor:
    """What the layers of each `window` [Ls, k], one after another, keep of a token: [N, Lt, W] → [Ls, N, k · W]."""
    layers, width, count = *rows.shape[1:], window.shape[1]
    views = rows.as_strided((layers - count + 1, len(rows), count * width), (width, layers * width, 1))
    return views.index_select(0, window[:, 0])


def states_of(rows: Tensor, heads: int) -> KeysValues:
    """The inverse of `token_rows`."""
    keys, values = rows.unflatten(3, (2, heads, -1)).permute(3, 1, 0, 4, 2, 5)
    return keys, values


def layer_shares(weight: Tensor, window: Tensor, teacher: Geometry, student: Geometry) -> Tensor:
    """[2, Ls, Lt]: the share of squared weight [Ls, I, O] that each teacher layer holds, for K and V."""
    parts = weight.detach().float().square()
    parts = parts.reshape(student.layers, window.shape[1], -1, 2, student.kv_heads * student.head_dim)
    share = parts.sum((2, 4)).permute(2, 0, 1)
    spread = share.new_zeros(2, student.layers, teacher.layers).scatter(2, window.expand(2, -1, -1), share)
    return spread / spread.sum(2, keepdim=True).clamp(min=1e-12)
