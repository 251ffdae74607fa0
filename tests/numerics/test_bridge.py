"""The helmas bridge: counts, identity, shapes, gradients, statistics, fusing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.fit import AUTO_STRENGTHS, Ridge, Statistics, Sums
from helmas_core.bridges.helmas import HelmasBridge, HelmasOptions
from helmas_core.bridges.registry import build_bridge, make_bridge
from helmas_core.config import BridgeSection
from helmas_core.errors import DataError
from helmas_core.models import cache as models_cache
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.geometry import Geometry
from helmas_core.models.inject import forward, generate
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.training import losses
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.numerics
QWEN3_8B = Geometry("qwen3", 36, 32, 8, 128, 4096, 151936, 1e6, "default", 0)
QWEN3_2B = replace(QWEN3_8B, layers=28, attention_heads=16, hidden_size=2048)
SOURCES = [list(range(5, 5 + n)) for n in (12, 7, 19, 3)]
OPTIONS: list[dict[str, Any]] = [
    {"layer_blending": blending, "rope_handling": rope}
    for blending in ("skip", "blend", "attention")
    for rope in ("full", "naive")
]
OPTIONS += [{"projector_input": "layer", "projector_depth": depth} for depth in (1, 2, 3)]
OPTIONS += [{"projector_input": "neighbourhood", "neighbours": k} for k in (1, 4, 9)]
OPTIONS += [{"projector_input": "neighbourhood", "rank": r, "ridge": "auto"} for r in (16, 1000)]
OPTIONS += [{"projector_input": "layer", "rank": 30, "projector_depth": 1}]
OPTIONS += [
    {"projector_depth": 1},
    {"projector_depth": 3, "hidden_expansion": 0.5},
    {"blend_kernel_size": 9, "layer_blending": "blend"},
]


def _fitted(pair: Pair, mode: str = "replace", **options: Any) -> tuple[HelmasBridge, KVCache, KVCache]:
    bridge, state, own = _fitted_by(pair, BridgeSection.model_validate({"mode": mode, **options}))
    assert isinstance(bridge, HelmasBridge)
    return bridge, state, own


def _fitted_by(pair: Pair, section: BridgeSection) -> tuple[Bridge, KVCache, KVCache]:
    bridge = build_bridge(section, pair)
    texts = torch.randint(1, 512, (16, 40), generator=torch.Generator().manual_seed(3))
    state, own = (capture(m.model, texts, torch.ones_like(texts)) for m in (pair.teacher, pair.student))
    bridge.fit([(state, own)])
    read = pad_left(SOURCES, 0)
    return bridge, capture(pair.teacher.model, *read), capture(pair.student.model, *read)


@torch.no_grad()
def _without_gradient(bridge: Bridge, state: KVCache) -> KVCache:
    return bridge(state)


@pytest.mark.parametrize(("blending", "blend_count"), [("skip", 0), ("blend", 10_752), ("attention", 2_016)])
def test_the_counts_of_the_default_pair(blending: str, blend_count: int) -> None:
    with torch.device("meta"):
        bridge = make_bridge(BridgeSection.model_validate({"layer_blending": blending}), QWEN3_8B, QWEN3_2B)
    assert bridge.parameter_count() == 3_670_016 + blend_count
    assert all(p.dtype == torch.float32 for p in bridge.parameters())


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("rope", ["full", "naive"])
def test_a_self_pair_with_an_identity_start_is_the_identity(depth: int, rope: str) -> None:
    model = tiny_model("qwen2")
    pair = tiny_pair(model, model)
    options = {"layer_blending": "skip", "start": "identity", "projector_depth": depth, "rope_handling": rope}
    bridge, state, own = _fitted(pair, **options)
    for ours, theirs in zip(bridge(state).keys + bridge(state).values, own.keys + own.values, strict=True):
        real = own.mask[:, None, :, None]
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-4)
    query = pad_left([[9, 8, 7]] * 4, 0)
    assert generate(model, bridge(state), *query, 5).tokens == generate(model, own, *query, 5).tokens


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_any_option_fits_an_unequal_pair(unequal: Pair, options: dict[str, Any], mode: str) -> None:
    bridge, state, own = _fitted(unequal, mode, **options)
    made = bridge(state, own)
    assert [k.shape for k in made.keys] == [k.shape for k in own.keys]
    assert [v.shape for v in made.values] == [v.shape for v in own.values]
    assert made.rotated
    assert all(torch.isfinite(t).all() for t in made.keys + made.values)
    assert forward(unequal.student.model, made, *pad_left([[9, 8]] * 4, 0)).shape == (4, 2, 1024)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_equals_its_singles(unequal: Pair, options: dict[str, Any]) -> None:
    bridge, state, _ = _fitted(unequal, **options)
    together = bridge(state)
    for row in range(4):
        alone = bridge(state.row(row))
        for ours, theirs in zip(together.row(row).keys, alone.keys, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


QUICK = [
    BridgeSection.model_validate(given)
    for given in (*({"mode": "replace", **o} for o in OPTIONS), {"method": "ridge", "max_ratio": 99})
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_layers_at_once_make_what_they_make_one_by_one(
    unequal: Pair, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small layers are taken at once, large ones one by one, and others in parts."""
    bridge, state, _ = _fitted(unequal, **options)
    monkeypatch.setitem(models_cache.AT_ONCE, "cpu", 1)
    alone = _without_gradient(bridge, state)
    for most in (2 * state.keys[0].numel(), 2**26):
        monkeypatch.setitem(models_cache.AT_ONCE, "cpu", most)
        for ours, theirs in zip(_tensors(_without_gradient(bridge, state)), _tensors(alone), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def _tensors(cache: KVCache) -> tuple[torch.Tensor, ...]:
    return cache.keys + cache.values


@pytest.mark.parametrize("section", QUICK, ids=str)
def test_bf16_caches_are_translated_in_bf16_as_well_as_in_fp32(unequal: Pair, section: BridgeSection) -> None:
    """Off by what rounding once or twice costs, and far less than any bridge is; fp32 caches are not rounded at all."""
    bridge, state, own = _fitted_by(unequal, section)
    coarse, real = state.to("cpu", torch.bfloat16), own.mask[:, None, None, :, None]
    exact, quick = bridge(coarse), _without_gradient(bridge, coarse)
    assert not torch.equal(exact.values[0], quick.values[0])
    for a, b in zip(bridge.standard_form(exact), bridge.standard_form(quick), strict=True):
        assert ((a - b) * real).square().mean().sqrt() < 0.01 * (a * real).square().mean().sqrt()
    for a, b in zip(bridge(state).keys, _without_gradient(bridge, state).keys, strict=True):
        assert torch.equal(a, b)


def test_a_bridge_that_learnt_on_is_cast_again(unequal: Pair) -> None:
    bridge, state, _ = _fitted(unequal, projector_input="neighbourhood")
    coarse = state.to("cpu", torch.bfloat16)
    before = _without_gradient(bridge, coarse)
    again = _without_gradient(bridge, coarse)
    optimiser = torch.optim.AdamW(bridge.parameters(), lr=0.1)
    torch.stack(bridge(coarse).values).square().sum().backward()
    optimiser.step()
    after = _without_gradient(bridge, coarse)
    assert all(map(torch.equal, before.values, again.values))
    assert not any(map(torch.equal, before.values, after.values))
    torch.testing.assert_close(bridge(coarse).values, after.values, rtol=0.05, atol=0.1)


def test_the_closed_form_start_recovers_a_linear_pair() -> None:
    """Teacher and student share one model, so a linear map can explain everything."""
    model = tiny_model("llama")
    for projector_input in ("head", "layer", "neighbourhood"):
        options = {"projector_input": projector_input, "layer_blending": "skip", "ridge": 1e-6}
        bridge, state, own = _fitted(tiny_pair(model, model), **options)
        predicted, target = bridge.translate(state), bridge.standard_form(own)
        assert losses.cache_mse(predicted, target, state.mask).item() < 1e-3, projector_input


def test_a_full_rank_starts_like_no_bottleneck(unequal: Pair) -> None:
    start = {"projector_input": "neighbourhood", "projector_depth": 1}
    bridge, state, _ = _fitted(unequal, **start)
    wide, narrow = (_fitted(unequal, **start, rank=rank)[0] for rank in (96, 24))  # O = 2 · 2 heads · 24
    for ours, theirs in zip(wide(state).keys, bridge(state).keys, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert narrow.parameter_count() == 3 * 24 * (512 + 96)
    matrix = narrow.projectors[0].matrix()  # type: ignore[operator]
    assert torch.linalg.matrix_rank(matrix, rtol=1e-4).tolist() == [24] * 3
    torch.testing.assert_close(bridge.diagnostics()["blend"], wide.diagnostics()["blend"], rtol=1e-3, atol=1e-4)


def test_parameter_budgets_of_a_real_pair() -> None:
    """Qwen2.5 1.5B to 0.5B: two settings under 5 million, one under 50."""
    teacher = Geometry("qwen2", 28, 12, 2, 128, 1536, 151936, 1e6, "default", 0)
    student = Geometry("qwen2", 24, 14, 2, 64, 896, 151936, 1e6, "default", 0)
    counts = []
    for options in ({"projector_depth": 1, "rank": 88}, {"rank": 64, "hidden_expansion": 0.1}, {"hidden_expansion": 2}):
        section = BridgeSection.model_validate({"projector_input": "neighbourhood", **options})
        with torch.device("meta"):
            counts.append(make_bridge(section, teacher, student).parameter_count())
    assert counts == [4_866_048, 4_976_640, 40_894_464]


def test_the_chosen_ridge_is_reported(unequal: Pair) -> None:
    bridge = HelmasBridge(unequal.teacher.geometry, unequal.student.geometry, "replace", HelmasOptions(ridge="auto"))
    bridge.attach(unequal)
    batch = pad_left([[*SOURCES[i % 4], 7 + i] for i in range(12)], 0)
    figures = bridge.fit([(capture(unequal.teacher.model, *batch), capture(unequal.student.model, *batch))])
    assert len(figures["ridge"]) == 2 and set(figures["ridge"]) <= set(AUTO_STRENGTHS)
    assert figures["rows"] == 2 * int(batch[1].sum())  # all heads of all real tokens, held out or not
    single = pad_left(SOURCES[:1], 0)
    with pytest.raises(DataError, match=r"bridge\.ridge"):
        bridge.fit([(capture(unequal.teacher.model, *single), capture(unequal.student.model, *single))])


def test_a_rank_needs_wide_inputs() -> None:
    with pytest.raises(ValueError, match="rank needs projector_input"):
        HelmasOptions(rank=8)


def _sums(statistics: Statistics, cache: KVCache) -> Sums:
    sums = Sums(statistics)
    sums.add(*cache.stacked(), cache.mask)
    return sums


def test_statistics_ignore_padding(unequal: Pair) -> None:
    bridge, _, _ = _fitted(unequal)
    plain = capture(unequal.teacher.model, *pad_left([SOURCES[0]], 0))
    padded = capture(unequal.teacher.model, *pad_left([SOURCES[0], list(range(60))], 0))
    one, two = (type(bridge.source)(5, 4, 16) for _ in range(2))
    one.set(_sums(one, plain))
    first = KVCache(
        tuple(k[:1] for k in padded.keys), tuple(v[:1] for v in padded.values), padded.mask[:1], padded.positions[:1]
    )
    two.set(_sums(two, first))
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.std, two.std, rtol=1e-3, atol=1e-4)


def test_without_standardising_states_go_in_as_they_are(unequal: Pair) -> None:
    bridge, state, own = _fitted(unequal, projector_input="layer", standardise=False)
    assert not bridge.source.mean.any() and (bridge.target.std == 1).all()
    keys, values = bridge.standard_form(own)
    torch.testing.assert_close(values, own.stacked()[1])
    assert bridge(state).keys[0].shape == own.keys[0].shape and keys.isfinite().all()


def test_large_constant_parts_do_not_hurt() -> None:
    """Key biases of some models reach ±200; the statistics take them out before anything is fitted."""
    model = tiny_model("qwen2")
    for layer in model.model.layers:
        torch.nn.init.uniform_(layer.self_attn.k_proj.bias, -200, 200)
    bridge, state, own = _fitted(tiny_pair(model, model), layer_blending="skip", ridge=1e-6)
    assert losses.cache_mse(bridge.translate(state), bridge.standard_form(own), state.mask).item() < 1e-2


def test_fusing_starts_near_the_students_own_cache(unequal: Pair) -> None:
    bridge, state, own = _fitted(unequal, "fuse")
    assert bridge.gate is not None
    with torch.no_grad():
        bridge.gate.fill_(-30.0)
    for ours, theirs in zip(bridge(state, own).keys, own.keys, strict=True):
        real = own.mask[:, None, :, None]
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_a_heads_size_is_right_from_the_start(unequal: Pair, options: dict[str, Any], mode: str) -> None:
    bridge, _, _ = _fitted(unequal, mode, **options)
    texts = torch.randint(1, 512, (4, 40), generator=torch.Generator().manual_seed(5))
    state, own = (capture(m.model, texts, torch.ones_like(texts)) for m in (unequal.teacher, unequal.student))
    made = bridge(state, own)
    for ours, theirs in zip(made.keys + made.values, own.keys + own.values, strict=True):
        ratio = (ours.square().mean((0, 2, 3)) / theirs.square().mean((0, 2, 3))).sqrt()
        assert ratio.min() > 0.05 and ratio.max() < 2.0


def test_blending_mixes_layers_and_nothing_else(unequal: Pair) -> None:
    """A marker in one teacher layer reaches only the student layers whose weights name it."""
    for kind in ("skip", "blend", "attention"):
        bridge, _, _ = _fitted(unequal, layer_blending=kind)
        assert bridge.blend is not None
        marked = torch.zeros(5, 1, 3, 4, 16)
        marked[2] = 1.0
        reached = bridge.blend(marked, 0).amax((1, 2, 3, 4))
        torch.testing.assert_close(reached, bridge.diagnostics()["blend"][0, :, 2], rtol=1e-5, atol=1e-6)


def test_a_ridge_too_small_for_what_it_is_given_says_so() -> None:
    ridge, alike = Ridge([1e-9]), torch.randn(1, 64, 1).expand(-1, -1, 300)
    ridge.add(alike, torch.randn(1, 64, 4), torch.ones(64, dtype=torch.bool), torch.zeros(64, dtype=torch.bool))
    with pytest.raises(DataError, match=r"too small for fp32.*raise it"):
        ridge.solve()
