"""What happens to a training: losses that are not finite, memory that runs out, a disk that fills up."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.artefact import read_tensors
from helmas_core.config import Config
from helmas_core.errors import HelmasError, TrainingError, WriteError
from helmas_core.handoff.examples import Example
from helmas_core.models.hardware import out_of_memory
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import Run, create_run
from helmas_core.training import checkpoint
from helmas_core.training.losses import effective_rank
from helmas_core.training.objective import Objective
from helmas_core.training.parts import half, parts
from helmas_core.training.session import train_bridge
from tests.e2e.sessions import Interrupted, StopAfter, config_of, train, trained_metrics
from tests.faults import failing, full_from

pytestmark = pytest.mark.e2e


def _short(losses: dict[str, float] | None = None, steps: int = 6, **train: Any) -> Config:
    """Nothing but the steps: no states kept, nothing validated, every step logged."""
    stages = [{"name": "answers", "steps": steps, "losses": losses or {"ce": 1.0}}]
    return config_of(**{"stages": stages, "eval_samples": 0, "log_every": 1, "state_gib": 0.0, **train})


class Noted(Interrupted):
    """Keeps notes and never stops."""

    def update(self, done: int, **figures: float | str) -> None: ...


Loss = tuple[torch.Tensor, dict[str, float]]


def spoil(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[int, Sequence[Example]], Loss | None]
) -> list[list[Example]]:
    """Let `when` answer in the objective's place for some calls, counted from 1; returns the batches of all calls."""
    real, seen = Objective.__call__, list[list[Example]]()

    def call(self: Objective, examples: Sequence[Example], weights: Mapping[Any, float], rng: Any) -> Loss:
        seen.append([*examples])
        return when(len(seen), examples) or real(self, examples, weights, rng)

    monkeypatch.setattr(Objective, "__call__", call)
    return seen


def _nan(value: float = math.nan) -> Loss:
    return torch.tensor(value, requires_grad=True) * 1.0, {"ce": value}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_whose_loss_is_not_finite_is_left_out_and_its_items_are_named(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    seen = spoil(monkeypatch, lambda call, _: _nan(value) if call in (2, 3, 5) else None)
    run, document = train(_short(max_skipped=2), unequal, tmp_path / "run", progress := Noted())
    assert (document["steps"], document["skipped"]) == (6, 3)
    warnings = [note for note in progress.notes if note.startswith("warning")]
    assert [note.split(":")[1] for note in warnings] == [" step 2", " step 3", " step 5"]
    assert all(f"{e.task.name} {e.item.id}" in warnings[0] for e in seen[1])
    assert all(torch.isfinite(tensor).all() for tensor in read_tensors(run.bridge)[0].values())
    rows = [row for row in trained_metrics(run) if row["event"] == "train"]
    assert [row.get("skipped") for row in rows] == [None, 1, 2, 2, 3, 3]
    assert ["loss" in row for row in rows] == [True, False, False, True, False, True]


def test_figures_of_states_that_are_not_finite_stop_nothing() -> None:
    assert math.isnan(effective_rank(torch.full((3, 4), math.nan)))
    assert effective_rank(torch.eye(4)) > 2


def test_a_start_that_fails_leaves_no_run(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError("no start")

    monkeypatch.setattr("helmas_core.training.session.Session._begin", fail)
    run = create_run(tmp_path / "run", config := _short())
    with pytest.raises(RuntimeError, match="no start"):
        train_bridge(config, unequal, run, Silent())
    assert run.discard() and not run.path.exists()


def test_a_gradient_that_is_not_finite_changes_nothing(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Zero(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * math.nan

    real = Objective.__call__

    def call(self: Objective, *rest: Any) -> Loss:
        loss, terms = real(self, *rest)
        return Zero.apply(loss), terms

    start, _ = train(_short(steps=1, learning_rate=1e-20), unequal, tmp_path / "start")
    monkeypatch.setattr(Objective, "__call__", call)
    run, document = train(_short(steps=2), unequal, tmp_path / "run", progress := Noted())
    assert document["skipped"] == 2 and "the gradient is not finite" in progress.notes[-1]
    ours, theirs = (read_tensors(one.bridge)[0] for one in (run, start))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-12) for name in theirs)


def test_too_many_in_a_row_end_the_run_with_the_batch_at_fault(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, lambda call, _: None if call < 4 else _nan())
    with pytest.raises(TrainingError, match=r"step 6: .* 3 steps in a row — lower the learning rate") as caught:
        train(_short(max_skipped=2, steps=9), unequal, tmp_path / "run")
    assert all(f"{e.task.name} {e.item.id}" in str(caught.value) for e in seen[-1])


def test_skips_in_a_row_are_counted_over_an_interruption(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda *_: _nan())
    config = _short(max_skipped=3, steps=9)
    train(config, unequal, tmp_path / "run", StopAfter(2))
    with pytest.raises(TrainingError, match=r"step 4: .* 4 steps in a row"):
        train(config, unequal, tmp_path / "run", resume=True)


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "host": RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_out_of_memory_goes_on_in_parts_as_a_run_that_started_so(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def small(_: int, examples: Sequence[Example]) -> Loss | None:
        if len(examples) > 2:
            raise error
        return None

    config = _short(batch=6, continuation=0.5)
    started, _ = train(_short(batch=6, continuation=0.5, micro_batch=2), unequal, tmp_path / "started")
    by_hand, _ = train(_short(batch=2, accumulate=3, continuation=0.5), unequal, tmp_path / "by hand")
    seen = spoil(monkeypatch, small)
    run, _ = train(config, unequal, tmp_path / "run", progress := Noted())
    assert {len(batch) for batch in seen[2:]} == {2}
    notes = [note for note in progress.notes if "out of memory" in note]
    assert [note.partition(" (")[0] for note in notes] == [
        "step 1: out of memory with 6 items at once; going on with 3",
        "step 1: out of memory with 3 items at once; going on with 2",
    ]
    assert "the batch stays 6" in notes[0]
    ours, same, near = (read_tensors(one.bridge)[0] for one in (run, started, by_hand))
    assert all(torch.equal(ours[name], same[name]) for name in same)
    assert all(torch.allclose(ours[name], near[name], atol=1e-4) for name in near)  # fitted in groups of 2
    assert trained_metrics(run) == trained_metrics(started)


def test_parts_stay_small_over_an_interruption(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: int, _: Sequence[Example]) -> Loss | None:
        if call == 1:
            raise MemoryError
        return None

    seen = spoil(monkeypatch, once)
    train(_short(), unequal, tmp_path / "run", StopAfter(2))
    train(_short(), unequal, tmp_path / "run", resume=True)
    assert [len(batch) for batch in seen] == [4] + [2] * 12


def test_the_gradient_in_parts_is_that_of_the_whole_batch(unequal: Pair, tmp_path: Path) -> None:
    """To rounding, whatever the sizes of the parts: 5 items in twos are 2, 2 and 1."""
    runs = [
        train(_short({"ce": 1.0, "kl": 0.5}, 1, batch=5, micro_batch=most), unequal, tmp_path / str(most))[0]
        for most in (None, 2)
    ]
    whole, split = (read_tensors(one.checkpoints / "step-0000001/optimiser.safetensors")[0] for one in runs)
    moments = [name for name in whole if name.endswith("exp_avg")]
    assert len(moments) > 3
    for name in moments:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-3, atol=1e-3 * whole[name].abs().max().item())


def test_losses_that_do_not_add_up_are_named(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(call: int, _: Sequence[Example]) -> Loss | None:
        if call == 1:
            raise MemoryError
        return None

    spoil(monkeypatch, once)
    train(_short({"cache_mse": 1.0, "ce": 1.0}, 1), unequal, tmp_path / "run", progress := Noted())
    assert any("cache_mse: each part counts by its items" in note for note in progress.notes)


def test_one_item_that_does_not_fit_is_the_end(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Loss | None:
        raise MemoryError

    spoil(monkeypatch, never)
    with pytest.raises(TrainingError, match=r"one item at a time, of which \w+ .* is the longest"):
        train(_short(), unequal, tmp_path / "run")


def test_a_validation_out_of_memory_takes_smaller_batches(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helmas_core.training import validation

    real, sizes = validation.evaluate_examples, list[int]()

    def small(config: Config, *rest: Any) -> dict[str, Any]:
        sizes.append(config.eval.batch)
        if config.eval.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(config, *rest)

    monkeypatch.setattr(validation, "evaluate_examples", small)
    _, document = train(_short(steps=1, eval_samples=2), unequal, tmp_path / "run", Noted())
    assert sizes == [8, 4, 2] and document["eval"]["arms"]["bridge"]["n"] == 4


def test_only_memory_is_out_of_memory() -> None:
    assert not out_of_memory(RuntimeError("size mismatch")) and not out_of_memory(ValueError("out of memory"))


def test_parts_cover_a_batch_in_order() -> None:
    for n in range(1, 12):
        for most in (None, *range(1, 13)):
            found = parts(range(n), most)
            assert [i for part in found for i in part] == list(range(n))
            assert max(map(len, found)) <= (most or n)
    assert [half(n) for n in (5, 4, 3, 2)] == [3, 2, 2, 1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_training_goes_on_where_the_disk_filled_up(unequal: Pair, tmp_path: Path, code: int) -> None:
    """At every tenth write; each of them is tried alone in the tests of what writes."""
    config = _short(steps=3, checkpoint_every=1)
    whole = create_run(tmp_path / "whole", config)
    with failing(whole.path) as disk:
        train_bridge(config, unequal, whole, Silent())
    for k in range(1, disk.count, 10):
        run = create_run(tmp_path / str(k), config)
        with failing(run.path, full_from(k, code)), pytest.raises(WriteError, match=str(run.path)):
            train_bridge(config, unequal, run, Silent())
        assert not list(run.path.rglob(".partial-*"))
        assert all(not checkpoint.flaw(path) for path in checkpoint.steps(run.checkpoints))
        train_bridge(config, unequal, run, Silent(), resume=True)
        assert run.bridge.read_bytes() == whole.bridge.read_bytes()
        assert trained_metrics(run) == trained_metrics(whole)


def test_data_that_have_vanished_leave_the_run_as_it_was(unequal: Pair, tmp_path: Path) -> None:
    rows = [{"prompt": f"The number of {i} is {7 * i}. What is it? ", "answer": str(7 * i)} for i in range(40)]
    (source := tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = _short()
    config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": f"jsonl:{source}"})})
    run, _ = train(config, unequal, tmp_path / "run", StopAfter(3))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    source.rename(away := tmp_path / "away.jsonl")
    with pytest.raises(HelmasError, match=r"own\.jsonl"):
        train_bridge(config, unequal, run, Silent(), resume=True)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    away.rename(source)
    assert train(config, unequal, tmp_path / "run", resume=True)[1]["steps"] == 6


def test_a_step_that_fails_otherwise_is_not_taken_for_memory(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Loss | None:
        raise RuntimeError("size mismatch")

    seen = spoil(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        train(_short(), unequal, tmp_path / "run")
    assert len(seen) == 1 and Run(tmp_path / "run").bridge.exists() is False
