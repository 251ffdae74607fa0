"""Take RoPE off cached keys and put it on again, with the model's own angles, in fp32.

Half-split rotation (the first R of D channels, pairs i and i + R/2), as in Llama, Mistral, Qwen, Gemma, Phi and
GPT-NeoX; scaled types (YaRN, llama3, linear) included, since the angles come from the model's own module. Which layers
rotate at all is measured.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, Pieces, pieces, read
from helmas_core.models.layers import decoder, layer_inputs, layer_states

_MOVED = 64  # positions


class Rope:
    """The rotations of one model; the identity in `still` layers, and for a model without a rotary module (learned
    positions)."""

    def __init__(self, model: PreTrainedModel, still: Collection[int] = ()) -> None:
        config = model.config.get_text_config(decoder=True)
        self.module = _rotary_module(model)
        self.still = frozenset(range(config.num_hidden_layers) if self.module is None else still)
        by_layer = self.module is not None and "layer_type" in inspect.signature(self.module.forward).parameters
        self.layer_types = tuple(config.layer_types) if by_layer else (None,) * config.num_hidden_layers

    def angles(self, positions: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        """cos and sin, [B, 1, T, R] fp32, as the model itself computes them (its attention scaling included)."""
        assert self.module is not None
        like = torch.zeros(1, dtype=torch.float32, device=positions.device)
        cos, sin = self.module(like, positions, *(() if layer_type is None else (layer_type,)))
        return cos[:, None].to(positions.device).float(), sin[:, None].to(positions.device).float()

    def rotate(self, cache: KVCache) -> KVCache:
        """RoPE on, at `cache.positions`; returns the keys' own dtype."""
        assert not cache.rotated
        return self._all_turned(cache, cache.keys[0].dtype)

    def unrotate(self, cache: KVCache) -> KVCache:
        """RoPE off; keys that were turned come back in fp32, since bf16 would lose half a percent here."""
        assert cache.rotated
        return self._all_turned(cache, torch.float32)

    def turned(self, keys: Sequence[Tensor] | Tensor, positions: Tensor, on: bool) -> Pieces:
        """Keys of all layers with RoPE put on or, from keys that have it, taken off: some layers at a time, which these
        are, and [n, B, H, T, D] in fp32."""
        kinds = [(kind, index in self.still) for index, kind in enumerate(self.layer_types)]

        @functools.cache
        def tables(kind: str | None) -> tuple[Tensor, Tensor]:
            angles = self.angles(positions, kind)
            return _signed(*(angles if on else backwards(*angles)))

        for part, some in pieces(keys, kinds):
            kind, still = kinds[part.start]
            yield part, some.float() if still else _product(some, *tables(kind))

    def _all_turned(self, cache: KVCache, dtype: torch.dtype) -> KVCache:
        if len(self.still) == len(cache.keys):
            return replace(cache, rotated=not cache.rotated)
        on = not cache.rotated
        turned = self.turned(cache.keys, cache.positions, on)
        return replace(cache, keys=tuple(key for _, some in turned for key in some.to(dtype)), rotated=on)


def apply_rotation(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, H, T, D] → the same, rotated in fp32 on the first R channels; the rest passes."""
    return _product(keys, *_signed(cos, sin)).to(keys.dtype)


def remove_rotation(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of `apply_rotation`, in fp32."""
    return _product(keys, *_signed(*backwards(cos, sin)))


def backwards(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The angles of the way back. cos² + sin² is the squared attention scaling, divided out."""
    squared = cos.square() + sin.square()
    return cos / squared, -sin / squared


def _signed(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """cos, and sin with the sign that rotate_half gives its halves, [B, 1, T, R] each."""
    half = sin.shape[-1] // 2
    return cos, torch.cat((-sin[..., :half], sin[..., half:]), -1)


def _product(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """k · cos + rotate_half(k) · sin on the first R channels, in fp32; `cos` and `sin` as `_signed` gives them."""
    width = cos.shape[-1]
    first = keys[..., :width].float()
    turned = (first * cos).addcmul_(first.roll(width // 2, -1), sin)
    return turned if width == keys.shape[-1] else torch.cat((turned, keys[..., width:].float()), -1)


def _rotary_module(model: PreTrainedModel) -> nn.Module | None:
    for name, module in decoder(model).named_modules():
        if name.endswith("rotary_emb") and any("inv_freq" in key for key, _ in module.named_buffers()):
            return module
    return None


def find_rope(model: PreTrainedModel, ids: Tensor) -> tuple[Rope, float]:
    """The rotations of `model`, and how far they are from what it does to keys: `rope_residual` at its worst layer.

    Layers without RoPE, which families mark in ways of their own, are those whose keys do not move with their position.
    """
    near, far = _moved(model, ids)
    turned, plain = _distances(Rope(model), near, far), _distances(None, near, far)
    both = list(zip(turned, plain, strict=True))
    return Rope(model, [i for i, (t, p) in enumerate(both) if p < t]), max(min(pair) for pair in both)


def rope_residual(model: PreTrainedModel, rope: Rope, ids: Tensor) -> float:
    """How far keys without RoPE are from not knowing where they stood: max over layers of the relative error.

    `ids` [1, T] are read twice, at positions that lie apart, each layer with the same inputs. A second route, since a
    wrong angle would cancel in a round trip, and one that needs no name for what a key passes before RoPE.
    """
    return max(_distances(rope, *_moved(model, ids)))


@torch.no_grad()
def _moved(model: PreTrainedModel, ids: Tensor) -> tuple[KVCache, KVCache]:
    config, mask = model.config.get_text_config(decoder=True), torch.ones_like(ids)
    room = (getattr(config, "max_position_embeddings", None) or 1 << 30) - ids.shape[1]
    with layer_states(model, range(config.num_hidden_layers)) as inputs:
        near = read(model, ids, mask)
    with layer_inputs(model, inputs):
        far = read(model, ids, mask, start=max(1, min(_MOVED, room)))
    return near, far


def _distances(rope: Rope | None, near: KVCache, far: KVCache) -> list[float]:
    """Per layer, how far the keys of two caches lie apart, relative to their length."""
    one, other = (near.keys, far.keys) if rope is None else (rope.unrotate(near).keys, rope.unrotate(far).keys)
    return [
        ((k.float() - j.float()).norm() / k.float().norm().clamp(min=1e-12)).item()
        for k, j in zip(one, other, strict=True)
    ]
