"""Figures of a cache and of two caches beside each other, by layer and by KV head. Batch 1 everywhere.

Cosines are taken between standardised states without RoPE, since constant key biases would make any two caches look
alike. Effective rank: exp of the entropy of the normalised singular values (Roy & Vetterli 2007).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from helmas_core.models.cache import KVCache
from helmas_core.training.losses import effective_rank

States = tuple[Tensor, Tensor]  # keys and values, [1, L, H, T, D]


def rows(tensor: Tensor) -> Tensor:
    """[1, H, T, D] → [T, H·D]."""
    return tensor[0].transpose(0, 1).flatten(1).float()


def cache_figures(cache: KVCache) -> list[dict[str, Any]]:
    """Norm (mean over tokens) and effective rank of keys and values: per layer, and per head under "heads"."""
    return [
        {"layer": index, **_figures(k, v), "heads": [_figures(k[:, h : h + 1], v[:, h : h + 1], h) for h in _heads(k)]}
        for index, (k, v) in enumerate(zip(cache.keys, cache.values, strict=True))
    ]


def _heads(tensor: Tensor) -> range:
    return range(tensor.shape[1])


def _figures(keys: Tensor, values: Tensor, head: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {} if head is None else {"head": head}
    for name, states in (("k", rows(keys)), ("v", rows(values))):
        found[f"{name}_norm"] = round(states.norm(dim=1).mean().item(), 3)
        found[f"{name}_rank"] = round(effective_rank(states), 2)
    return found


def cosines(ours: States, theirs: States) -> list[Tensor]:
    """Keys' and values' cosines [L, H], mean over the tokens."""
    return [cosine_similarity(o.float(), t.float(), dim=-1).mean((0, 3)) for o, t in zip(ours, theirs, strict=True)]


def rms_ratios(ours: KVCache, theirs: KVCache) -> list[Tensor]:
    """Keys' and values' RMS over that of the other cache [L, H]; near 1 is healthy."""
    return [
        torch.stack([(_power(o) / _power(t).clamp(min=1e-12)).sqrt() for o, t in zip(mine, other, strict=True)])
        for mine, other in ((ours.keys, theirs.keys), (ours.values, theirs.values))
    ]


def _power(tensor: Tensor) -> Tensor:
    return tensor.float().square().mean((0, 2, 3))
