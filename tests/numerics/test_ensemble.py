"""Several teachers: a bridge each, summed through gates. What holds of every method is in test_methods.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helmas_core.bridges.artefact import describe, load_bridge, save_bridge
from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.bridges.ensemble import Ensemble
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.data import relay
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task
from helmas_core.errors import CacheError, CheckpointError, ConfigError
from helmas_core.evaluation.arms import Arms, Batch, batches
from helmas_core.evaluation.costs import real_bytes
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.evaluation.inspect import inspect_cache
from helmas_core.handoff.examples import Example, make_example
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.states import both_states
from helmas_core.handoff.store import Store
from helmas_core.handoff.told import Each
from helmas_core.layering import load_config
from helmas_core.models.cache import KVCache
from helmas_core.models.joint import JointCache, together
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.reading import BridgedReader, Reader
from tests.foreign import foreign_pair
from tests.tiny import chorus_pair, tiny_model, unequal_pair, with_teachers

pytestmark = pytest.mark.numerics
SOURCES = [tuple(range(5, 5 + n)) for n in (12, 9, 19)]
UNKEPT = TrainConfig(state_gib=0)
chorus = lru_cache(chorus_pair)


def made(pair: Pair, **section: Any) -> Bridge:
    """A bridge, fitted on what the pair's models read."""
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection.model_validate(section), pair)
    bridge.fit([read(pair, bridge, [tuple(range(i, i + 40)) for i in range(1, 9)])])
    return bridge.eval()


def read(pair: Pair, bridge: Bridge, sources: Any = SOURCES) -> tuple[KVCache, KVCache]:
    teachers, student = both_states(pair, UNKEPT, hidden=hidden_of(bridge, pair))
    return teachers.read(sources), student.read(sources)


def ensemble(bridge: Bridge) -> Ensemble:
    assert isinstance(bridge, Ensemble)
    return bridge


def tensors(cache: KVCache) -> list[Tensor]:
    return [*cache.keys, *cache.values]


def relay_examples(pair: Pair, count: int = 6) -> list[Example]:
    task = get_task("relay")
    return [make_example(pair, task, item, render(task, item, "prompt")) for item in relay.items("train", count)]


@torch.no_grad()
@pytest.mark.parametrize("section", [{}, {"mode": "fuse"}, {"method": "c2c", "hidden": 16}, {"method": "h2c"}])
def test_at_the_start_the_cache_is_the_mean_of_what_the_bridges_make(section: dict[str, Any]) -> None:
    pair = chorus()
    bridge = made(pair, **section)
    state, own = read(pair, bridge)
    parts = [part(heard, own) for part, heard in zip(bridge.by_teacher, state.by_teacher, strict=True)]
    for ours, one, other in zip(tensors(bridge(state, own)), *map(tensors, parts), strict=True):
        torch.testing.assert_close(ours, (one + other) / 2)
        assert not torch.allclose(one, other, atol=1e-2)


@torch.no_grad()
def test_each_bridge_is_what_it_would_be_alone() -> None:
    """Its own closed-form start and statistics, from its own teacher."""
    pair = chorus()
    bridge = made(pair, projector_depth=1)
    for part, view in zip(bridge.by_teacher, pair.views, strict=True):
        alone = made(view, projector_depth=1)
        state, own = read(view, alone)
        for ours, theirs in zip(tensors(part(state, own)), tensors(alone(state, own)), strict=True):
            torch.testing.assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_a_second_teacher_that_is_the_first_one_changes_nothing(mode: str) -> None:
    pair = unequal_pair()
    twice = with_teachers(pair, pair.teacher.model)
    caches = []
    for one in (pair, twice):
        bridge = made(one, mode=mode, projector_depth=1)
        caches.append(bridge(*read(one, bridge)))
    for ours, theirs in zip(*map(tensors, caches), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_teacher_has_no_gates() -> None:
    assert not isinstance(build_bridge(BridgeSection(), unequal_pair()), Ensemble)


@torch.no_grad()
def test_gates_choose_by_layer_and_for_keys_and_values_apart() -> None:
    pair = chorus()
    bridge = ensemble(made(pair))
    state, own = read(pair, bridge)
    bridge.gates[1, 0, 2] = 99.0  # the second teacher gives the keys of layer 2, the first one the values of layer 0
    bridge.gates[0, 1, 0] = 99.0
    first, second = (part(heard, own) for part, heard in zip(bridge.by_teacher, state.by_teacher, strict=True))
    mixed = bridge(state, own)
    torch.testing.assert_close(mixed.keys[2], second.keys[2])
    torch.testing.assert_close(mixed.values[0], first.values[0])
    torch.testing.assert_close(mixed.values[2], (first.values[2] + second.values[2]) / 2)
    shares = bridge.diagnostics()["teachers"]
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(torch.stack((shares[0, 2], shares[1, 0])), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@torch.no_grad()
def test_what_is_compared_is_what_is_handed_over() -> None:
    """In mode "replace" the translation, as losses see it, is the cache itself in that form."""
    pair = chorus()
    bridge = made(pair)
    state, own = read(pair, bridge)
    handed = bridge.standard_form(bridge(state, own))
    for ours, theirs in zip(bridge.compared(state, own)[0], handed, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_blend_weights_and_fusing_gates_are_shown_with_each_teachers_share() -> None:
    bridge = ensemble(made(chorus(), mode="fuse", layer_blending="blend"))
    bridge.gates[0] = 1.0
    found = bridge.diagnostics()
    assert found["blend"].shape == (2, 3, 5 + 2) and found["gate"].shape == (2, 3, 2)
    torch.testing.assert_close(found["blend"].sum(-1), torch.ones(2, 3))
    assert (found["blend"][..., :5].sum(-1) > 0.7).all()
    alone = bridge.by_teacher[0].diagnostics()["gate"]
    torch.testing.assert_close(found["gate"], alone)  # both bridges' gates are at their start


CUTS: dict[str, Callable[[KVCache], KVCache]] = {
    "row": lambda cache: cache.row(1),
    "rows": lambda cache: cache.rows(torch.tensor([2, 0])),
    "tokens": lambda cache: cache.tokens(3, 8),
    "first": lambda cache: cache.first(7),
    "picked": lambda cache: cache.picked(torch.tensor([[3, 4], [11, 12], [0, 5]])),
    "keep_first": lambda cache: cache.keep_first(torch.tensor([2, 3, 4])),
    "to": lambda cache: cache.to("cpu", torch.float64),
}


@pytest.mark.parametrize("name", CUTS)
def test_what_is_done_to_a_joint_cache_is_done_to_every_teachers(name: str) -> None:
    pair = chorus()
    state, _ = read(pair, made(pair, method="h2c"))
    assert isinstance(state, JointCache) and [cache.layers for cache in state.by_teacher] == [5, 2]
    for ours, before in zip(CUTS[name](state).by_teacher, state.by_teacher, strict=True):
        theirs = CUTS[name](before)
        assert torch.equal(ours.mask, theirs.mask) and torch.equal(ours.positions, theirs.positions)
        for one, other in zip((*tensors(ours), *ours.hidden), (*tensors(theirs), *theirs.hidden), strict=True):
            assert torch.equal(one, other)


def test_bytes_are_those_of_all_teachers() -> None:
    pair = chorus()
    state, _ = read(pair, made(pair))
    assert state.bytes == sum(cache.bytes for cache in state.by_teacher)
    assert real_bytes(state) == sum(map(real_bytes, state.by_teacher)) > real_bytes(state.by_teacher[0])
    assert together([state.by_teacher[1]]) is not None and not isinstance(together(state.by_teacher[:1]), JointCache)


def test_a_teacher_that_has_not_read_is_missed() -> None:
    pair = chorus()
    bridge = made(pair)
    state, own = read(pair, bridge)
    with pytest.raises(CacheError, match="1 teachers have read, and the bridge is for 2"):
        bridge(state.by_teacher[0], own)


def test_what_hands_over_more_than_a_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pair\.more_teachers: modules .* choose another bridge\.method"):
        build_bridge(BridgeSection(method="modules"), chorus())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pair: replace(pair, more=()), "teachers 2, of this one 1"),
        (lambda pair: replace(pair, more=pair.more * 2), "teachers 2, of this one 3"),
        (lambda pair: with_teachers(pair, tiny_model("qwen2", layers=3, heads=2, kv_heads=1, head_dim=32, seed=3)),
         "teacher_2 layers is 2"),
        (lambda pair: with_teachers(pair, tiny_model("qwen2", layers=2, heads=2, kv_heads=1, head_dim=32, seed=4)),
         "teacher_2 fingerprint"),
        (lambda pair: replace(pair, more=(replace(pair.more[0], codec=foreign_pair().codec),)), "teacher 2 tokenizer"),
    ],
)  # fmt: skip
def test_a_bridge_is_bound_to_every_teacher(change: Callable[[Pair], Pair], match: str, tmp_path: Path) -> None:
    pair, path = chorus(), tmp_path / "b.safetensors"
    save_bridge(path, build_bridge(BridgeSection(), pair), describe(Config(), pair, {}))
    load_bridge(path, pair)
    with pytest.raises(CheckpointError, match=match):
        load_bridge(path, change(pair))


def test_the_students_lora_is_one_whoever_teaches(tmp_path: Path) -> None:
    pair, section = chorus(), BridgeSection.model_validate({"student_lora": 2})
    bridge, path = build_bridge(section, pair), tmp_path / "b.safetensors"
    alone = build_bridge(section, unequal_pair()).parameter_counts()["student_lora_parameters"]
    counts = bridge.parameter_counts()
    assert counts["student_lora_parameters"] == alone
    parts = sum(build_bridge(BridgeSection(), view).parameter_count() for view in pair.views)
    assert counts["parameters"] == parts + ensemble(bridge).gates.numel()
    save_bridge(path, bridge, describe(Config(bridge=section), pair, {}))
    assert load_bridge(path, pair).parameter_counts() == counts
    with bridge.adapted(read(pair, bridge)[0]):
        pass


def test_the_store_knows_what_each_teacher_has_read(tmp_path: Path) -> None:
    pair, found = chorus(), []
    for views in (pair.views[1], pair):  # the second teacher's states are there already
        teachers, _ = both_states(views, UNKEPT, Store(tmp_path, 1.0))
        found.append((teachers.known(SOURCES), teachers.readings(SOURCES)))
        teachers.fill(SOURCES, 2)
    assert found == [(0, 3), (3, 6)] and teachers.known(SOURCES) == 6
    kept, fresh = both_states(pair, UNKEPT, Store(tmp_path, 1.0))[0], both_states(pair, UNKEPT)[0]
    for ours, theirs in zip(kept.read(SOURCES).by_teacher, fresh.read(SOURCES).by_teacher, strict=True):
        for one, other in zip(tensors(ours.row(0)), tensors(theirs.row(0)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_memory_for_states_is_shared_among_the_teachers() -> None:
    teachers, student = both_states(chorus(), TrainConfig(state_gib=4.0))
    assert [states.budget for states in teachers.by_teacher] == [2**30, 2**30] and student.budget == 2**31


@torch.no_grad()
def test_deranged_is_every_teachers_cache_of_another_item() -> None:
    pair = chorus()
    bridge, [batch] = made(pair), batches(relay_examples(pair, 4), 4)
    arms, seen = Arms(pair, bridge, 2), []
    bridge.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for arm in ("bridge", "deranged"):
        arms.run(arm, batch)
    item, foreign = seen
    arms.run("bridge", Batch(batch.donors, batch.donors))
    for ours, donors, own in zip(foreign.by_teacher, seen[-1].by_teacher, item.by_teacher, strict=True):
        assert torch.equal(ours.keys[0], donors.keys[0])
        assert ours.keys[0].shape != own.keys[0].shape or not torch.allclose(ours.keys[0], own.keys[0])


@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_a_growing_text_is_bridged_as_if_at_once(mode: str) -> None:
    pair, notes = chorus(), list[str]()
    bridge = made(pair, mode=mode)
    readers = [Reader(member, 0) for member in pair.teachers]
    reader = BridgedReader(pair, bridge, readers, Reader(pair.student, 0), notes.append)
    for ids in (list(range(5, 25)), list(range(5, 31)), [5, 6, 7, 99, 98]):
        with torch.no_grad():
            whole = bridge(*read(pair, bridge, [tuple(ids)]))
        for ours, theirs in zip(tensors(reader.read(ids)), tensors(whole), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert reader.pointwise and not notes


def test_an_inspection_shows_the_gates() -> None:
    pair = chorus()
    found = inspect_cache(load_config(["lab"]), pair, made(pair), "The seat of Kara is number four hundred and twelve.")
    assert found["teachers"] == {side: [[0.5, 0.5]] * 3 for side in "kv"}
    assert list(found["rope_residual"]) == ["teacher", "teacher_2", "student"]
    assert [len(found["blend"]["k"]), len(found["blend"]["k"][0])] == [3, 7]
    assert "teachers" not in inspect_cache(load_config(["lab"]), pair, None, "Some words that are long enough for it.")


# Unlike tokenizers: the student reads bytes, the first teacher too or pieces, the second one the other.


def _mixed(first: str) -> Pair:
    pair = foreign_pair(chat=False)
    more = replace(pair, teacher=chorus().more[0].teacher)
    if first == "bytes":
        return replace(pair, codec=None, more=(more,))
    return replace(pair, more=(replace(more, codec=None),))


def _told(pair: Pair) -> list[Example]:
    sets = ["data.dataset=relay", "eval.max_new_tokens=3", "pair.min_alignment=0"]
    return prepare(load_config(["lab"], sets), pair, "test", 4, 0, Silent())


@pytest.mark.parametrize("first", ["bytes", "pieces"])
def test_each_teacher_reads_its_own_tokens(first: str) -> None:
    pair = _mixed(first)
    examples = _told(pair)
    assert all(isinstance(example.told, Each) for example in examples)
    together = both_states(pair, UNKEPT)[0].read([example.told for example in examples])
    for place, view in enumerate(pair.views):
        alone = both_states(view, UNKEPT)[0].read([one.told for one in _told(view)])
        ours = together.by_teacher[place]
        assert torch.equal(ours.mask, alone.mask) and ours.rotated == alone.rotated
        for one, other in zip(tensors(ours), tensors(alone), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("first", ["bytes", "pieces"])
@pytest.mark.parametrize("mode", ["replace", "fuse"])
def test_teachers_of_unlike_tokenizers_answer_in_every_arm(first: str, mode: str) -> None:
    pair = _mixed(first)
    bridge = build_bridge(BridgeSection.model_validate({"mode": mode, "start": "random"}), pair).eval()
    arms = ("student", "teacher", "text", "bridge", "deranged", "own", "filler", "k_only")
    config = load_config(["lab"], ["eval.max_new_tokens=3", "eval.batch=3"])
    found = evaluate_examples(config, pair, bridge, _told(pair), arms, "test", Silent())
    assert found["agreement"] == {"own-text": 1.0} and found["arms"].keys() == set(arms)
    assert found["alignment"]["tokens"] > 0
    key = {"bytes": "teacher_2_tokenizer", "pieces": "teacher_tokenizer"}[first]
    assert [name for name in found["pair"] if name.endswith("_tokenizer")] == [key]
    shown = inspect_cache(config, pair, bridge, "The seat of Kara is number four hundred and twelve.")
    assert shown["layers"] and len(shown["token_mass"]["teacher"]) == shown["tokens"]
