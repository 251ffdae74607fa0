"""Two processes, gloo on the CPU, against one: the same steps, the same store, every item once; and how they end.

Sums over rows are made in another order, so losses agree to 1e-5 of their size and weights to 1e-4.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.artefact import read_tensors
from helmas_core.config import ARMS
from helmas_core.handoff.store import Store
from helmas_core.launch import launch
from helmas_core.runs import Run, read_metrics
from tests.e2e import shared

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
ROWS = [
    {"question": f"What is {n} * 2{' in all' * n}?", "answer": f"{n}*2={2 * n}.\n#### {2 * n}"} for n in range(1, 6)
]
CLOCKS = (
    "seconds",
    "tokens_per_second",
    "k_rank",
    "v_rank",
    "k_rank_own",
    "v_rank_own",
)  # and ranks of each one's rows


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process leaves, and what two do; each has also gone on with a run that the other was stopped in."""
    root = tmp_path_factory.mktemp("both")
    (root / "gsm8k").mkdir()
    (root / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    one, two = root / "one", root / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        shared.everything(one)
        shutil.copytree(one / "cut", two / "resumed")
        move(two / "resumed", one, two)
        assert launch("tests.e2e.shared", [str(two)], 2) == 0
        shutil.copytree(two / "cut", one / "resumed")
        move(one / "resumed", two, one)
        shared.train(shared.config(one, store=one / "store"), shared.unequal_pair(), one / "resumed", resume=True)
    return one, two


def move(run: Path, before: Path, after: Path) -> None:
    """The store is where this one's is, which else tells another run."""
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace(str(before / "store"), str(after / "store")))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(run / "metrics.jsonl")]


def assert_alike(one: Path, two: Path) -> None:
    start, *rows = metrics(one)
    assert (start, len(rows)) == (metrics(two)[0], len(metrics(two)) - 1)
    for ours, theirs in zip(rows, metrics(two)[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value == (pytest.approx(theirs[name], rel=1e-5) if isinstance(value, float) else theirs[name]), name
    weights = [read_tensors(run / "bridge.safetensors")[0] for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", ["whole", "in"])
def test_the_same_losses_and_weights(both: tuple[Path, Path], run: str) -> None:
    assert_alike(both[0] / run, both[1] / run)
    assert len([row for row in metrics(both[1] / run) if row["event"] == "train"]) == {"whole": 10, "in": 4}[run]


def test_one_asks_and_all_stop_at_the_same_step(both: tuple[Path, Path]) -> None:
    for folder in both:
        steps = [path.name for path in Run(folder / "cut").checkpoints.iterdir()]
        assert steps == ["step-0000005"]


@pytest.mark.parametrize("resumed", [0, 1], ids=["by one", "by two"])
def test_a_run_goes_on_with_another_number_of_processes(both: tuple[Path, Path], resumed: int) -> None:
    assert_alike(both[resumed] / "resumed", both[0] / "whole")


def test_the_store_holds_the_same(both: tuple[Path, Path]) -> None:
    one, two = (Store(folder / "store" / "states", 1.0) for folder in both)
    assert one._places.keys() == two._places.keys() and len(one._places) > 20
    for key in one._places:
        ours, theirs = one.get(key), two.get(key)
        assert ours is not None and theirs is not None
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def found(folder: Path) -> Any:
    return json.loads((folder / "found.json").read_text())


def without_times(value: Any) -> Any:
    times = ("seconds", "seconds_p50", "seconds_p95", "tokens_per_second", "cold", "warm", "verdict", "git")
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in times}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def test_every_item_is_evaluated_once(both: tuple[Path, Path]) -> None:
    one, two = (found(folder)["document"] for folder in both)
    assert without_times(one) == without_times(two)
    assert {arm["n"] for arm in two["arms"].values()} == {10}
    assert two["agreement"] == {"own-text": 1.0}
    assert two["arms"].keys() == set(ARMS)


def test_the_teacher_writes_the_same(both: tuple[Path, Path]) -> None:
    one, two = (found(folder)["thoughts"] for folder in both)
    assert without_times(one) == without_times(two) and len(two) == len(ROWS)


def test_each_does_its_part(both: tuple[Path, Path]) -> None:
    """Batches of answers, sources and thoughts; what has no store is read by each as it needs it."""
    one, two = (found(folder)["work"] for folder in both)
    for name, whole in one.items():
        assert whole / 2 <= two[name] < 0.8 * whole, name


def when(happened: Callable[[], bool], then: Callable[[], None]) -> None:
    def watch() -> None:
        end = time.monotonic() + 600
        while not happened() and time.monotonic() < end:
            time.sleep(0.05)
        then()

    threading.Thread(target=watch, daemon=True).start()


def test_ctrl_c_stops_all_and_the_first_one_speaks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    when(lambda: any(run.checkpoints.glob("step-*")), lambda: os.kill(os.getpid(), signal.SIGINT))
    often = ("-s", "train.checkpoint_every=2", "-s", "train.log_every=1")
    arguments = ["train", "-p", "lab", *shared.QUICK, *often, "-o", str(run.path), "--json"]
    assert launch("helmas_cli", arguments, 2) == 130
    out, err = capfd.readouterr()
    steps = json.loads(out)["steps"]
    assert err.count("stopping after this step") == err.count("device cpu, one of 2 processes") == 1
    assert 2 <= steps < 600 and (run.checkpoints / f"step-{steps:07d}").is_dir() and run.bridge.is_file()
    assert [row["step"] for row in read_metrics(run.metrics) if row["event"] == "train"] == list(range(1, steps + 1))
    assert run.manifest is not None
    assert (run.manifest["status"], run.manifest["processes"]) == ("interrupted", 2)


def test_one_fails_and_all_end_with_its_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch("tests.e2e.shared", [str(tmp_path), "SPOILT"], 2) == 1
    assert capfd.readouterr().err == "error: it broke\n"
    assert json.loads((tmp_path / "spoilt" / "manifest.json").read_text())["status"] == "failed"
