"""What is particular to one method: counts, worked values, order of layers, gates, and what is refused."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.blend import from_the_top
from helmas_core.bridges.c2c import C2CBridge
from helmas_core.bridges.h2c import H2CBridge
from helmas_core.bridges.modules import ModulesBridge, places
from helmas_core.bridges.registry import build_bridge, check_method, make_bridge
from helmas_core.bridges.ridge import RidgeBridge
from helmas_core.config import BridgeSection, TrainConfig
from helmas_core.errors import CacheError, ConfigError, DataError
from helmas_core.handoff.shelf import Shelf
from helmas_core.handoff.states import States
from helmas_core.handoff.store import Store
from helmas_core.layering import load_config
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.geometry import Geometry
from helmas_core.models.inject import forward
from helmas_core.models.layers import after_layers, decoder_layers, output_head
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.training import losses
from helmas_core.training.objective import Objective
from helmas_core.validation import validate
from tests.numerics.test_losses import relay_examples
from tests.tiny import FAMILIES, tiny_model, tiny_pair

pytestmark = pytest.mark.numerics
QWEN_2B = Geometry("qwen2", 28, 12, 2, 128, 1536, 151936, 1e6, "default", 0)
QWEN_HALF = Geometry("qwen2", 24, 14, 2, 64, 896, 151936, 1e6, "default", 0)
LLAMA_8B = Geometry("llama", 32, 32, 8, 128, 4096, 128256, 5e5, "llama3", 0)
SOURCES = [tuple(range(5, 5 + n)) for n in (12, 9, 19, 10)]


def _section(method: str, **options: Any) -> BridgeSection:
    return BridgeSection.model_validate({"method": method, **options})


def _built(pair: Pair, method: str, **options: Any) -> tuple[Any, KVCache, KVCache]:
    torch.manual_seed(0)
    bridge = build_bridge(_section(method, **options), pair)
    state = States(pair.teacher, pair.pad, hidden=bridge.hidden).read(SOURCES)
    own = States(pair.student, pair.pad).read(SOURCES)
    bridge.fit([(state, own)])
    return bridge.eval(), state, own


def _count(method: str, teacher: Geometry, student: Geometry, **options: Any) -> int:
    with torch.device("meta"):
        return make_bridge(_section(method, **options), teacher, student).parameter_count()


def test_counts_of_the_published_pairs() -> None:
    assert _count("kava", QWEN_2B, QWEN_HALF) / 1e6 == pytest.approx(146.8, abs=0.1)
    assert _count("h2c", LLAMA_8B, QWEN_HALF) / 1e6 == pytest.approx(58.7, abs=0.1)
    assert _count("ridge", QWEN_2B, QWEN_HALF, neighbours=4) == 24 * (4 * 2 * 2 * 128) * (2 * 2 * 64)


# Mercator


def _vectors(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)[None, None, None]  # [1, 1, 1, T, D]


def test_mercators_worked_values() -> None:
    east, north, mask = _vectors([1.0, 0.0]), _vectors([0.0, 1.0]), torch.ones(1, 1, dtype=torch.bool)
    assert losses.mercator((100 * east, 100 * north), (east, north), mask).item() == pytest.approx(0)
    assert losses.mercator((east, north), (north, east), mask).item() == pytest.approx(1)
    assert losses.mercator((east, -north), (-east, north), mask).item() == pytest.approx(2)
    hundredfold = torch.tensor(100.0).log().item() ** 2
    far, near = (100 * east, 100 * east), (east, east)
    assert losses.log_norm(far, near, mask).item() == pytest.approx(hundredfold)
    assert losses.mercator(far, near, mask, beta=0.01).item() == pytest.approx(0.01 * hundredfold)


def test_padding_does_not_count_in_a_comparison() -> None:
    ours, theirs = _vectors([1.0, 0.0], [5.0, 5.0]), _vectors([3.0, 0.0], [-5.0, 5.0])
    mask = torch.tensor([[True, False]])
    assert losses.mercator((ours, ours), (theirs, theirs), mask).item() == pytest.approx(0)
    assert losses.log_norm((ours, ours), (theirs, theirs), mask).item() == pytest.approx(torch.tensor(3.0).log() ** 2)


def test_a_collapse_shows_in_the_rank_and_not_in_the_cosine() -> None:
    one = torch.ones(1, 3, 2, 50, 8) + 0.01 * torch.randn(1, 3, 2, 50, 1)
    mask = torch.ones(1, 50, dtype=torch.bool)
    figures = losses.collapse((one, one), (one, torch.randn(1, 3, 2, 50, 8)), mask)
    assert figures["k_cosine"] == pytest.approx(1, abs=1e-4)
    assert figures["k_rank"] < 2.1 and figures["v_rank_own"] > 10


# hidden states


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_that_transformers_counts(family: str) -> None:
    model, read = tiny_model(family), pad_left(SOURCES, 0)
    state = capture(model, *read, (0, 1, 3))
    again = copy.deepcopy(model)
    with torch.no_grad():
        known = again.base_model(
            input_ids=read[0], attention_mask=read[1], position_ids=state.positions, output_hidden_states=True
        ).hidden_states
    assert len(known) == 4
    for ours, index in zip(state.hidden, (0, 1, 3), strict=True):
        torch.testing.assert_close(ours[:, 0], known[index])
    assert not any(module._forward_hooks for module in model.modules())


def test_they_are_stored_only_where_they_are_asked_for(unequal: Pair, tmp_path: Path) -> None:
    store = Store(tmp_path, 1.0)
    plain, rich = (
        States(unequal.teacher, 0, 0, Shelf(store, unequal, unequal.teacher, "model", hidden), hidden)
        for hidden in ((), (2, 5))
    )
    plain.fill(SOURCES, 4)
    small = store.bytes()
    assert rich.known(SOURCES) == 0
    rich.fill(SOURCES, 4)
    assert store.bytes() - small > small
    kept, fresh = rich.read(SOURCES), capture(unequal.teacher.model, *pad_left(SOURCES, 0), (2, 5))
    assert all(torch.equal(a * fresh.mask[:, None, :, None], b * fresh.mask[:, None, :, None])
               for a, b in zip(kept.hidden, fresh.hidden, strict=True))  # fmt: skip
    assert kept.ids is not None and torch.equal(kept.ids * kept.mask, pad_left(SOURCES, 0)[0] * kept.mask)
    assert not plain.read(SOURCES).hidden


def test_layers_are_matched_from_the_top(unequal: Pair) -> None:
    assert from_the_top(5, 3) == [2, 3, 4] and from_the_top(2, 4) == [0, 0, 0, 1]
    bridge, state, own = _built(unequal, "h2c")
    assert isinstance(bridge, H2CBridge) and bridge.hidden == (3, 4, 5)
    before = bridge(state, own)
    for place, changed in enumerate([0, 1, 2]):
        marked = [h + 3 * torch.randn_like(h) if i == place else h for i, h in enumerate(state.hidden)]
        after = bridge(replace(state, hidden=tuple(marked)), own)
        moved = [not torch.equal(a, b) for a, b in zip(before.values, after.values, strict=True)]
        assert moved == [layer == changed for layer in range(3)]
    c2c, state, own = _built(unequal, "c2c", hidden=16)
    assert c2c.matched.tolist() == [2, 3, 4]


# gates


def test_the_gates_of_c2c_are_soft_while_it_learns_and_hard_afterwards(unequal: Pair) -> None:
    bridge, state, own = _built(unequal, "c2c", hidden=16)
    assert isinstance(bridge, C2CBridge)
    with torch.no_grad():
        bridge.gate[:] = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, 3.0]])
    assert bridge._gates().tolist() == [[1, 0, 1], [0, 0, 1]]
    made = bridge(state, own)
    real = own.mask[:, None, :, None]
    torch.testing.assert_close(made.keys[1] * real, own.keys[1] * real, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made.keys[0] * real, own.keys[0] * real, atol=1e-3)
    bridge.train()
    assert bridge.temperature == 1.0
    bridge.anneal(0.5)
    assert bridge.temperature == pytest.approx(0.001**0.5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(bridge._gates())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    bridge.anneal(1.0)
    many = torch.stack([bridge._gates() for _ in range(50)])
    assert ((many < 1e-3) | (many > 1 - 1e-3)).float().mean() > 0.95


# modules


def test_a_module_asks_no_state_of_the_future(unequal: Pair) -> None:
    """Without any cut: token j of the teacher's states changes nothing that the student keeps before j."""
    bridge, state, own = _built(unequal, "modules", layers=2)
    assert isinstance(bridge, ModulesBridge) and places(3, 2) == [0, 2]
    before = bridge(state, own)
    told = state.hidden[0].clone()
    told[:, :, -3:] += 5
    after = bridge(replace(state, hidden=(told,)), own)
    for layer in range(3):
        for ours, theirs in ((before.keys, after.keys), (before.values, after.values)):
            torch.testing.assert_close(ours[layer][:, :, :-3], theirs[layer][:, :, :-3])
            assert (layer == 0) == torch.equal(ours[layer], theirs[layer])  # layer 0 is changed after it has kept


def _fail(_states: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
    raise CacheError("stop")


def test_hooks_and_heads_undo_themselves_after_an_error() -> None:
    model, query = tiny_model("qwen2"), pad_left([[5, 6, 7]], 0)
    plain, head = forward(model, None, *query), torch.nn.Linear(64, 11)
    with after_layers(model, {1: lambda states, _: states + 1}), output_head(model, head):
        assert forward(model, None, *query).shape[-1] == 11
        with pytest.raises(CacheError), after_layers(model, {0: _fail}):
            forward(model, None, *query)
        assert forward(model, None, *query).shape[-1] == 11
    assert torch.equal(forward(model, None, *query), plain)
    assert len(decoder_layers(model)) == 3


def test_more_modules_than_layers_are_refused(unequal: Pair) -> None:
    with pytest.raises(ConfigError, match=r"bridge\.layers: the student has only 3 layers"):
        build_bridge(_section("modules", layers=4), unequal)


def test_an_empty_hand_over_leaves_the_student_alone_with_the_teachers_states(unequal: Pair) -> None:
    bridge, state, _ = _built(unequal, "modules", mode="replace")
    query = pad_left([[9, 8, 7]] * 4, 0)
    cache = bridge(state)
    alone = forward(unequal.student.model, None, *query)
    torch.testing.assert_close(forward(unequal.student.model, cache, *query), alone, rtol=1e-4, atol=1e-4)
    with bridge.adapted(state):
        assert not torch.allclose(forward(unequal.student.model, cache, *query), alone, atol=1e-2)


# the student that is trained along


@pytest.mark.parametrize("student", ["lora", "full"])
@pytest.mark.parametrize(("method", "loss"), [("kava", "mercator"), ("kava", "ce"), ("modules", "ce")])
def test_the_student_learns_beside_the_bridge_and_stays_what_it_was(
    unequal: Pair, method: str, loss: str, student: str
) -> None:
    before = fingerprint(unequal.student.model)
    bridge = build_bridge(_section(method, student=student), unequal).train()
    objective = Objective(unequal, bridge, validate(TrainConfig, {}))
    examples = relay_examples(unequal)
    bridge.fit([objective.states(examples)])
    if bridge.student_lora is not None:
        torch.nn.init.normal_(bridge.student_lora.up[0])
    objective(examples, {loss: 1.0}, random.Random(0))[0].backward()
    learning = [p for p in bridge.student_parameters() if p.grad is not None and p.grad.any()]
    assert learning and all(torch.isfinite(p.grad).all() for p in learning if p.grad is not None)
    with torch.no_grad():
        for parameter in bridge.student_parameters():
            parameter += 1
    assert fingerprint(unequal.student.model) == before
    assert not any(p.requires_grad for p in unequal.student.model.parameters())
    counts = bridge.parameter_counts()
    assert counts.keys() - {"parameters"} == {"student_lora_parameters" if student == "lora" else "student_parameters"}


def test_a_full_copy_is_the_student_until_it_has_learnt(unequal: Pair) -> None:
    bridge, state, own = _built(unequal, "kava", student="full")
    query = pad_left([[9, 8, 7]] * 4, 0)
    plain = forward(unequal.student.model, own, *query)
    with bridge.adapted(state):
        assert torch.equal(forward(unequal.student.model, own, *query), plain)
        with torch.no_grad():
            bridge.student_copy.weights[0] += 1
        assert not torch.equal(forward(unequal.student.model, own, *query), plain)
    assert torch.equal(forward(unequal.student.model, own, *query), plain)


def test_tied_weights_are_copied_once() -> None:
    student = tiny_model("qwen2", tie_word_embeddings=True)
    pair = tiny_pair(tiny_model("llama"), student)
    bridge = build_bridge(_section("kava", student="full"), pair)
    assert bridge.student_copy is not None
    assert len(bridge.student_copy.weights) == len(list(student.parameters()))


# what is refused


def test_ridge_refuses_too_few_samples_for_what_it_fits(unequal: Pair) -> None:
    few = States(unequal.teacher, 0).read(SOURCES), States(unequal.student, 0).read(SOURCES)
    bridge = build_bridge(_section("ridge"), unequal)
    with pytest.raises(DataError, match=r"calibration_items: 512 fitted values per output for 50 tokens.*above 0\.2"):
        bridge.fit([few])
    texts = torch.randint(1, 1000, (52, 50), generator=torch.Generator().manual_seed(0))
    many = [capture(m.model, texts, torch.ones_like(texts)) for m in (unequal.teacher, unequal.student)]
    figures = bridge.fit([(many[0], many[1])])
    assert figures["rows"] == 2600 and 0 < figures["unexplained"] < 1
    assert isinstance(bridge, RidgeBridge) and list(bridge.parameters()) == []


def test_ridge_recovers_a_linear_pair() -> None:
    model = tiny_model("llama")
    bridge, state, own = _built(tiny_pair(model, model), "ridge", neighbours=1, ridge=1e-6, max_ratio=10)
    predicted, target = bridge.compared(state, own)
    assert losses.cache_mse(predicted, target, state.mask).item() < 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "h2c", "mode": "replace"}, r'bridge\.mode: h2c cannot "replace"'),
        ({"method": "ridge", "mode": "fuse"}, r'bridge\.mode: ridge cannot "fuse"'),
        ({"method": "c2c"}, r"train\.stages, functional: c2c cannot learn from cache_mse"),
        ({"method": "modules", "layers": 3}, r"bridge\.layers"),
        ({"method": "kava", "layer_blending": "skip"}, r"bridge\.layer_blending: unknown key"),
        ({"method": "kvaa"}, "did you mean"),
    ],
    ids=str,
)
def test_what_a_method_lacks_is_said_before_a_model_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_method(BridgeSection.model_validate(options), load_config(["lab"]).train)


def test_another_method_leaves_the_options_of_the_first_behind() -> None:
    config = load_config(["lab"], ["bridge.student_lora=2", "bridge.method=kava", "bridge.mlp_ratio=0.5"])
    assert config.bridge.options == {"mlp_ratio": 0.5}
    assert config.bridge.mode is None and config.bridge.student_lora == 2
    same = load_config(["lab"], ["bridge.method=helmas"])
    assert same.bridge.options["projector_input"] == "neighbourhood"


def test_one_student_is_trained_in_one_way() -> None:
    assert _section("kava", student="lora").lora_rank == 8 and _section("kava", student_lora=3).lora_rank == 3
    for student in ("full", "frozen"):
        with pytest.raises(ConfigError, match="leave student_lora out"):
            load_config(["lab"], [f"bridge.student={student}", "bridge.student_lora=2"])


def test_a_fused_hand_over_without_the_students_own_cache_is_refused(unequal: Pair) -> None:
    for method in ("c2c", "h2c", "modules"):
        bridge, state, own = _built(unequal, method)
        assert isinstance(bridge, Bridge)
        with pytest.raises(CacheError, match="own cache"):
            bridge(state)
    with pytest.raises(CacheError, match="what was read"):
        bridge(state, replace(own, ids=None))


def test_a_new_output_head_serves_a_student_of_half_precision(unequal: Pair) -> None:
    half = tiny_pair(unequal.teacher.model, tiny_model("qwen2", seed=9).bfloat16())
    bridge = build_bridge(BridgeSection.model_validate({"method": "modules", "output_head": True}), half).eval()
    ids, mask = pad_left([[5, 6, 7]], 0)
    state, own = half.teacher.read(ids, mask, bridge.hidden), half.student.read(ids, mask)
    with torch.no_grad(), bridge.adapted(state):
        logits = forward(half.student.model, own, *pad_left([[8, 9]], 0))
    assert logits.shape[-1] == half.student.geometry.vocab_size
