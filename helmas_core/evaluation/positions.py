"""The injected positions one by one: which of the tokens that the teacher read each is like, and what it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from helmas_core.evaluation.measure import States
from helmas_core.models.cache import KVCache
from helmas_core.models.lens import value_lens
from helmas_core.models.pair import Pair

SHOWN = 24  # positions; those that get the most attention
TOP = 3


def position_figures(
    pair: Pair, source: Sequence[int], bridged: KVCache, own: KVCache, forms: tuple[States, States], mass: Tensor
) -> list[dict[str, Any]]:
    """The positions that the student attends to most by `mass` [T], in their order.

    `nearest`: the teacher's tokens whose own student states the position is most like, by the cosine over all layers
    and heads of `forms`, the standardised caches (bridged, own). `lens` and `lens_own`: per layer, the tokens that the
    position's value speaks for.
    """
    shown = sorted(mass.topk(min(SHOWN, len(mass))).indices.tolist())
    words = [token_text(pair, id) for id in source]
    cosine = _flat(forms[0])[shown] @ _flat(forms[1]).T  # [shown, T]
    near = cosine.topk(min(TOP, len(words)), -1)
    lenses = [_lens(pair, cache, shown) for cache in (bridged, own)]
    return [
        {
            "position": place,
            "token": words[place],
            "mass": round(mass[place].item(), 5),
            "nearest": [
                {"position": j, "token": words[j], "cosine": round(c, 4)}
                for j, c in zip(near.indices[i].tolist(), near.values[i].tolist(), strict=True)
            ],
            "lens": lenses[0][i],
            "lens_own": lenses[1][i],
        }
        for i, place in enumerate(shown)
    ]


def token_text(pair: Pair, id: int) -> str:
    """A token's text, special ones by name."""
    return str(pair.tokenizer.decode([id]))


def _flat(form: States) -> Tensor:
    """[1, L, H, T, D] twice → unit rows [T, 2·L·H·D]."""
    both = torch.stack(form)[:, 0].float()  # [2, L, H, T, D]
    return normalize(both.permute(3, 0, 1, 2, 4).flatten(1), dim=-1)


def _lens(pair: Pair, cache: KVCache, shown: Sequence[int]) -> list[list[list[str]]]:
    """[shown][L][TOP] tokens."""
    layers = [
        value_lens(pair.student.model, layer, values[0, :, list(shown)].transpose(0, 1), TOP)
        for layer, values in enumerate(cache.values)
    ]
    return [[[token_text(pair, id) for id in layer[i]] for layer in layers] for i in range(len(shown))]
