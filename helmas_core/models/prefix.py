"""Prompts that begin alike, worked examples above all, are read once for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from torch import Tensor
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, capture
from helmas_core.models.tokens import pad_left

WORTH = 16  # tokens: a shorter beginning is not worth a pass of its own


def read_shared(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int
) -> tuple[KVCache | None, Tensor, Tensor]:
    """(cache of the tokens that all `prompts` begin with, ids and mask [B, T] of what follows them in each).

    At least one token of every prompt follows. The cache is None where reading apart would not pay. Its rows are
    views of one, so that it costs no more memory than a single prompt's.
    """
    length = _common(prompts)
    if len(prompts) < 2 or length < WORTH:
        return None, *pad_left(prompts, pad, model.device)
    one = capture(model, *pad_left([prompts[0][:length]], pad, model.device))
    rest = pad_left([prompt[length:] for prompt in prompts], pad, model.device)
    return _repeated(one, len(prompts)), *rest


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, the last token of each apart."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _repeated(one: KVCache, rows: int) -> KVCache:
    wide = one.map(lambda t: t.expand(rows, -1, -1, -1))
    return replace(wide, mask=one.mask.expand(rows, -1), positions=one.positions.expand(rows, -1), ids=None)
