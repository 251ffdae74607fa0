"""Training with a store: the same weights without one, while it fills and when it is full of all that is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.artefact import read_tensors
from helmas_core.config import Config
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.session import train_bridge
from tests.unit.test_reasoning import Notes

pytestmark = pytest.mark.e2e


def _config(stages: str, *more: str) -> Config:
    small = ["data.limit=40", "train.batch=6", "train.calibration_items=24", "train.eval_samples=0"]
    return load_config(["lab"], [*small, f"train.stages={stages}", "train.state_gib=1", *more])


WARM = '[{name = "warm", steps = 4, losses = {cache_mse = 1.0}}]'
BOTH = '[{name = "both", steps = 8, losses = {ce = 1.0, attention = 1.0, cache_mse = 0.3}}]'


def _weights(config: Config, pair: Pair, path: Path, progress: Silent) -> dict[str, torch.Tensor]:
    run = create_run(path, config)
    train_bridge(config, pair, run, progress)
    return read_tensors(run.bridge)[0]


@pytest.fixture
def passes(lab_pair: Pair) -> Any:
    """Calls of (teacher, student) so far; resets."""
    counts = [0, 0]

    def count(side: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[side] += 1

        return hook

    models = (lab_pair.teacher.model, lab_pair.student.model)
    hooks = [model.base_model.register_forward_pre_hook(count(side)) for side, model in enumerate(models)]

    def read() -> tuple[int, ...]:
        found = tuple(counts)
        counts[:] = [0, 0]
        return found

    yield read
    for hook in hooks:
        hook.remove()


def test_the_second_run_reads_nothing(lab_pair: Pair, tmp_path: Path, passes: Callable[[], tuple[int, ...]]) -> None:
    config = _config(WARM, f"train.store={tmp_path / 'store'}")
    first = _weights(config, lab_pair, tmp_path / "a", cold := Notes())
    assert min(passes()) > 0
    second = _weights(config, lab_pair, tmp_path / "b", warm := Notes())
    assert passes() == (0, 0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    [count] = {note.split()[3] for note in (*cold.notes, *warm.notes) if note.startswith("store:")}
    said = "store: {0} of {1} sources known as the teacher read them, {0} of {1} as the student"
    assert cold.notes[0] == said.format(0, count) and warm.notes[0] == said.format(count, count)


def test_the_student_reads_only_what_a_loss_compares_with(lab_pair: Pair, tmp_path: Path) -> None:
    config = _config('[{name = "alone", steps = 8, losses = {ce = 1.0}}]', f"train.store={tmp_path / 'store'}")
    _weights(config, lab_pair, tmp_path / "run", said := Notes())
    words = next(note for note in said.notes if note.startswith("store:")).split()
    teacher, student = int(words[3]), int(words[13])
    assert student <= config.train.calibration_items < teacher
    _weights(config, lab_pair, tmp_path / "again", said := Notes())
    assert f"{student} of {student} as the student" in next(note for note in said.notes if note.startswith("store:"))


@pytest.mark.parametrize("memory", ["1", "0"])
def test_a_store_changes_no_weight(lab_pair: Pair, tmp_path: Path, memory: str) -> None:
    """Neither cold nor warm, with memory for the states or without."""
    plain = _weights(_config(BOTH), lab_pair, tmp_path / "plain", Silent())
    config = _config(BOTH, f"train.store={tmp_path / 'store'}", f"train.state_gib={memory}")
    for name in ("cold", "warm"):
        ours = _weights(config, lab_pair, tmp_path / name, Silent())
        assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_a_store_without_room_changes_no_weight_either(lab_pair: Pair, tmp_path: Path) -> None:
    plain = _weights(_config(WARM), lab_pair, tmp_path / "plain", Silent())
    config = _config(WARM, f"train.store={tmp_path / 'store'}", "train.store_gib=0.001")
    for name in ("cold", "warm"):
        ours = _weights(config, lab_pair, tmp_path / name, notes := Notes())
        assert all(torch.equal(ours[key], plain[key]) for key in plain)
        assert any("full at 0.001 GiB" in note for note in notes.notes)


def test_a_smaller_form_costs_little_and_is_the_same_cold_and_warm(lab_pair: Pair, tmp_path: Path) -> None:
    exact = _weights(_config(WARM), lab_pair, tmp_path / "exact", Silent())
    config = _config(WARM, f"train.store={tmp_path / 'store'}", "train.store_dtype=fp8")
    cold, warm = (_weights(config, lab_pair, tmp_path / name, Silent()) for name in ("cold", "warm"))
    assert all(torch.equal(cold[key], warm[key]) for key in cold)
    assert not all(torch.equal(cold[key], exact[key]) for key in cold)
