"""The losses: plain functions, fp32 inside, padding masked out, each a scalar.

Shapes: B batch, L layers, H KV heads, Hq query heads, T source tokens, N following tokens, D head dim, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from helmas_core.models.cache import KVCache
from helmas_core.models.record import Recording

IGNORE = -100


def cache_mse(predicted: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Mean squared error of standardised keys and values [B, L, H, T, D] over the real tokens of `mask` [B, T]."""
    weight = mask[:, None, None, :, None].float()
    parts = [
        ((p.float() - t.float()).square() * weight).sum() / (weight.sum() * p[0, :, :, 0].numel())
        for p, t in zip(predicted, target, strict=True)
    ]
    return torch.stack(parts).mean()


def attention_output(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float | None = None
) -> Tensor:
    """softmax(QKᵀ · scale) V over the cached tokens: query [B, Hq, N, D], key and value [B, H, T, D], mask [B, T]
    → [B, Hq, N, D], fp32. Query heads share KV heads in groups."""
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):  # it would turn both products into bf16
        key, value = (t.float().repeat_interleave(groups, 1) for t in (key, value))
        logits = query.float() @ key.transpose(-1, -2) * scale
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1) @ value


def attention_consistency(recording: Recording, predicted: KVCache, target: KVCache, following: Tensor) -> Tensor:
    """‖Attn(Q, Φ(KV_t)) − Attn(Q, KV_s)‖² / ‖Attn(Q, KV_s)‖², averaged over layers (He-LMAS).

    Q are the student's own queries on the tokens that follow, recorded while it had read the same text itself;
    `following` [B, N] masks them. Computed here from the caches, so the gradient reaches the bridge.
    """
    weight = following[:, None, :, None].float()
    ratios = []
    layers = zip(recording.queries, recording.scales, recording.caps, strict=True)
    for index, (query, scale, cap) in enumerate(layers):
        ours = attention_output(query, predicted.keys[index], predicted.values[index], predicted.mask, scale, cap)
        theirs = attention_output(query, target.keys[index], target.values[index], target.mask, scale, cap)
        ratios.append(((ours - theirs).square() * weight).sum() / ((theirs.square() * weight).sum() + 1e-6))
    return torch.stack(ratios).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token loss over labels [B, N] that are not IGNORE; label t belongs to logits t, [B, N, V]."""
    each = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return mean_of_rows(each, labels != IGNORE)


def kl_divergence(logits: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """KL(reference ‖ ours) at the scored positions; `reference` is the student that read the text."""
    scored = labels != IGNORE
    ours, theirs = (t[scored].float().log_softmax(-1) for t in (logits, reference))
    each = functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
    return mean_of_rows(torch.zeros_like(scored, dtype=each.dtype).masked_scatter(scored, each), scored)


def mean_of_rows(each: Tensor, scored: Tensor) -> Tensor:
    """The mean of every row's own mean over what is scored, both [B, N]: a letter counts as much as a long text."""
    counts = scored.sum(1)
    return ((each * scored).sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
