"""Training sessions on tiny random pairs, for the tests of what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helmas_core.config import Config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import Run, create_run
from helmas_core.training.session import train_bridge
from helmas_core.validation import validate


def config_of(**train: Any) -> Config:
    stages = [
        {"name": "warm", "steps": 6, "losses": {"cache_mse": 1.0}},
        {"name": "functional", "steps": 6, "losses": {"attention": 1.0, "ce": 1.0, "kl": 0.5}, "learning_rate": 3e-4},
    ]
    defaults = {
        "stages": stages,
        "batch": 4,
        "calibration_items": 16,
        "eval_samples": 2,
        "checkpoint_every": 4,
        "log_every": 2,
    }
    return validate(
        Config,
        {
            "pair": {"teacher": "tiny:teacher", "student": "tiny:student"},
            "data": {"dataset": "relay,arithmetic", "handoff": "prompt", "limit": 20},
            "train": {**defaults, "continuation": 0.5, **train},
            "eval": {"max_new_tokens": 3},
        },
    )


class StopAfter(Silent):
    """Asks to stop once `step` steps are done."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def update(self, done: int, **figures: float | str) -> None:
        self.done = done if "stage" in figures else 0

    def stop_requested(self) -> bool:
        return self.done >= self.step


def train(
    config: Config, pair: Pair, path: Path, progress: Silent | None = None, resume: bool = False
) -> tuple[Run, dict[str, Any]]:
    run = create_run(path, config, resume=resume)
    return run, train_bridge(config, pair, run, progress or Silent(), resume)


def trained_metrics(run: Run) -> list[dict[str, Any]]:
    kept = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in kept]


class Interrupted(Silent):
    """Asks to stop, or stops at once, when the first batch of the last validation is done."""

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.stop, self.notes = at_once, False, list[str]()
        self.begun: list[tuple[str, int]] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.begun.append((name, done))

    def update(self, done: int, **figures: float | str) -> None:
        self.stop = "arm" in figures
        if self.stop and self.at_once:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop_requested(self) -> bool:
        return self.stop
