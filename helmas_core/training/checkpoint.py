"""Checkpoints: `checkpoints/step-0000500/` with the bridge, the optimiser and the progress; all or nothing.

Data order and learning rate follow from the step, so a resumed run equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt
from torch import Tensor

from helmas_core.bridges.artefact import load_weights, read_tensors, save_bridge, write_tensors
from helmas_core.bridges.base import Bridge
from helmas_core.errors import CheckpointError
from helmas_core.foreign import read_object, why

BRIDGE, OPTIMISER, PROGRESS = "bridge.safetensors", "optimiser.safetensors", "progress.json"
KEEP = 2


class Progress(BaseModel):
    """progress.json, as far as training goes on from it."""

    step: NonNegativeInt
    losses: dict[str, float | None]
    scaler: dict[str, Any] | None
    seconds: float


def save(
    folder: Path,
    bridge: Bridge,
    optimiser: torch.optim.Optimizer,
    document: Mapping[str, Any],
    progress: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `progress["step"]` and drop all but the newest KEEP."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{progress['step']:07d}"
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    try:
        save_bridge(partial / BRIDGE, bridge, document)
        write_tensors(partial / OPTIMISER, flatten(optimiser), {"format": 1})
        with (partial / PROGRESS).open("w") as file:
            json.dump(dict(progress), file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path:
    """The newest checkpoint; CheckpointError when there is none."""
    found = sorted(folder.glob("step-*"))
    if not found:
        raise CheckpointError("no checkpoint to resume from", where=str(folder), fix="start again with --overwrite")
    return found[-1]


def load(path: Path, bridge: Bridge, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore bridge and optimiser; returns the progress document."""
    progress = read_progress(path)
    load_weights(bridge, read_tensors(path / BRIDGE)[0], str(path / BRIDGE))
    tensors = read_tensors(path / OPTIMISER)[0]
    try:
        unflatten(optimiser, tensors)
    except (ValueError, KeyError, IndexError) as error:
        raise _broken(path, error) from error
    return progress


def read_progress(path: Path) -> dict[str, Any]:
    """The progress document of a checkpoint."""
    try:
        found = read_object(path / PROGRESS, finite=False)  # a loss may have been nan
        Progress.model_validate(found)
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    return found


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"broken checkpoint ({why(error)})", where=str(path), fix="delete the folder to use the one before"
    )


def flatten(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state as named tensors: "<parameter index>.<name>"."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def unflatten(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `flatten`'s tensors back; ValueError, KeyError or IndexError for any that it cannot have made."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        if tuple(value.shape) not in ((), tuple(parameters[int(index)].shape)):
            raise ValueError(f"optimiser tensor {key} does not fit its parameter")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
