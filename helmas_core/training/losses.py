"""The losses: plain functions, fp32 inside, padding masked out, each a scalar.

Shapes: B batch, L layers, H KV heads, Hq query heads, T source tokens, N following tokens, D head dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from helmas_core.bridges.base import KeysValues
from helmas_core.models.cache import KVCache
from helmas_core.models.record import Recording

IGNORE = -100


def cache_mse(predicted: KeysValues, target: KeysValues, mask: Tensor) -> Tensor:
    """Mean squared error of standardised keys and values [B, L, H, T, D] over the real tokens of `mask` [B, T]."""
    weight = mask[:, None, None, :, None].float()
    parts = [
        ((p.float() - t.float()).square() * weight).sum() / (weight.sum() * p[0, :, :, 0].numel())
        for p, t in zip(predicted, target, strict=True)
    ]
    return torch.stack(parts).mean()


def mercator(predicted: KeysValues, target: KeysValues, mask: Tensor, beta: float = 0.0) -> Tensor:
    """1 − mean cosine, plus `beta` · `log_norm` (KAVA): of keys and values [B, L, H, T, D], vector by vector over the
    real tokens of `mask` [B, T]. 0 for vectors that differ in length only, 1 for orthogonal ones."""
    parts = [_over_tokens(1 - cosine(p, t), mask) for p, t in zip(predicted, target, strict=True)]
    loss = torch.stack(parts).mean()
    return loss + beta * log_norm(predicted, target, mask) if beta else loss


def log_norm(predicted: KeysValues, target: KeysValues, mask: Tensor) -> Tensor:
    """Mean squared difference of the vectors' logarithmic lengths, which `mercator` alone leaves free (KAVA)."""

    def length(states: Tensor) -> Tensor:
        return states.float().norm(dim=-1).clamp(min=1e-6).log()

    parts = [_over_tokens((length(p) - length(t)).square(), mask) for p, t in zip(predicted, target, strict=True)]
    return torch.stack(parts).mean()


COMPARE = {"cache_mse": cache_mse, "mercator": mercator, "log_norm": log_norm}


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """[B, L, H, T, D] twice → [B, L, H, T], fp32."""
    return functional.cosine_similarity(predicted.float(), target.float(), dim=-1)


def _over_tokens(each: Tensor, mask: Tensor) -> Tensor:
    """The mean of [B, L, H, T] over layers, heads and real tokens."""
    weight = mask[:, None, None].float()
    return (each * weight).sum() / (weight.sum() * each[0, :, :, 0].numel())


@torch.no_grad()
def collapse(predicted: KeysValues, target: KeysValues, mask: Tensor) -> dict[str, float]:
    """What to watch beside a cosine: it also rises where all vectors become one, and then the effective rank falls.

    The cosine of keys and of values, and the effective rank of the middle layer's on both sides.
    """
    figures = {}
    for name, ours, theirs in zip("kv", predicted, target, strict=True):
        figures[f"{name}_cosine"] = _over_tokens(cosine(ours, theirs), mask).item()
        for side, states in (("", ours), ("_own", theirs)):
            rows = states[:, states.shape[1] // 2].transpose(1, 2)[mask].flatten(1)
            figures[f"{name}_rank{side}"] = effective_rank(rows)
    return figures


def effective_rank(states: Tensor) -> float:
    """[N, width] → a number between 1 and min(N, width); constant parts do not count (Roy & Vetterli 2007). nan for
    states that are not finite, of which nothing can be said."""
    if not states.isfinite().all():
        return math.nan
    centred = (states - states.mean(0)).double()
    sizes = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    share = sizes / sizes.sum().clamp(min=1e-12)
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum()).item()


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


def attention_consistency(
    recording: Recording,
    predicted: KVCache,
    target: KVCache,
    following: Tensor,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """‖Attn(Q, Φ(KV_t)) − Attn(Q, KV_s)‖² / ‖Attn(Q, KV_s)‖², averaged over layers (He-LMAS).

    Q are the student's own queries on the tokens that follow, recorded while it had read the same text itself;
    `following` [B, N] masks them. Computed here from the caches, so the gradient reaches the bridge. Where these rows
    are a part of a batch, `total` makes of this part's ‖Attn(Q, KV_s)‖² [L] the batch's; the parts then add up.
    """
    weight = following[:, None, :, None].float()
    missed, sizes = [], []
    layers = zip(recording.queries, recording.scales, recording.caps, strict=True)
    for index, (query, scale, cap) in enumerate(layers):
        ours = attention_output(query, predicted.keys[index], predicted.values[index], predicted.mask, scale, cap)
        theirs = attention_output(query, target.keys[index], target.values[index], target.mask, scale, cap)
        missed.append(((ours - theirs).square() * weight).sum())
        sizes.append((theirs.square() * weight).sum())
    return (torch.stack(missed) / (total(torch.stack(sizes)) + 1e-6)).mean()


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
