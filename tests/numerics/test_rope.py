"""RoPE off and on, checked by a second route: what the key projection really put out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CohereConfig, GPTJConfig, PreTrainedModel

from helmas_core.errors import PairError
from helmas_core.models import cache as models_cache
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.loading import freeze
from helmas_core.models.rope import Rope, apply_rotation, find_rope, remove_rotation, rope_residual
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
IDS = torch.arange(3, 43)[None]
_SOURCES = ("k_layernorm", "k_norm", "k_proj", "query_key_value", "qkv_proj", "c_attn")  # the first that a layer has


def _projected(model: PreTrainedModel) -> tuple[KVCache, list[Tensor]]:
    """What is cached of IDS, and per layer what the last module before RoPE put out, [1, H, T, D]."""
    held = [[getattr(m, n) for n in _SOURCES if hasattr(m, n)] for m in model.modules()]
    outs: list[Any] = []
    for layer in filter(None, held):
        layer[0].register_forward_hook(lambda _m, _i, out: outs.append(out))
    cache = capture(model, IDS, torch.ones_like(IDS))
    assert len(outs) == cache.layers
    return cache, [_keys_of(out, k, model.config) for out, k in zip(outs, cache.keys, strict=True)]


def _keys_of(out: Tensor, keys: Tensor, config: Any) -> Tensor:
    _, heads, tokens, dim = keys.shape
    if out.shape == keys.shape:
        return out
    if config.model_type == "gpt_neox":  # head by head: query, key, value
        out = out.view(1, tokens, heads, 3, dim)[:, :, :, 1]
    elif config.model_type in ("phi3", "gpt2"):  # all queries, all keys, all values
        queries = config.num_attention_heads * dim
        out = out[..., queries : queries + heads * dim]
    return out.reshape(1, tokens, heads, dim).transpose(1, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_unrotated_keys_are_what_the_projection_put_out(family: str) -> None:
    model = tiny_model(family)
    rope, residual = find_rope(model, IDS)
    assert residual < 1e-5
    cache, projected = _projected(model)
    for keys, out in zip(rope.unrotate(cache).keys, projected, strict=True):
        torch.testing.assert_close(keys, out, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_at_once_are_turned_as_one_by_one(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers are turned at once, large ones one by one."""
    model = tiny_model(family)
    rope, cache = find_rope(model, IDS)[0], capture(model, IDS, torch.ones_like(IDS))
    monkeypatch.setitem(models_cache.AT_ONCE, "cpu", 1)
    alone = rope.unrotate(cache)
    again = rope.rotate(alone)
    monkeypatch.setitem(models_cache.AT_ONCE, "cpu", 2**26)
    for ours, theirs in zip((rope.unrotate(cache), rope.rotate(alone)), (alone, again), strict=True):
        assert ours.rotated is theirs.rotated
        for key, other in zip(ours.keys, theirs.keys, strict=True):
            assert key.dtype == other.dtype
            torch.testing.assert_close(key, other, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_rotating_again_gives_the_cache_back(family: str) -> None:
    model = tiny_model(family)
    rope, cache = find_rope(model, IDS)[0], capture(model, IDS, torch.ones_like(IDS))
    again = rope.rotate(rope.unrotate(cache))
    for before, after in zip(cache.keys, again.keys, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_layers_may_have_unlike_numbers_of_heads() -> None:
    model = tiny_model("llama")
    rope, cache = find_rope(model, IDS)[0], capture(model, IDS, torch.ones_like(IDS))
    fewer = replace(cache, keys=(cache.keys[0][:, :1], *cache.keys[1:]))
    plain, whole = rope.unrotate(fewer).keys, rope.unrotate(cache).keys
    torch.testing.assert_close(plain[0], whole[0][:, :1], rtol=0, atol=0)
    torch.testing.assert_close(plain[1], whole[1], rtol=0, atol=0)


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


def test_layers_without_rope_are_found_by_what_they_do() -> None:
    model = tiny_model("smollm3", layers=5)
    assert not any("rope" in name or "rotary" in name for name, _ in model.model.layers.named_modules())
    assert find_rope(model, IDS)[0].still == {1, 3}
    assert rope_residual(model, Rope(model), IDS) > 0.1
    assert rope_residual(model, Rope(model, range(5)), IDS) > 0.1
    assert find_rope(tiny_model("llama"), IDS)[0].still == frozenset()


def test_learned_positions_leave_keys_as_they_are() -> None:
    for family in ("gpt2", "gpt_neo"):
        model = tiny_model(family)
        rope, cache = find_rope(model, IDS)[0], capture(model, IDS, torch.ones_like(IDS))
        assert rope.module is None
        assert all(torch.equal(a, b) for a, b in zip(rope.unrotate(cache).keys, cache.keys, strict=True))


def test_part_of_a_head_turns_where_the_family_says_so() -> None:
    for family, part in (("gpt_neox", 4), ("stablelm", 4), ("phi3", 8), ("llama", 16)):
        model = tiny_model(family, head_dim=16)
        rope, cache = find_rope(model, IDS)[0], capture(model, IDS, torch.ones_like(IDS))
        off = rope.unrotate(cache)
        assert torch.equal(off.keys[0][..., part:], cache.keys[0][..., part:])
        assert not torch.allclose(off.keys[0][..., part - 1], cache.keys[0][..., part - 1], atol=1e-4)


@pytest.mark.parametrize("config", [CohereConfig, GPTJConfig])
def test_keys_that_turn_in_another_way_are_refused(config: Any) -> None:
    """Neighbouring channels in place of halves; GPT-J has no rotary module that could be asked."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "rotary_dim": 8}
    model = AutoModelForCausalLM.from_config(config(**shape, initializer_range=0.2), attn_implementation="eager")
    with pytest.raises(PairError, match=r"its RoPE cannot be undone .* by halves"):
        freeze("tiny", model)


def test_gemma_layers_turn_by_their_own_angles() -> None:
    model = tiny_model("gemma3", layers=6)
    rope = find_rope(model, IDS)[0]
    assert not rope.still
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
