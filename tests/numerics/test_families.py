"""Every method in every mode with every family as teacher and as student: a ring of unequal pairs.

Each family hands over to the next one, which differs from it in layers, KV heads, head dim and hidden size; so each is
once a teacher and once a student for every row of the table of methods.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from helmas_core.bridges.artefact import describe, load_bridge, save_bridge
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge, method_mode
from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.data.prompts import Handoff
from helmas_core.errors import CacheError
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.evaluation.inspect import inspect_cache
from helmas_core.layering import load_config
from helmas_core.models.inject import generate
from helmas_core.models.latent import Latent
from helmas_core.models.loading import fingerprint, freeze
from helmas_core.models.pair import Pair
from helmas_core.models.record import record_queries
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.runs import Run
from helmas_core.training.objective import Objective
from helmas_core.training.session import Session
from helmas_core.validation import validate
from tests.numerics.test_methods import FOLLOWING, ROWS, SEEN, SOURCES, _examples, _hooks, _logits, _read
from tests.tiny import FAMILIES, ONE_HEAD_EACH, tiny_config, tiny_model, tiny_pair

pytestmark = pytest.mark.numerics
SHAPES = (  # no two alike in anything; MQA, GQA, MHA
    {"layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 16},
    {"layers": 3, "heads": 6, "kv_heads": 2, "head_dim": 8},
    {"layers": 4, "heads": 3, "kv_heads": 3, "head_dim": 32},
)
RING = FAMILIES if len(FAMILIES) % 3 != 1 else (*FAMILIES, FAMILIES[1])  # the last one meets the first
HANDOFFS: tuple[Handoff, ...] = get_args(Handoff)
TABLE = [
    pytest.param(BridgeSection.model_validate({"method": method, "mode": mode, **options}), place)
    for method, mode, options in ROWS
    for place in range(len(RING))
]


def _id(value: Any) -> str:
    return f"{RING[value]} to next" if isinstance(value, int) else f"{value.method} {method_mode(value)}"


@lru_cache
def _pair(place: int) -> Pair:
    """Place i's family over to the next one's."""
    models = []
    for index in (place, (place + 1) % len(RING)):
        shape, family = SHAPES[index % 3], RING[index]
        wide = {"hidden_size": 20 * shape["heads"]} if family in ("qwen3", "gemma2", "qwen3_moe") else {}
        models.append(tiny_model(family, **shape, seed=index, **wide))  # a head dim that hidden_size does not tell
    return tiny_pair(*models)


def _bridge(section: BridgeSection, pair: Pair) -> Bridge:
    """Fitted and stirred."""
    torch.manual_seed(0)
    bridge = build_bridge(section, pair)
    bridge.fit([_read(bridge, pair, [tuple(range(i, i + 30)) for i in range(1, 7)])])
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return bridge.eval()


def _handoff(bridge: Bridge, place: int) -> Handoff:
    """All in turn, of those that the method takes."""
    able = HANDOFFS if bridge.mode == "replace" or not bridge.aligned else HANDOFFS[:2]
    return able[place % len(able)]


@pytest.mark.parametrize("place", range(len(RING)), ids=lambda place: RING[place])
def test_neighbours_differ_in_everything(place: int) -> None:
    pair = _pair(place)
    for what in ("layers", "kv_heads", "head_dim", "hidden_size"):
        assert getattr(pair.teacher.geometry, what) != getattr(pair.student.geometry, what), what
    assert pair.teacher.rope_residual < 1e-5


@pytest.mark.parametrize(("section", "place"), TABLE, ids=_id)
def test_a_method_between_two_families(section: BridgeSection, place: int, tmp_path: Path) -> None:
    pair = _pair(place)
    before = [(fingerprint(m.model), _hooks(m.model)) for m in (pair.teacher, pair.student)]
    bridge = _bridge(section, pair)
    with torch.no_grad():
        _carries(bridge, pair)
        save_bridge(tmp_path / "b.safetensors", bridge, describe(Config(bridge=section), pair, {}))
        again = load_bridge(tmp_path / "b.safetensors", pair)
        ours, theirs = (_logits(b, pair, SOURCES, FOLLOWING) for b in (bridge, again))
    assert torch.equal(ours, theirs)
    _learns(bridge, pair, place)
    assert [(fingerprint(m.model), _hooks(m.model)) for m in (pair.teacher, pair.student)] == before


def _carries(bridge: Bridge, pair: Pair) -> None:
    """Shapes, batch = singles, and nothing of what comes later."""
    state, own = _read(bridge, pair, SOURCES)
    made = bridge(state, own)
    assert [t.shape for t in made.keys + made.values] == [t.shape for t in own.keys + own.values]
    whole = _logits(bridge, pair, SOURCES, FOLLOWING)
    assert torch.isfinite(whole).all()
    for row in (0, 2):
        alone = _logits(bridge, pair, [SOURCES[row]], [FOLLOWING[row]])
        torch.testing.assert_close(whole[row, -len(FOLLOWING[row]) :], alone[0], rtol=2e-3, atol=2e-3)
    others = [source[:SEEN] + tuple(token + 300 for token in source[SEEN:]) for source in SOURCES]
    assert not torch.allclose(whole, _logits(bridge, pair, others, FOLLOWING), atol=1e-3)
    cut, other = (_logits(bridge, pair, sources, FOLLOWING, SEEN) for sources in (SOURCES, others))
    torch.testing.assert_close(cut, other, rtol=1e-4, atol=1e-4)
    late = _logits(bridge, pair, SOURCES, [[*row[:-1], row[-1] + 9] for row in FOLLOWING])
    real = torch.tensor([[column >= 6 - len(row) for column in range(5)] for row in FOLLOWING])
    torch.testing.assert_close(late[:, :-1][real], whole[:, :-1][real], rtol=1e-4, atol=1e-4)


def _learns(bridge: Bridge, pair: Pair, place: int) -> None:
    """A finite gradient for every parameter, after one of the hand-offs."""
    handoff = _handoff(bridge, place)
    if handoff == "latent":
        pair = replace(pair, teacher=replace(pair.teacher, latent=Latent(pair.teacher.model, 3)))
    objective = Objective(pair, bridge.train(), validate(TrainConfig, {"continuation": 0.5}))
    able = sorted(bridge.losses & {"ce", "cache_mse", "mercator"})
    torch.manual_seed(0)
    total, _ = objective(_examples(pair, handoff), dict.fromkeys(able, 1.0), random.Random(0))
    assert torch.isfinite(total)
    if total.requires_grad:
        total.backward()
    for name, parameter in bridge.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("place", range(len(RING)), ids=lambda place: RING[place])
def test_own_equals_text(place: int) -> None:
    pair, handoff = _pair(place), HANDOFFS[place % 3]
    bridge = _bridge(BridgeSection.model_validate({"method": "helmas"}), pair)
    if handoff == "latent":
        pair = replace(pair, teacher=replace(pair.teacher, latent=Latent(pair.teacher.model, 3)))
    config, arms = load_config(["lab"], ["eval.max_new_tokens=3"]), ("bridge", "text", "deranged", "own")
    found = evaluate_examples(config, pair, bridge, _examples(pair, handoff), arms, "validation", Silent())
    assert found["agreement"] == {"own-text": 1.0}


@pytest.mark.parametrize("place", range(len(RING)), ids=lambda place: RING[place])
def test_the_attention_loss_and_inspection_or_a_reason(place: int) -> None:
    """Where attention cannot be looked into, the loss is refused and nothing else is."""
    pair = _pair(place)
    bridge = _bridge(BridgeSection.model_validate({"method": "helmas"}), pair)
    objective = Objective(pair, bridge.train(), validate(TrainConfig, {}))
    closed = RING[(place + 1) % len(RING)] == "gpt_neo"
    assert torch.isfinite(objective(_examples(pair, "prompt"), {"kl": 1.0}, random.Random(0))[0])
    if closed:
        with pytest.raises(CacheError, match=r"gpt_neo .* cannot be recorded"):
            objective(_examples(pair, "prompt"), {"attention": 1.0}, random.Random(0))
    else:
        assert torch.isfinite(objective(_examples(pair, "prompt"), {"attention": 1.0}, random.Random(0))[0])
    found = inspect_cache(load_config(["lab"]), pair, bridge.eval(), text="The fourth of March was a Friday, they say.")
    assert found["positions"] and not found["notes"]
    assert (found["layers"][0]["attention_cosine"] is None) == closed


def test_a_training_that_cannot_record_ends_before_it_begins() -> None:
    pair = _pair(RING.index("gpt_neo") - 1)
    config = Config(train=validate(TrainConfig, {}))  # whose stages hold the attention loss
    session = Session(config, pair, cast(Run, None), Silent())
    with pytest.raises(CacheError, match="gpt_neo"):
        session._schedule(build_bridge(BridgeSection.model_validate({"method": "helmas"}), pair))
    ridge = build_bridge(BridgeSection.model_validate({"method": "ridge", "max_ratio": 1e9}), pair)
    assert session._schedule(ridge).stages == ()


def test_heads_are_counted_where_a_family_does_not_say() -> None:
    for family in ONE_HEAD_EACH:
        geometry = tiny_pair(tiny_model(family), tiny_model()).teacher.geometry
        assert geometry.kv_heads == geometry.attention_heads == 4


def test_a_tower_that_reads_text_is_found_beside_one_that_sees() -> None:
    """As many layers in either: nothing may be taken from the wrong one."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=tiny_config("gemma3", layers=4).to_dict(),
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=7,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()
    member = freeze("tiny", model)
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert member.rope_residual < 1e-5 and member.geometry.layers == 4 and member.geometry.kv_heads == 2
    source, query = pad_left([list(range(15, 27)), list(range(15, 22))], 0), pad_left([[200, 201], [202]], 0)
    with record_queries(model) as seen:
        told = generate(model, member.read(*source, hidden=(0, 2)), *query, 4)
    whole = pad_left([[*range(15, 27), 200, 201], [*range(15, 22), 202]], 0)
    assert told.tokens == generate(model, None, *whole, 4).tokens
    assert len(seen.queries) == (1 + 4) * 4 and seen.queries[0].shape[1] == 4
