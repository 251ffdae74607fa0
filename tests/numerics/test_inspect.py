"""What `inspect-cache` measures, by a second route: transformers' own attention, a plain unembedding, sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config
from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.attention import attention_weights, span_mass, token_mass
from helmas_core.evaluation.diagnose import diagnose, mean_row
from helmas_core.evaluation.inspect import inspect_cache
from helmas_core.evaluation.measure import cache_figures, cosines, rms_ratios
from helmas_core.layering import load_config
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.lens import value_lens
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.report.inspection import inspection
from helmas_core.training.losses import effective_rank
from tests.tiny import tiny_model

pytestmark = pytest.mark.numerics
SAID = "These are the seat numbers: Kara 412; Tona 318; Bovik 977; Lami 205. What seat number does Tona have?"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(["lab"], ["data.dataset=relay"])


@pytest.fixture(scope="module")
def bridge(lab_pair: Pair) -> Bridge:
    """Fitted in closed form only."""
    made = build_bridge(BridgeSection.model_validate({"layer_blending": "attention"}), lab_pair)
    ids = lab_pair.tokenizer(SAID)["input_ids"]
    read = pad_left([ids, ids[5:]], lab_pair.pad)
    made.fit([(capture(lab_pair.teacher.model, *read), capture(lab_pair.student.model, *read))])
    return made.eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_attention_is_what_transformers_says_it_is(family: str) -> None:
    model = tiny_model(family)
    ids = torch.randint(5, 900, (1, 12), generator=torch.Generator().manual_seed(0))
    ours = attention_weights(model, capture(model, *pad_left([ids[0, :8].tolist()], 0)), ids[0, 8:].tolist())
    model.set_attn_implementation("eager")
    theirs = model(ids, output_attentions=True).attentions
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other[0, :, 8:], atol=1e-5, rtol=1e-4)
    mass = torch.stack([other[0, :, 8:, :8].sum(-1).mean(-1) for other in theirs])
    torch.testing.assert_close(torch.tensor(span_mass(ours, 8)), mass, atol=1e-5, rtol=1e-4)
    assert token_mass(ours, 8).sum().item() == pytest.approx(mass.mean().item(), abs=1e-5)


def test_the_lens_is_the_unembedding_of_what_the_value_writes() -> None:
    model: Any = tiny_model("llama", heads=4, kv_heads=2)
    values = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(1))
    attention = model.base_model.layers[1].self_attn
    both = torch.cat([values[:, :1], values[:, :1], values[:, 1:], values[:, 1:]], 1).flatten(1)
    logits = model.lm_head(model.base_model.norm(both @ attention.o_proj.weight.T))
    assert value_lens(model, 1, values, 4) == logits.topk(4).indices.tolist()
    assert value_lens(model, 0, values, 4) != logits.topk(4).indices.tolist()


def test_effective_rank_counts_directions() -> None:
    directions = torch.eye(8)[:3].repeat(20, 1)
    assert effective_rank(directions) == pytest.approx(2.0, abs=0.01)  # three points lie in a plane
    assert effective_rank(directions + 100.0) == pytest.approx(2.0, abs=0.01)
    assert effective_rank(torch.ones(20, 8)) == pytest.approx(1.0, abs=1e-3)


def _random(seed: int) -> KVCache:
    draw = torch.Generator().manual_seed(seed)
    keys, values = (tuple(torch.randn(1, 2, 5, 4, generator=draw) for _ in range(2)) for _ in range(2))
    return KVCache(keys, values, torch.ones(1, 5, dtype=torch.bool), torch.arange(5)[None])


def test_ratios_and_cosines_of_a_scaled_cache() -> None:
    cache = _random(0)
    louder = KVCache(tuple(2 * k for k in cache.keys), tuple(-3 * v for v in cache.values), cache.mask, cache.positions)
    keys, values = rms_ratios(louder, cache)
    assert keys.tolist() == [[pytest.approx(2.0)] * 2] * 2
    assert values.tolist() == [[pytest.approx(3.0)] * 2] * 2
    forms = [(torch.stack(c.keys, 1), torch.stack(c.values, 1)) for c in (louder, cache)]
    found = cosines(forms[0], forms[1])
    assert found[0].shape == (2, 2)
    assert found[0].tolist() == [[pytest.approx(1.0)] * 2] * 2
    assert found[1].tolist() == [[pytest.approx(-1.0)] * 2] * 2
    norm = cache.keys[1][0, 1].norm(dim=-1).mean().item()
    assert cache_figures(cache)[1]["heads"][1]["k_norm"] == pytest.approx(norm, abs=1e-3)


def test_three_caches_side_by_side(lab_pair: Pair, config: Config, bridge: Bridge) -> None:
    found = inspect_cache(config, lab_pair, bridge, SAID)
    assert found["sides"].keys() == {"teacher", "own", "bridged"}
    assert [len(found["sides"][name]) for name in ("teacher", "own", "bridged")] == [8, 3, 3]
    assert [len(row["heads"]) for row in found["layers"]] == [3, 3, 3]
    for row in found["layers"]:
        mean = sum(head["k_cosine"] for head in row["heads"]) / 3
        assert row["k_cosine"] == pytest.approx(mean, abs=2e-4)
    assert "".join(found["tokens_read"]) == found["text"]
    assert all(len(mass) == found["tokens"] for mass in found["token_mass"].values())
    for place in found["positions"]:
        assert place["token"] == found["tokens_read"][place["position"]]
        assert [len(place["nearest"]), len(place["lens"]), len(place["lens"][0])] == [3, 3, 3]
    right = [place["nearest"][0]["position"] == place["position"] for place in found["positions"]]
    assert sum(right) > len(right) / 2
    assert "Where the reader of each cache looks" in inspection(found)


def test_a_cache_compared_with_itself_and_with_another_item(lab_pair: Pair, config: Config, bridge: Bridge) -> None:
    item = inspect_cache(config, lab_pair, bridge)["item"]
    same = inspect_cache(config, lab_pair, bridge, item=item, against=bridge)["against"]["layers"]
    assert all(row["k_cosine"] == row["attention_cosine"] == pytest.approx(1.0, abs=1e-4) for row in same)
    number = int(item.rsplit("-", 1)[1]) + 1
    other = inspect_cache(config, lab_pair, bridge, item=item, against=f"{item.rsplit('-', 1)[0]}-{number}")
    assert all(row["attention_cosine"] < 0.999 for row in other["against"]["layers"])


def test_the_teacher_alone(lab_pair: Pair, config: Config) -> None:
    found = inspect_cache(config, lab_pair, None, SAID)
    assert (found["cache"], len(found["layers"]), found["positions"]) == ("teacher", 8, [])
    assert "Where the reader of each cache looks" in inspection(found)
    with pytest.raises(ConfigError, match="needs a bridge"):
        inspect_cache(config, lab_pair, None, SAID, against="x")


def test_what_cannot_be_inspected(lab_pair: Pair, config: Config, bridge: Bridge) -> None:
    with pytest.raises(DataError, match="did you mean"):
        inspect_cache(config, lab_pair, bridge, item="relay-test-0-00")
    with pytest.raises(DataError, match="too few"):
        inspect_cache(config, lab_pair, bridge, "a")
    with pytest.raises(ConfigError, match="exclude each other"):
        inspect_cache(config, lab_pair, bridge, SAID, item="1")


def test_diagnostics_are_means_of_inspections(lab_pair: Pair, config: Config, bridge: Bridge, tmp_path: Path) -> None:
    one = diagnose(config.model_copy(update={"eval": config.eval}), lab_pair, bridge, Silent(), count=1)
    row = inspect_cache(config, lab_pair, bridge)["layers"][1]
    assert one["layers"][1] == {**one["layers"][1], **{k: v for k, v in row.items() if k in ("k_cosine", "mass")}}
    two = diagnose(config, lab_pair, bridge, Silent(), count=2)
    assert (two["n"], len(two["heads"][0]), len(two["mass"][0])) == (2, 3, 6)
    assert two["layers"][1]["k_cosine"] != one["layers"][1]["k_cosine"]
    assert mean_row([{"layer": 1, "a": 1.0, "b": None}, {"layer": 1, "a": 2.0, "b": 1.0}]) == {
        "layer": 1,
        "a": 1.5,
        "b": None,
    }
