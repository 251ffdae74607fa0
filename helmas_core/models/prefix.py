"""Many prompts are read at the least cost: what all of them begin with once, and then those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, capture
from helmas_core.models.geometry import learned_positions
from helmas_core.models.tokens import alike, pad_left

Prompt = Sequence[int]
Read = Callable[[Tensor, Tensor, KVCache | None], KVCache]  # what is kept of ids and mask [B, T], after a cache
# What a pass takes by itself. Tokens: a CPU with two cores computes so many while the weights come from memory. Tokens
# × parameters: an H200 computes so many while Python starts one layer's kernels; a CPU fewer, but where its cores are
# shared a small model's threads wait for each other longer than they compute.
COST = {"cpu": (40, 1e8), "cuda": (0, 4.5e11)}


def cost_of_a_pass(model: PreTrainedModel) -> int:
    """What a pass takes by itself, in tokens that `model` reads in the same time."""
    fetched, started = COST.get(model.device.type, COST["cuda"])
    return round(
        fetched + started * model.config.get_text_config(decoder=True).num_hidden_layers / model.num_parameters()
    )


def read_shared(
    model: PreTrainedModel, prompts: Sequence[Prompt], pad: int, device: torch.device
) -> tuple[KVCache | None, Tensor, Tensor]:
    """(cache of the tokens that all `prompts` begin with, ids and mask [B, T] of what follows them in each), on
    `device`.

    At least one token of every prompt follows. The cache is None where reading apart would not pay. Its rows are
    views of one, so that it costs no more memory than a single prompt's.
    """
    length = common_length(prompts, cost_of_a_pass(model))
    if (limit := learned_positions(model.config)) is not None:
        length = min(length, limit)  # what is too long is refused where the rest is read
    rests = pad_left([prompt[length:] for prompt in prompts], pad, device)
    if not length:
        return None, *rests
    return _repeated(capture(model, *pad_left([prompts[0][:length]], pad, device)), len(prompts)), *rests


def read_many(
    read: Read, prompts: Sequence[Prompt], pad: int, device: torch.device, cost: int, shares: bool = True
) -> KVCache:
    """What `read` keeps of all `prompts`, padded on the left, in their order; a pass costs `cost` tokens.

    Short and long ones are read apart where padding would cost more than a pass, all after what they begin with, if
    that pays as well and `read` `shares`.
    """
    length = common_length(prompts, cost) if shares else 0
    start = read(*pad_left([prompts[0][:length]], pad, device), None) if length else None
    rests = [prompt[length:] for prompt in prompts]
    groups = alike([len(rest) for rest in rests], cost)
    if len(groups) == 1:
        return _read_after(read, start, rests, pad, device)
    parts = [_read_after(read, start, [rests[place] for place in group], pad, device) for group in groups]
    return KVCache.join(parts).rows(torch.tensor([*chain(*groups)], device=device).argsort())


def _read_after(read: Read, start: KVCache | None, rests: Sequence[Prompt], pad: int, device: torch.device) -> KVCache:
    ids, mask = pad_left(rests, pad, device)
    return read(ids, mask, None) if start is None else read(ids, mask, _repeated(start, len(rests))).padded_left()


def common_length(prompts: Sequence[Prompt], cost: int) -> int:
    """How many tokens all `prompts` begin with, the last token of each apart; 0 where reading them but once saves no
    more than a pass."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    length = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return length if length * (len(prompts) - 1) > cost else 0


def _repeated(one: KVCache, rows: int) -> KVCache:
    wide = one.map(lambda t: t.expand(rows, -1, -1, -1))
    ids = None if one.ids is None else one.ids.expand(rows, -1)
    return replace(wide, mask=one.mask.expand(rows, -1), positions=one.positions.expand(rows, -1), ids=ids)
