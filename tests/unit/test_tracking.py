"""Trackers: what is written for them, and what is said where one is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from helmas_core.errors import ConfigError, TrainingError
from helmas_core.layering import load_config
from helmas_core.runs import create_run
from helmas_core.training.tracking import check_tracker, hyperparameters, track, tracking

pytestmark = pytest.mark.unit


def test_a_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helmas_core.training.tracking.find_spec", lambda name: None)
    check_tracker(None)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(ConfigError, match=rf'{name} is not installed.*pip install "helmas\[{name}\]"'):
            check_tracker(name)


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.tracker"):
        load_config(["lab"], ["train.tracker=excel"])


def test_hyperparameters_are_flat_and_of_known_types() -> None:
    found = hyperparameters(load_config(["lab"], ["eval.arms=['text','own']"]))
    told = (found["train.batch"], found["train.steps"], found["eval.arms"], found["data.chat_template"])
    assert told == (32, "None", "['text', 'own']", False)


def test_tensorboard_gets_the_rows_of_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load_config(["lab"], ["train.tracker=tensorboard"])
    run = create_run(tmp_path / "run", config)
    accelerator = Accelerator(cpu=True, log_with=config.train.tracker, project_dir=run.path / "tracking")
    with tracking(accelerator, config, run):
        track(accelerator, {"step": 5, "event": "train", "stage": "warm", "loss": 0.5})
        track(accelerator, {"step": 9, "event": "validation", "bridge": 0.75})
    found = EventAccumulator(str(run.path / "tracking" / "helmas")).Reload()
    rows = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert rows["train/loss"] == [(5, 0.5)]
    assert rows["validation/bridge"] == [(9, 0.75)]
    assert run.remove() == []


def test_a_tracker_is_closed_however_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    closed: list[str] = []
    accelerator, config = Accelerator(cpu=True), load_config(["lab"])
    tracker = SimpleNamespace(finish=lambda: closed.append("closed"))
    monkeypatch.setattr(accelerator, "trackers", [tracker], raising=False)
    with pytest.raises(TrainingError), tracking(accelerator, config, create_run(tmp_path / "run", config)):
        raise TrainingError("the loss is not a number")
    assert closed == ["closed"]
