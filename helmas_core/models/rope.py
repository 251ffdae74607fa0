"""Take RoPE off cached keys and put it on again, with the model's own angles, in fp32.

Half-split rotation (the first R of D channels, pairs i and i + R/2), as in Llama, Mistral, Qwen, Gemma, Phi and
GPT-NeoX; scaled types (YaRN, llama3, linear) included, since the angles come from the model's own module.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, capture


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class Rope:
    """The rotations of one model; the identity for a model without a rotary module (learned positions)."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = _rotary_module(model)
        config = model.config.get_text_config(decoder=True)
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
        return self._turn(cache, on=True)

    def unrotate(self, cache: KVCache) -> KVCache:
        """RoPE off; keys come back in fp32, since bf16 would lose half a percent here."""
        assert cache.rotated
        return self._turn(cache, on=False)

    def _turn(self, cache: KVCache, on: bool) -> KVCache:
        if self.module is None:
            return replace(cache, rotated=on)
        angles = {kind: self.angles(cache.positions, kind) for kind in set(self.layer_types)}
        turn = apply_rotation if on else remove_rotation
        keys = tuple(turn(k, *angles[kind]) for k, kind in zip(cache.keys, self.layer_types, strict=True))
        return replace(cache, keys=keys, rotated=on)


def apply_rotation(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, H, T, D] → the same, rotated in fp32 on the first R channels; the rest passes."""
    turned, rest = keys.float().split([cos.shape[-1], keys.shape[-1] - cos.shape[-1]], -1)
    return torch.cat((turned * cos + rotate_half(turned) * sin, rest), -1).to(keys.dtype)


def remove_rotation(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of `apply_rotation`, in fp32. cos² + sin² is the squared attention scaling, divided out."""
    turned, rest = keys.float().split([cos.shape[-1], keys.shape[-1] - cos.shape[-1]], -1)
    back = (turned * cos - rotate_half(turned) * sin) / (cos.square() + sin.square())
    return torch.cat((back, rest), -1)


def _rotary_module(model: PreTrainedModel) -> nn.Module | None:
    for name, module in model.named_modules():
        if name.endswith("rotary_emb") and any("inv_freq" in key for key, _ in module.named_buffers()):
            return module
    return None


@torch.no_grad()
def rope_residual(model: PreTrainedModel, rope: Rope, ids: Tensor) -> float:
    """How far unrotated cached keys are from what the key projection really put out: max over layers of the
    relative error, nan where it cannot be told. A second route, since a wrong angle would cancel in a round trip.
    `ids` [1, T]."""
    before: list[Any] = []
    modules = _key_outputs(model)
    if len(modules) != model.config.get_text_config(decoder=True).num_hidden_layers:
        return float("nan")  # keys come out of a fused projection: there is no second route
    hooks = [module.register_forward_hook(lambda _m, _i, out: before.append(out)) for module in modules]
    try:
        cache = rope.unrotate(capture(model, ids, torch.ones_like(ids)))
    finally:
        for hook in hooks:
            hook.remove()
    worst = 0.0
    for keys, out in zip(cache.keys, before, strict=True):
        seen = _as_heads(out.to(keys.device).float(), keys)
        worst = max(worst, ((keys - seen).norm() / seen.norm()).item())
    return worst


def _as_heads(out: Tensor, keys: Tensor) -> Tensor:
    """A projection's or norm's output in any of its layouts as [B, H, T, D]."""
    batch, heads, tokens, dim = keys.shape
    if out.dim() == 4 and out.shape[1] == heads and out.shape[2] == tokens:
        return out
    return out.reshape(batch, tokens, heads, dim).transpose(1, 2)


def _key_outputs(model: PreTrainedModel) -> list[nn.Module]:
    """Per layer, the last module that a key passes before RoPE: its norm if there is one, else its projection."""
    found = []
    for name, module in model.named_modules():
        if name.endswith(("self_attn", "attention", "attn")) and hasattr(module, "k_proj"):
            found.append(getattr(module, "k_norm", None) or module.k_proj)
    return found
