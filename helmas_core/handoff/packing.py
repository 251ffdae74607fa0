"""One source's states as named tensors for the disk, in the model's dtype or a smaller one, and back.

form    what is kept                                          error of one value x
model   the model's own dtype                                 none
bf16    7 bits of mantissa                                    |x| / 256 at most; none for a bf16 model
fp8     float8 e4m3 of (x - mean) / scale, both fp32 and      |x - mean| / 16 at most, and scale / 1024 near the mean
        per layer, head and channel; scale = largest / 448

fp8 halves a bf16 store. It suits models whose channels stay near their means; RoPE turns large key biases (±200 in
some Qwen2.5 layers) into swings that it keeps only to within about ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from helmas_core.handoff.store import Layout, describe
from helmas_core.models.cache import KVCache, positions_of

Form = Literal["model", "bf16", "fp8"]
_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def pack(row: KVCache, form: Form) -> dict[str, Tensor]:
    """A row without padding, [1, H, T, D] per layer, as `keys.…`, `values.…` and, if there are any, `hidden.…`,
    [L, H, T, D]."""
    sides = {"keys": row.keys, "values": row.values, **({"hidden": row.hidden} if row.hidden else {})}
    shrunk = {side: _shrink(torch.cat(layers), form) for side, layers in sides.items()}
    return {f"{side}.{part}": tensor for side, parts in shrunk.items() for part, tensor in parts.items()}


def unpack(entry: Mapping[str, Tensor], dtype: torch.dtype) -> KVCache:
    """The row that `pack` was given, in `dtype`, up to the form's error."""
    keys, values = (_grow(entry, side, dtype) for side in ("keys", "values"))
    hidden = _grow(entry, "hidden", dtype) if "hidden.data" in entry else ()
    mask = torch.ones(1, keys[0].shape[2], dtype=torch.bool)
    return KVCache(keys, values, mask, positions_of(mask), hidden=hidden)


def layout(shape: Sequence[int], dtype: torch.dtype, form: Form, hidden: Sequence[int] = ()) -> Layout:
    """What `pack` makes of a row of `shape` [L, H, T, D] with hidden states of shape `hidden`."""
    sides = {"keys": shape, "values": shape, **({"hidden": hidden} if hidden else {})}
    described = {side: _layout(each, dtype, form) for side, each in sides.items()}
    return {f"{side}.{part}": value for side, parts in described.items() for part, value in parts.items()}


def _layout(shape: Sequence[int], dtype: torch.dtype, form: Form) -> Layout:
    kept = {"model": dtype, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[form]
    parts = {"data": describe(kept, shape)}
    if form == "fp8":
        per_channel = describe(torch.float32, [*shape[:2], 1, shape[3]])
        parts |= {"mean": per_channel, "scale": per_channel}
    return parts


def _shrink(data: Tensor, form: Form) -> dict[str, Tensor]:
    if form != "fp8":
        return {"data": data if form == "model" else data.bfloat16()}
    mean = data.float().mean(2, keepdim=True)
    centred = data.float() - mean
    scale = (centred.abs().amax(2, keepdim=True) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    small = (centred / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return {"data": small, "mean": mean, "scale": scale}


def _grow(entry: Mapping[str, Tensor], side: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    data = entry[f"{side}.data"]
    if f"{side}.scale" in entry:
        data = data.float() * entry[f"{side}.scale"] + entry[f"{side}.mean"]
    return data.to(dtype).split(1)
