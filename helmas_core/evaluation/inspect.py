"""What a bridge makes of a teacher's cache, layer by layer, against the student's own cache over the same text.

Cosines are taken between standardised states without RoPE, since constant key biases would make any two caches look
alike. Effective rank: exp of the entropy of the normalised singular values (Roy & Vetterli 2007).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.errors import DataError
from helmas_core.handoff.prepare import prepare
from helmas_core.models.cache import KVCache
from helmas_core.models.inject import forward
from helmas_core.models.pair import Member, Pair
from helmas_core.models.record import record_queries
from helmas_core.models.tokens import encode, pad_left
from helmas_core.progress import Silent
from helmas_core.training.losses import attention_output, effective_rank


@torch.no_grad()
def inspect_cache(config: Config, pair: Pair, bridge: Bridge | None, text: str | None) -> dict[str, Any]:
    """The `inspect-cache --json` document for `text`, or for the first test item; of the teacher's cache alone
    without a bridge."""
    source, query = _tokens(config, pair, text)
    read, hidden = pad_left([source], pair.pad, pair.device), () if bridge is None else bridge.hidden
    state, own = pair.teacher.read(*read, hidden), pair.student.read(*read)
    bridged = None if bridge is None else bridge(state, own)
    layers = _norms(state if bridged is None else bridged, own if bridged is not None else None)
    if bridge is not None and bridged is not None:
        state = state.first(own.length)  # latent steps have no counterpart
        _compare(layers, bridge, state, own)
        _attend(layers, pair.student, bridged, own, query)
    found = {} if bridge is None else bridge.diagnostics()
    return {
        "schema": 1,
        "command": "inspect-cache",
        "pair": pair.describe(),
        "bridge": None
        if bridge is None
        else {"method": bridge.method, "mode": bridge.mode, **bridge.parameter_counts()},
        "cache": "teacher" if bridge is None else "bridged",
        "text": pair.tokenizer.decode(source),
        "tokens": len(source),
        "rope_residual": {"teacher": pair.teacher.rope_residual, "student": pair.student.rope_residual},
        "layers": layers,
        "blend": _matrices(found.get("blend")),
        "gate": _matrices(found.get("gate")),
    }


def _tokens(config: Config, pair: Pair, text: str | None) -> tuple[list[int], list[int]]:
    """Source and query ids; a text's last tenth stands in for the query."""
    if text is None:
        example = prepare(config, pair, config.eval.split, 1, config.train.seed, Silent())[0]
        if example.query:
            return list(example.source), list(example.query)
        text = example.item.private
    ids = encode(pair.tokenizer, text)
    if len(ids) < 3:
        raise DataError(f"{len(ids)} tokens are too few to inspect", where="--text", fix="give a sentence or more")
    cut = max(2, len(ids) - max(1, len(ids) // 10))
    return ids[:cut], ids[cut:]


def _rows(tensor: Tensor) -> Tensor:
    """[1, H, T, D] → [T, H·D]."""
    return tensor[0].transpose(0, 1).flatten(1).float()


def _norms(cache: KVCache, own: KVCache | None) -> list[dict[str, Any]]:
    rows = []
    for index in range(cache.layers):
        row: dict[str, Any] = {"layer": index}
        for name, tensors, others in (("k", cache.keys, own and own.keys), ("v", cache.values, own and own.values)):
            states = _rows(tensors[index])
            row[f"{name}_norm"] = round(states.norm(dim=1).mean().item(), 3)
            row[f"{name}_norm_own"] = round(_rows(others[index]).norm(dim=1).mean().item(), 3) if others else None
            row[f"{name}_rank"] = round(effective_rank(states), 2)
            row[f"{name}_rank_own"] = round(effective_rank(_rows(others[index])), 2) if others else None
            row[f"{name}_cosine"] = None
        rows.append({**row, "attention_cosine": None})
    return rows


def _compare(layers: list[dict[str, Any]], bridge: Bridge, state: KVCache, own: KVCache) -> None:
    """K and V cosine per layer, mean over heads and tokens."""
    for name, ours, theirs in zip("kv", *bridge.compared(state, own), strict=True):
        cosine = cosine_similarity(ours.float(), theirs.float(), dim=-1).mean((0, 2, 3))
        for row, value in zip(layers, cosine.tolist(), strict=True):
            row[f"{name}_cosine"] = round(value, 4)


def _attend(layers: list[dict[str, Any]], student: Member, bridged: KVCache, own: KVCache, query: list[int]) -> None:
    """Cosine of what the query's tokens read from either cache, with the student's own queries."""
    ids, mask = pad_left([query], 0, own.mask.device)
    with record_queries(student.model) as seen:
        forward(student.model, own, ids, mask)
    for row, q, scale, cap in zip(layers, seen.queries, seen.scales, seen.caps, strict=True):
        at = row["layer"]
        ours, theirs = (
            attention_output(q, cache.keys[at], cache.values[at], cache.mask, scale, cap) for cache in (bridged, own)
        )
        row["attention_cosine"] = round(cosine_similarity(ours, theirs, dim=-1).mean().item(), 4)


def _matrices(found: Tensor | None) -> dict[str, list[Any]] | None:
    """[2, …] as {"k": …, "v": …}."""
    if found is None:
        return None
    return {name: [[round(x, 4) for x in row] for row in found[i].tolist()] for i, name in enumerate("kv")}
