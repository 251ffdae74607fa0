"""Where a model looks when it goes on from a cache: the weights of its own queries over the cached and the new tokens.

Shapes: B batch (1 here), Hq query heads, N new tokens, P cached tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helmas_core.errors import CacheError
from helmas_core.models.backends import open_backend
from helmas_core.models.cache import KVCache
from helmas_core.models.inject import forward
from helmas_core.models.layers import attention_modules
from helmas_core.models.record import Recording, record_queries
from helmas_core.models.tokens import pad_left


@torch.no_grad()
def attention_weights(model: PreTrainedModel, cache: KVCache, query: Sequence[int]) -> list[Tensor]:
    """Per layer [Hq, N, P + N], fp32: how `model` attends while it reads `query` after `cache` (batch 1)."""
    ids, mask = pad_left([query], 0, cache.mask.device)
    if not open_backend(model.config):
        return _returned(model, cache, ids, mask)
    with record_queries(model, whole=True) as seen:
        forward(model, cache, ids, mask)
    return [_weights(seen, layer)[0].to(cache.mask.device) for layer in range(len(seen.queries))]


def _returned(model: PreTrainedModel, cache: KVCache, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The weights that attention modules of a family's own hand out beside what they read."""
    found: list[Any] = []
    with ExitStack() as stack:
        for module in attention_modules(model):
            stack.callback(module.register_forward_hook(lambda _m, _i, out: found.append(out[1])).remove)
        forward(model, cache, ids, mask)
    if any(weights is None for weights in found):
        raise CacheError(f"{model.config.model_type} does not say where it attends", fix="inspect another model")
    return [weights[0].float() for weights in found]


def _weights(seen: Recording, layer: int) -> Tensor:
    query, key = seen.queries[layer].float(), seen.keys[layer].float()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits, cap = query @ key.transpose(-1, -2) * seen.scales[layer], seen.caps[layer]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return _masked(logits, seen.masks[layer]).softmax(-1)


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Under the mask that the backend was given: additive, boolean, or None for a causal one that ends at the end."""
    new, length = logits.shape[-2:]
    if mask is None:
        mask = torch.ones(new, length, dtype=torch.bool, device=logits.device).tril(length - new)
    mask = mask[..., :length]
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()


def span_mass(weights: Sequence[Tensor], cached: int) -> list[list[float]]:
    """[L][Hq]: the share of attention that falls on the first `cached` tokens, mean over the new ones."""
    return [layer[..., :cached].sum(-1).mean(-1).tolist() for layer in weights]


def token_mass(weights: Sequence[Tensor], cached: int) -> Tensor:
    """[P]: the share that each cached token gets, mean over layers, heads and new tokens."""
    return torch.stack([layer[..., :cached].mean((0, 1)) for layer in weights]).mean(0)
