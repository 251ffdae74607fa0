"""Training that was cut off: resumed bit for bit, from whatever is left."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from helmas_core.bridges.artefact import read_tensors
from helmas_core.errors import DataError
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent, Stopped
from helmas_core.training import checkpoint
from helmas_core.training.session import train_bridge
from tests.e2e.sessions import Interrupted, StopAfter, config_of, train, trained_metrics

pytestmark = pytest.mark.e2e


class Reading(Silent):
    """Asks to stop once a model has read something."""

    stop = False

    def update(self, done: int, **figures: float | str) -> None:
        self.stop = done > 0

    def stop_requested(self) -> bool:
        return self.stop


def test_reading_stops_when_asked_and_keeps_what_it_read(unequal: Pair, tmp_path: Path) -> None:
    config = config_of(store=tmp_path / "store", eval_samples=0)
    with pytest.raises(Stopped):
        train(config, unequal, tmp_path / "run", Reading())
    assert any((tmp_path / "store" / "states").iterdir())
    _, document = train(config, unequal, tmp_path / "run", resume=True)
    assert document["steps"] == 12


@pytest.mark.parametrize("stop", [3, 5, 10])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(unequal: Pair, tmp_path: Path, stop: int) -> None:
    whole, _ = train(config_of(), unequal, tmp_path / "whole")
    _, first = train(config_of(), unequal, tmp_path / "cut", StopAfter(stop))
    assert first["steps"] == stop and first["eval"] is None
    cut, document = train(config_of(), unequal, tmp_path / "cut", resume=True)
    assert document["steps"] == 12
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert trained_metrics(cut) == trained_metrics(whole)


class Scrambled(StopAfter):
    """Leaves every library's random state somewhere else after each step."""

    def update(self, done: int, **figures: float | str) -> None:
        super().update(done, **figures)
        seed = random.SystemRandom().getrandbits(31)
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)


@pytest.mark.parametrize("options", [{}, {"method": "kava", "mlp_ratio": 0.1}], ids=str)  # dropout
def test_no_random_state_needs_to_be_saved(unequal: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    config = config_of(eval_every=4, stages=[{"name": "answers", "steps": 9, "losses": {"ce": 1.0}}])
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    whole, _ = train(config, unequal, tmp_path / "whole")
    train(config, unequal, tmp_path / "cut", Scrambled(5))
    cut, _ = train(config, unequal, tmp_path / "cut", Scrambled(100), resume=True)
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert trained_metrics(cut) == trained_metrics(whole)


def test_a_run_without_a_checkpoint_begins_again(unequal: Pair, tmp_path: Path) -> None:
    class Killed(Silent):
        def update(self, done: int, **figures: float | str) -> None:
            if done == 3 and "stage" in figures:
                raise KeyboardInterrupt

    config = config_of(eval_samples=0, log_every=1)
    whole, _ = train(config, unequal, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, unequal, tmp_path / "cut", Killed())
    cut, _ = train(config, unequal, tmp_path / "cut", resume=True)
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert trained_metrics(cut) == trained_metrics(whole)


def test_a_broken_checkpoint_costs_the_steps_since_the_one_before(unequal: Pair, tmp_path: Path) -> None:
    whole, _ = train(config_of(), unequal, tmp_path / "whole")
    cut, _ = train(config_of(), unequal, tmp_path / "cut", StopAfter(8))
    (cut.checkpoints / "step-0000008/optimiser.safetensors").write_bytes(b"cut short")
    progress = Interrupted()
    cut, document = train(config_of(eval_samples=2), unequal, tmp_path / "cut", progress, resume=True)
    warning, *rest = progress.notes
    assert "step-0000008 is not whole (optimiser.safetensors: not as written)" in warning
    assert "going on from step-0000004" in rest
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert document["steps"] == 12


def test_other_training_items_are_refused(unequal: Pair, tmp_path: Path) -> None:
    run, _ = train(config_of(), unequal, tmp_path / "cut", StopAfter(5))
    before = run.metrics.read_bytes()
    config = config_of()
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": 19})})
    with pytest.raises(DataError, match="not those that this run began with"):
        train_bridge(config, unequal, run, Silent(), resume=True)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked(unequal: Pair, tmp_path: Path, keep: int) -> None:
    run, _ = train(config_of(checkpoint_every=2, keep_checkpoints=keep, eval_samples=0), unequal, tmp_path / "run")
    assert [path.name for path in checkpoint.steps(run.checkpoints)] == [
        f"step-{step:07d}" for step in (8, 10, 12)[-keep:]
    ]


METHODS: list[dict[str, Any]] = [
    {"method": "kava", "mlp_ratio": 0.1, "student": "lora"},  # dropout
    {"method": "c2c", "hidden": 16},  # drawn gates, and a temperature that follows the steps
    {"method": "modules", "bottleneck": 8, "student": "full"},
]


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_what_a_method_draws_follows_from_the_step(unequal: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    stages = [{"name": "answers", "steps": 6, "losses": {"ce": 1.0}}]
    config = config_of(stages=stages, eval_samples=0, student_learning_rate=1e-4)
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    before = fingerprint(unequal.student.model)
    whole, document = train(config, unequal, tmp_path / "whole")
    train(config, unequal, tmp_path / "cut", StopAfter(3))
    cut, _ = train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert fingerprint(unequal.student.model) == before
    assert ("student" in options) == any(name.startswith("student_") for name in document)
