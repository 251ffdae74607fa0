"""The forms in which states are stored, and what each may lose."""

from __future__ import annotations

import pytest
import torch

from helmas_core.handoff import packing
from helmas_core.models.cache import KVCache

pytestmark = pytest.mark.unit


def equal(ours: KVCache, theirs: KVCache) -> bool:
    pairs = zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True)
    same = torch.equal(ours.mask, theirs.mask) and torch.equal(ours.positions, theirs.positions)
    return same and all(torch.equal(a, b) for a, b in pairs)


def _row(dtype: torch.dtype, length: int = 40) -> KVCache:
    """Channels of very different means and widths, as real keys have."""
    generator = torch.Generator().manual_seed(0)
    means, widths = (torch.randn(4, 3, 1, 8, generator=generator) for _ in range(2))
    data = [(torch.randn(4, 3, length, 8, generator=generator) * widths.exp() + 20 * means).to(dtype) for _ in "kv"]
    mask = torch.ones(1, length, dtype=torch.bool)
    return KVCache(data[0].split(1), data[1].split(1), mask, torch.arange(length)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_models_own_dtype_loses_nothing(dtype: torch.dtype) -> None:
    row = _row(dtype)
    assert equal(packing.unpack(packing.pack(row, "model"), dtype), row)
    if dtype == torch.bfloat16:
        assert equal(packing.unpack(packing.pack(row, "bf16"), dtype), row)


def test_bf16_keeps_a_two_hundred_and_fifty_sixth() -> None:
    row = _row(torch.float32)
    back = packing.unpack(packing.pack(row, "bf16"), torch.float32)
    errors = [((a - b).abs() / a.abs()).max().item() for a, b in zip(row.keys, back.keys, strict=True)]
    assert 0 < max(errors) <= 1 / 256


@pytest.mark.parametrize("length", [1, 2, 40])
def test_fp8_keeps_a_sixteenth_of_what_differs_from_the_channels_mean(length: int) -> None:
    row = _row(torch.float32, length)
    back = packing.unpack(packing.pack(row, "fp8"), torch.float32)
    errors = []
    for ours, theirs in zip((*row.keys, *row.values), (*back.keys, *back.values), strict=True):
        centred = ours - ours.mean(2, keepdim=True)
        scale = centred.abs().amax(2, keepdim=True) / 448
        rounding = 4e-7 * ours.abs()  # of fp32 itself, where the mean is large
        assert ((ours - theirs).abs() <= centred.abs() / 16 + scale / 1024 + rounding).all()
        errors.append(((ours - theirs).norm() / centred.norm().clamp(min=1e-6)).item())
    assert max(errors) < 0.04
    assert length < 3 or max(errors) > 0.001  # two values are the ends of the scale, and exact


def test_fp8_takes_channels_that_never_change() -> None:
    constant = (torch.full((1, 2, 5, 4), 200.0), torch.zeros(1, 2, 5, 4))
    row = KVCache(constant, constant, torch.ones(1, 5, dtype=torch.bool), torch.arange(5)[None])
    assert equal(packing.unpack(packing.pack(row, "fp8"), torch.float32), row)


def test_smaller_forms_are_smaller() -> None:
    row = _row(torch.float32, 400)
    sizes = [sum(t.nbytes for t in packing.pack(row, form).values()) for form in ("model", "bf16", "fp8")]
    assert sizes[1] * 2 == sizes[0] and sizes[2] < 0.27 * sizes[0]
