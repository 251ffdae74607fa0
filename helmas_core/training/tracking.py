"""Trackers: the rows of metrics.jsonl in a program that people follow runs with, through accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from helmas_core.config import Config
from helmas_core.errors import ConfigError
from helmas_core.runs import Run, flat
from helmas_core.secrets import hidden

if TYPE_CHECKING:
    from accelerate import Accelerator

FOLDER = "tracking"


def check_tracker(name: str | None) -> None:
    """ConfigError for a tracker that is not installed: accelerate would leave it out without a word."""
    if name is not None and find_spec(name) is None:
        fix = f'pip install "helmas[{name}]", or leave train.tracker out'
        raise ConfigError(f"{name} is not installed", where="train.tracker", fix=fix)


@contextmanager
def tracking(accelerator: Accelerator, config: Config, run: Run) -> Iterator[None]:
    """The tracker of `config.train`, if there is one, with the configuration as flat hyperparameters. It is closed
    however training ends: another one in this process is a run of its own."""
    try:
        _open(accelerator, config, run)
        yield
    finally:
        for tracker in accelerator.trackers:  # accelerate's own way would also part this process from the others
            tracker.finish()


def _open(accelerator: Accelerator, config: Config, run: Run) -> None:
    name = config.train.tracker
    if name is None or not accelerator.is_main_process:
        return
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    own: dict[str, dict[str, Any]] = {
        "tensorboard": {},
        "wandb": {"name": run.name, "dir": str(folder)},
        "trackio": {"name": run.name},
    }
    if name == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))  # else in the home folder
    accelerator.init_trackers("helmas", hyperparameters(config), {name: own[name]})


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """The configuration, flat; what a tracker has no type for becomes text."""
    values = flat(hidden(config.model_dump(mode="json")))
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()}


def track(accelerator: Accelerator, record: Mapping[str, Any]) -> None:
    """One row of metrics.jsonl: its figures as "train/loss" or "validation/bridge" at its step."""
    event = record["event"]
    figures = {
        f"{event}/{name}": value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    accelerator.log(figures, step=record["step"])
