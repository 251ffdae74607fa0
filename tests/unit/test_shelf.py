"""States on disk: what comes back, when no model runs, and what a broken or full store costs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.handoff.packing import Form
from helmas_core.handoff.shelf import Ids, Shelf
from helmas_core.handoff.states import States
from helmas_core.handoff.store import GIB, Store
from helmas_core.models.pair import Pair
from tests.tiny import tiny_model, tiny_pair
from tests.unit.test_packing import equal

pytestmark = pytest.mark.unit

SOURCES: list[Ids] = [tuple(range(5, 5 + n)) for n in (3, 4, 6, 7, 9, 12, 13)]


def _states(pair: Pair, folder: Path, form: Form = "model", gib: float = 1.0, memory: float = 0.0) -> States:
    shelf = Shelf(Store(folder, gib), pair, pair.teacher, form)
    return States(pair.teacher, pair.pad, memory, shelf)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


class Refuses(torch.nn.Module):
    """In a model's place where no model may run."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the model runs")


@pytest.fixture
def no_teacher(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Call `undo` to let it run again."""
    monkeypatch.setattr(unequal.teacher.model.base_model, "forward", Refuses().forward)
    return monkeypatch


@pytest.mark.parametrize("memory", [0.0, 1e9])
def test_what_is_read_back_is_what_memory_would_hold(unequal: Pair, tmp_path: Path, memory: float) -> None:
    plain = States(unequal.teacher, unequal.pad, 1e9)
    plain.fill(SOURCES, 3)
    cold = _states(unequal, tmp_path, memory=memory)
    cold.fill(SOURCES, 3)
    warm = _states(unequal, tmp_path, memory=memory)
    warm.fill(SOURCES, 3)
    picked = [SOURCES[5], SOURCES[0], SOURCES[6]]
    assert equal(cold.read(picked), plain.read(picked))
    assert equal(warm.read(picked), plain.read(picked))
    assert warm.known(SOURCES) == len(SOURCES) and len(_shards(tmp_path)) == 3


def test_a_filled_store_needs_no_model(unequal: Pair, tmp_path: Path, no_teacher: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="the model runs"):
        _states(unequal, tmp_path).fill(SOURCES, 3)
    no_teacher.undo()
    _states(unequal, tmp_path).fill(SOURCES, 3)
    no_teacher.setattr(unequal.teacher.model.base_model, "forward", Refuses().forward)
    warm, counted = _states(unequal, tmp_path), []
    warm.fill(SOURCES, 3, counted.append)
    assert warm.read(SOURCES).length == 13
    assert counted == [len(SOURCES)]


def test_a_fill_that_was_cut_off_ends_in_the_same_digits(unequal: Pair, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _states(unequal, whole).fill(SOURCES, 3)

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _states(unequal, cut).fill(SOURCES, 3, stop)
    assert len(_shards(cut)) == 1
    _states(unequal, cut).fill(SOURCES, 3)
    assert [path.name for path in _shards(cut)] == [path.name for path in _shards(whole)]
    assert equal(_states(unequal, cut).read(SOURCES), _states(unequal, whole).read(SOURCES))


def test_new_sources_join_known_ones(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path).fill(SOURCES[::2], 2)
    more = _states(unequal, tmp_path)
    assert more.known(SOURCES) == 4
    counted: list[int] = []
    more.fill(SOURCES, 2, counted.append)
    assert counted == [4, 2, 1]
    mixed = _states(unequal, tmp_path).read([*SOURCES, (90, 91)])  # the last is in no store
    expected = States(unequal.teacher, unequal.pad).read([*SOURCES, (90, 91)])
    for ours, theirs in zip(mixed.keys, expected.keys, strict=True):
        real = expected.mask[:, None, :, None]
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-4)


def test_only_the_same_model_tokenizer_and_form_share_states(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path).fill(SOURCES, 3)
    sibling = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    with torch.no_grad():
        sibling.model.norm.weight.add_(0.25)
    theta = {"rope_type": "default", "rope_theta": 500.0}
    turned = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1, rope_parameters=theta)
    same = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    known = [
        _states(tiny_pair(model, unequal.student.model), tmp_path).known(SOURCES) for model in (same, sibling, turned)
    ]
    assert known == [len(SOURCES), 0, 0]
    assert _states(unequal, tmp_path, "bf16").known(SOURCES) == 0
    student = Shelf(Store(tmp_path, 1.0), unequal, unequal.student, "model")
    assert States(unequal.student, 0, 0, student).known(SOURCES) == 0


@pytest.mark.parametrize("form", ["model", "bf16", "fp8"])
@pytest.mark.parametrize("memory", [0.0, 1e9])
def test_what_is_kept_in_a_smaller_form_is_used_so_from_the_start(
    unequal: Pair, tmp_path: Path, form: Form, memory: float
) -> None:
    cold = _states(unequal, tmp_path, form, memory=memory)
    cold.fill(SOURCES, 3)
    warm = _states(unequal, tmp_path, form, memory=memory)
    warm.fill(SOURCES, 3)
    assert equal(cold.read(SOURCES), warm.read(SOURCES))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_truncated_shard_is_skipped_and_replaced(unequal: Pair, tmp_path: Path, kept: int) -> None:
    states = _states(unequal, tmp_path)
    states.fill(SOURCES, 3)
    expected, victim = states.read(SOURCES), _shards(tmp_path)[0]
    victim.write_bytes(victim.read_bytes()[:kept])
    notes: list[str] = []
    again = States(
        unequal.teacher, unequal.pad, 0, Shelf(Store(tmp_path, 1.0, notes.append), unequal, unequal.teacher, "model")
    )
    assert again.known(SOURCES) < len(SOURCES)
    assert len(notes) == 1 and victim.name[:12] in notes[0] and "computed again" in notes[0]
    again.fill(SOURCES, 3)
    assert equal(_states(unequal, tmp_path).read(SOURCES), expected)
    assert len(_shards(tmp_path)) == 3


def test_a_shard_that_breaks_under_a_reader_is_computed_again(unequal: Pair, tmp_path: Path) -> None:
    states = _states(unequal, tmp_path)
    states.fill(SOURCES, 3)
    expected = states.read(SOURCES)
    reader = _states(unequal, tmp_path)
    for path in _shards(tmp_path):
        path.unlink()
    assert reader.known(SOURCES) == len(SOURCES)
    torch.testing.assert_close(reader.read(SOURCES).keys, expected.keys, rtol=1e-4, atol=1e-4)
    assert reader.known(SOURCES) == 0


def test_a_store_that_goes_away_under_a_writer_costs_only_time(unequal: Pair, tmp_path: Path) -> None:
    states = _states(unequal, tmp_path / "store", memory=1e9)
    shutil.rmtree(tmp_path / "store")
    states.fill(SOURCES[:1], 3)
    assert states.read(SOURCES[:1]).length == 3
    assert _states(unequal, tmp_path / "store").known(SOURCES) == 1


def test_a_full_store_takes_nothing_more_and_is_read_on(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path / "all").fill(SOURCES, 3)
    sizes = [path.stat().st_size for path in _shards(tmp_path / "all")]
    budget = (sum(sizes) - 100) / GIB
    store = Store(tmp_path / "some", budget, (notes := list[str]()).append)
    cold = States(unequal.teacher, unequal.pad, 1e9, Shelf(store, unequal, unequal.teacher, "model"))
    cold.fill(SOURCES, 3)
    assert store.closed and store.bytes() <= budget * GIB
    assert len(notes) == 1 and "train.store_gib" in notes[0]
    assert cold.known(SOURCES) == 6 and len(cold.kept) == 7
    warm = _states(unequal, tmp_path / "some", gib=budget, memory=1e9)
    warm.fill(SOURCES, 3)
    assert equal(cold.read(SOURCES), warm.read(SOURCES))


def test_without_any_room_the_model_is_not_asked(unequal: Pair, tmp_path: Path, no_teacher: pytest.MonkeyPatch) -> None:
    states = _states(unequal, tmp_path)
    assert states.shelf is not None
    states.shelf.store.closed = True
    counted: list[int] = []
    states.fill(SOURCES, 3, counted.append)
    assert sum(counted) == len(SOURCES)
