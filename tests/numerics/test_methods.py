"""Every method in every mode on pairs that differ in all four ways: one table, and what must hold for each row."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from helmas_core.bridges.artefact import describe, load_bridge, save_bridge
from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.bridges.registry import METHODS, build_bridge, check_method, method
from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.data.item import Item
from helmas_core.data.prompts import Handoff, render
from helmas_core.data.tasks import get_task
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.examples import Example, make_example
from helmas_core.handoff.states import both_states
from helmas_core.layering import load_config
from helmas_core.models.inject import forward
from helmas_core.models.latent import Latent
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.training.following import LEAD, choose
from helmas_core.training.losses import IGNORE
from helmas_core.training.objective import Objective
from helmas_core.validation import validate
from tests.tiny import chorus_pair, tiny_model, tiny_pair, unequal_pair

pytestmark = pytest.mark.numerics
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("helmas", "replace", {}),
    ("helmas", "fuse", {"projector_input": "neighbourhood"}),
    ("ridge", "replace", {"max_ratio": 1e9}),
    ("kava", "replace", {"mlp_ratio": 0.25}),
    ("kava", "fuse", {"aggregation": "weighted"}),
    ("c2c", "fuse", {"hidden": 32}),
    ("h2c", "fuse", {}),
    ("modules", "fuse", {"bottleneck": 16}),
    ("bottleneck", "replace", {"rank": 12}),
    ("bottleneck", "fuse", {"rank": 8, "linear": True}),
    ("modules", "replace", {"bottleneck": 16, "gate": "fixed", "output_head": True}),
]
PAIRS = {  # layers, KV heads, head dim and hidden size: teacher → student
    "5·4·16·64 → 3·2·24·144": unequal_pair,
    "2·1·32·64 → 4·4·16·64": lambda: tiny_pair(
        tiny_model("qwen2", layers=2, heads=2, kv_heads=1, head_dim=32, seed=3),
        tiny_model("gemma3", layers=4, heads=4, kv_heads=4, head_dim=16, seed=4),
    ),
    "4·2·16·64 → 2·1·32·96": lambda: tiny_pair(
        tiny_model("yarn", layers=4, seed=5), tiny_model("mistral", layers=2, heads=3, kv_heads=1, head_dim=32, seed=6)
    ),
    "5·4·16·64 + 2·1·32·64 → 3·2·24·144": chorus_pair,
}
SOURCES = [tuple(range(5, 5 + n)) for n in (12, 9, 19, 10)]
FOLLOWING = [list(range(200, 200 + n)) for n in (4, 6, 1, 5)]
SEEN = 8  # source tokens before a continuation
_made = lru_cache(lambda name: PAIRS[name]())


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return _made(request.param)


@pytest.fixture(params=ROWS, ids=lambda row: " ".join(map(str, row)))
def section(request: pytest.FixtureRequest) -> BridgeSection:
    name, mode, options = request.param
    return BridgeSection.model_validate({"method": name, "mode": mode, **options})


@pytest.fixture
def bridge(pair: Pair, section: BridgeSection) -> Iterator[Bridge]:
    """Fitted, stirred and ready to be used; afterwards the models must be what they were."""
    if pair.more and not method(section.method).summable:
        pytest.skip("it hands over more than a cache")
    before = [(fingerprint(m.model), _hooks(m.model)) for m in pair.sides.values()]
    torch.manual_seed(0)
    made = build_bridge(section, pair)
    made.fit([_read(made, pair, [tuple(range(i, i + 40)) for i in range(1, 9)])])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    yield made.eval()
    assert [(fingerprint(m.model), _hooks(m.model)) for m in pair.sides.values()] == before


def _thinking(pair: Pair, bridge: Bridge, handoff: Handoff) -> Pair:
    """The pair as the hand-off wants it; skips a method that has no use for it."""
    if handoff != "latent":
        return pair
    if bridge.mode == "fuse" and bridge.aligned:
        pytest.skip("it fuses token by token")
    first, *more = (replace(v, teacher=replace(v.teacher, latent=Latent(v.teacher.model, 3))) for v in pair.views)
    return replace(first, more=tuple(more))


def _hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _read(bridge: Bridge, pair: Pair, sources: list[tuple[int, ...]]) -> tuple[Any, Any]:
    """What each model keeps of the same sources."""
    teacher, student = both_states(pair, TrainConfig(state_gib=0), hidden=hidden_of(bridge, pair))
    return teacher.read(sources), student.read(sources)


def _logits(
    bridge: Bridge, pair: Pair, sources: list[tuple[int, ...]], following: list[list[int]], seen: int | None = None
) -> Tensor:
    """What the student says after a hand-off of `sources`, or of their first `seen` tokens."""
    state, own = _read(bridge, pair, sources)
    if seen is not None:
        counts = torch.full((len(sources),), seen)
        state, own = state.keep_first(counts), own.keep_first(counts)
    cache = bridge(state, own if bridge.mode == "fuse" else None)
    with bridge.adapted(state):
        return forward(pair.student.model, cache, *pad_left(following, pair.pad))


def _examples(pair: Pair, handoff: Handoff) -> list[Example]:
    item = [
        Item(f"sum-{i}", f"What is {i} + {2 * i}?", str(3 * i), reasoning=f"{i} + {2 * i} is {3 * i}.\nThat is all.")
        for i in range(3, 7)
    ]
    task = get_task("gsm8k")
    return [make_example(pair, task, i, render(task, i, handoff)) for i in item]


def test_every_method_and_mode_has_a_row() -> None:
    carrying = {name: kind for name, kind in METHODS.items() if name != "prefix"}  # a control, which is not to
    wanted = {(name, mode) for name, kind in carrying.items() for mode in kind.modes}
    assert {(name, mode) for name, mode, _ in ROWS} == wanted


@torch.no_grad()
def test_shapes_and_singles(pair: Pair, bridge: Bridge) -> None:
    state, own = _read(bridge, pair, SOURCES)
    made = bridge(state, own)
    assert [t.shape for t in made.keys + made.values] == [t.shape for t in own.keys + own.values]
    assert all(torch.isfinite(t).all() for t in made.keys + made.values)
    together = _logits(bridge, pair, SOURCES, FOLLOWING)
    assert together.shape == (4, 6, 1024) and torch.isfinite(together).all()
    for row, (source, following) in enumerate(zip(SOURCES, FOLLOWING, strict=True)):
        alone = _logits(bridge, pair, [source], [following])
        torch.testing.assert_close(together[row, -len(following) :], alone[0], rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_a_hand_off_carries_something_and_nothing_of_the_future(pair: Pair, bridge: Bridge) -> None:
    others = [source[:SEEN] + tuple(token + 300 for token in source[SEEN:]) for source in SOURCES]
    late = [[*row[:3], *(token + 9 for token in row[3:])] for row in FOLLOWING]
    whole = _logits(bridge, pair, SOURCES, FOLLOWING)
    assert not torch.allclose(whole, _logits(bridge, pair, others, FOLLOWING), atol=1e-3)
    cut = _logits(bridge, pair, SOURCES, FOLLOWING, SEEN)
    torch.testing.assert_close(cut, _logits(bridge, pair, others, FOLLOWING, SEEN), rtol=1e-4, atol=1e-4)
    changed = _logits(bridge, pair, SOURCES, late)
    for row, following in enumerate(FOLLOWING):
        first = 6 - len(following)
        torch.testing.assert_close(changed[row, first : first + 3], whole[row, first : first + 3])


@pytest.mark.parametrize("handoff", get_args(Handoff))
def test_every_parameter_gets_a_finite_gradient(pair: Pair, bridge: Bridge, handoff: Handoff) -> None:
    thinking = _thinking(pair, bridge, handoff)
    objective = Objective(thinking, bridge.train(), validate(TrainConfig, {"continuation": 0.5}))
    able = sorted(bridge.losses & {"ce", "cache_mse", "mercator"})
    torch.manual_seed(0)
    total, terms = objective(_examples(pair, handoff), dict.fromkeys(able, 1.0), random.Random(0))
    assert set(able) <= terms.keys() and torch.isfinite(total)
    if total.requires_grad:
        total.backward()
    for name, parameter in bridge.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_a_continuation_is_learnt_from_what_came_before_it(pair: Pair, bridge: Bridge) -> None:
    train = validate(TrainConfig, {"continuation": 1.0, "continuation_tokens": 4})
    [example] = _examples(pair, "prompt")[:1]
    source, seed = tuple(range(5, 65)), 1
    cut = int(choose([replace(example, source=source)], train, random.Random(seed), 0, pair.device).visible)
    assert cut + 4 < 50
    terms = []
    for later in (source[50:], tuple(token + 300 for token in source[50:])):
        told = replace(example, source=source[:50] + later)
        terms.append(Objective(pair, bridge, train)([told], {"ce": 1.0}, random.Random(seed))[1]["ce"])
    assert terms[0] == pytest.approx(terms[1], abs=1e-5)


def test_a_recitation_says_what_was_handed_over(pair: Pair, bridge: Bridge) -> None:
    """All of the source is visible, what is scored stands in it as written, and what it says depends on all of it."""
    train = validate(TrainConfig, {"recitation": 1.0, "continuation_tokens": 4})
    [example] = _examples(pair, "prompt")[:1]
    source = tuple(range(5, 65))
    told = [replace(example, source=source[:50] + end) for end in (source[50:], tuple(t + 300 for t in source[50:]))]
    for seed in range(20):
        said = choose(told[:1], train, random.Random(seed), 0, pair.device)
        ids, labels, visible = said.ids[0].tolist(), said.labels[0].tolist(), int(said.visible)
        assert visible == len(source) and ids == [*range(ids[0], ids[0] + len(ids))]
        assert labels == [IGNORE] * (LEAD - 1) + [id + 1 for id in ids[LEAD - 1 :]]
        assert LEAD <= len(labels) < LEAD + 4
    early = next(seed for seed in range(99) if choose(told, train, random.Random(seed), 0, pair.device).ids.max() < 50)
    losses = [Objective(pair, bridge, train)([one], {"ce": 1.0}, random.Random(early))[1]["ce"] for one in told]
    assert losses[0] != losses[1]


@torch.no_grad()
def test_a_round_trip_changes_no_bit(pair: Pair, bridge: Bridge, section: BridgeSection, tmp_path: Path) -> None:
    save_bridge(tmp_path / "b.safetensors", bridge, describe(Config(bridge=section), pair, {}))
    again = load_bridge(tmp_path / "b.safetensors", pair)
    assert again.parameter_counts() == bridge.parameter_counts()
    ours, theirs = (_logits(b, pair, SOURCES, FOLLOWING) for b in (bridge, again))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("handoff", get_args(Handoff))
def test_own_equals_text_beside_it(pair: Pair, bridge: Bridge, section: BridgeSection, handoff: Handoff) -> None:
    config = load_config(["lab"], ["eval.max_new_tokens=3"])  # of another method: what counts is the bridge
    arms = ("bridge", "text", "deranged", "own")
    thinking = _thinking(pair, bridge, handoff)
    found = evaluate_examples(config, thinking, bridge, _examples(pair, handoff), arms, "validation", Silent())
    assert found["agreement"] == {"own-text": 1.0}
    assert (found["bridge"]["method"], found["bridge"]["mode"]) == (section.method, section.mode)
    assert found["arms"]["bridge"]["n"] == 4


def test_the_profile_of_a_method_is_one_that_it_can_follow(section: BridgeSection) -> None:
    config = load_config(["lab"], [f"bridge.method={section.method}"])
    if section.method in ("kava", "c2c", "h2c", "modules"):
        config = load_config(["lab", section.method])
    assert config.bridge.method == section.method
    check_method(config.bridge, config.train)
