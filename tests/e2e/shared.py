"""What one process or several do in `test_processes.py`: the same calls, so that what they leave can be compared.

`python -m tests.e2e.shared FOLDER [SPOILT]`, from a launcher or alone.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_cli.app import main
from helmas_core import processes
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import Config
from helmas_core.errors import TrainingError
from helmas_core.evaluation.arms import Arms
from helmas_core.evaluation.evaluate import evaluate
from helmas_core.handoff import reasoning
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.states import States
from helmas_core.json_files import write_json
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import Run, create_run
from helmas_core.training.loop import Step, Trainer
from helmas_core.training.session import train_bridge
from helmas_core.validation import validate
from tests.tiny import unequal_pair

STOP = 5
STAGES = [
    {"name": "warm", "steps": 2, "losses": {"cache_mse": 1.0, "mercator": 0.5}},
    {"name": "functional", "steps": 4, "losses": {"attention": 1.0, "ce": 1.0, "kl": 0.5, "cache_mse": 0.3}},
    {"name": "answers", "steps": 2, "losses": {"ce": 1.0, "cache_mse": 0.3}},
    {"name": "alone", "steps": 2, "losses": {"attention": 1.0, "ce": 1.0}, "batch": 1},  # one of two has no row
]
ANSWERS = [{"name": "answers", "steps": 4, "losses": {"ce": 1.0}}]
WORK: dict[str, tuple[Any, str]] = {
    "read": (States, "_keep"),
    "answered": (Arms, "run"),
    "thought": (reasoning, "write_thoughts"),
}
QUICK = ("-s", "data.limit=40", "-s", "train.calibration_items=20", "-s", "train.batch=4", "-s", "train.eval_samples=0")


def config(folder: Path, bridge: dict[str, Any] | None = None, **train: Any) -> Config:
    small = {"batch": 5, "accumulate": 2, "calibration_items": 16, "eval_samples": 3, "log_every": 1}
    tree = {
        "pair": {"teacher": "tiny:teacher", "student": "tiny:student"},
        "bridge": bridge or {},
        "data": {"dataset": "relay,arithmetic", "handoff": "prompt", "limit": 20, "data_dir": str(folder.parent)},
        "train": {"stages": STAGES, "continuation": 0.5, "checkpoint_every": STOP, **small, **train},
        "eval": {"max_new_tokens": 3, "batch": 2, "limit": 5},
    }
    return validate(Config, tree)


class StopAfter(Silent):
    """Asks to stop once STOP steps are done."""

    done = 0

    def update(self, done: int, **figures: float | str) -> None:
        self.done = done if "stage" in figures else 0

    def stop_requested(self) -> bool:
        return self.done >= STOP


def train(config: Config, pair: Pair, path: Path, progress: Silent | None = None, resume: bool = False) -> None:
    if processes.first():
        create_run(path, config, resume=resume)
    processes.agree(False)
    train_bridge(config, pair, Run(path), progress or Silent(), resume)


def counted(owner: Any, name: str, patch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every call of `owner.name`."""
    calls, real = list[None](), getattr(owner, name)

    def call(*given: Any) -> Any:
        calls.append(None)
        return real(*given)

    patch.setattr(owner, name, call)
    return calls


def everything(folder: Path) -> None:
    """Train with a store and be stopped, go on with a run of another number of processes, evaluate, think."""
    with pytest.MonkeyPatch.context() as patch:
        work = {name: counted(*place, patch) for name, place in WORK.items()}
        document, thoughts = _everything(folder)
        if processes.first():
            done = {name: len(calls) for name, calls in work.items()}
            write_json(folder / "found.json", {"document": document, "thoughts": thoughts, "work": done})


def _everything(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    pair, last = unequal_pair(), processes.rank() == processes.count() - 1
    trained = config(folder, store=folder / "store")
    train(trained, pair, folder / "whole")
    train(trained, pair, folder / "cut", StopAfter() if last else None)  # one asks, all stop
    train(
        config(folder, {"method": "modules", "bottleneck": 8, "student": "lora"}, stages=ANSWERS), pair, folder / "in"
    )
    if (folder / "resumed").exists():
        train(trained, pair, folder / "resumed", resume=True)
    document = evaluate(measured := config(folder), pair, build_bridge(seeded(measured).bridge, pair), Silent())
    thoughts = [asdict(e.thought) for e in prepare(thinking(folder), pair, "test", None, 0, Silent()) if e.thought]
    return document, thoughts


def seeded(config: Config) -> Config:
    torch.manual_seed(0)
    return config


def thinking(folder: Path) -> Config:
    data = ["data.dataset=gsm8k", f"data.data_dir={folder.parent}", "data.handoff=reasoning", "data.reasoning=generate"]
    return load_config(["lab"], [*data, "data.reasoning_tokens=6", "eval.batch=2", f"train.store={folder / 'store'}"])


def spoilt(folder: Path) -> int:
    """`helmas train` in which the last process fails at its third step, while the others wait for its gradients."""
    step = Trainer._step

    def fail(self: Trainer, at: Step) -> Any:
        if at.overall == 2 and processes.rank() == processes.count() - 1:
            raise TrainingError("it broke")
        return step(self, at)

    Trainer._step = fail  # type: ignore[method-assign]
    return main(["train", "-p", "lab", *QUICK, "-o", str(folder / "spoilt"), "-q"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "SPOILT" in sys.argv:
        sys.exit(spoilt(Path(sys.argv[1])))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    processes.join()
    everything(Path(sys.argv[1]))
    processes.leave()
