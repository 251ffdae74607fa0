"""RoPE off and on, checked by a second route: what the key projection really put out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helmas_core.models.cache import capture
from helmas_core.models.rope import Rope, apply_rotation, remove_rotation, rope_residual
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
IDS = torch.arange(3, 43)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_unrotated_keys_are_what_the_projection_put_out(family: str) -> None:
    model = tiny_model(family)
    assert rope_residual(model, Rope(model), IDS) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_rotating_again_gives_the_cache_back(family: str) -> None:
    model = tiny_model(family)
    rope, cache = Rope(model), capture(model, IDS, torch.ones_like(IDS))
    again = rope.rotate(rope.unrotate(cache))
    for before, after in zip(cache.keys, again.keys, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_wrong_theta_cancels_in_a_round_trip_but_not_here() -> None:
    model = tiny_model("llama")
    wrong = Rope(tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 777.0}))
    cache = capture(model, IDS, torch.ones_like(IDS))
    torch.testing.assert_close(wrong.rotate(wrong.unrotate(cache)).keys[1], cache.keys[1], rtol=1e-4, atol=1e-4)
    assert rope_residual(model, wrong, IDS) > 0.1


def test_yarn_scales_and_the_scale_is_divided_out() -> None:
    rope = Rope(tiny_model("yarn"))
    cos, sin = rope.angles(torch.arange(5)[None])
    scale = (cos.square() + sin.square()).mean().item()
    assert scale > 1.01
    keys = torch.randn(1, 2, 5, 16)
    torch.testing.assert_close(remove_rotation(apply_rotation(keys, cos, sin), cos, sin), keys)


def test_gemma_layers_turn_by_their_own_angles() -> None:
    model = tiny_model("gemma3", layers=6)
    rope = Rope(model)
    assert set(rope.layer_types) == {"sliding_attention", "full_attention"}
    local, world = (rope.angles(torch.arange(9)[None], kind)[0] for kind in ("sliding_attention", "full_attention"))
    assert not torch.allclose(local, world)


def test_bf16_keys_are_turned_in_fp32() -> None:
    model = tiny_model("llama")
    rope, cache = Rope(model), capture(model, IDS, torch.ones_like(IDS))
    exact, coarse = rope.unrotate(cache), rope.unrotate(cache.to("cpu", torch.bfloat16))
    assert all(keys.dtype == torch.float32 for keys in coarse.keys)
    rounded = [k.to(torch.bfloat16).float() for k in cache.keys]
    fine = rope.unrotate(replace(cache, keys=tuple(rounded)))
    for ours, theirs in zip(coarse.keys, fine.keys, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert not torch.equal(exact.keys[0], coarse.keys[0])


def test_partial_rotation_leaves_the_other_channels_alone() -> None:
    keys, angle = torch.randn(1, 1, 4, 8), torch.rand(1, 1, 4, 4)
    turned = apply_rotation(keys, angle.cos(), angle.sin())
    assert torch.equal(turned[..., 4:], keys[..., 4:])
    assert not torch.allclose(turned[..., :4], keys[..., :4])
