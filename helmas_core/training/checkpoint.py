"""Checkpoints: `checkpoints/step-0000500/` with the bridge, the optimiser, the progress and their SHA256SUMS.

A folder is there whole or not at all, and what has been damaged since is told by its checksums. Data order, learning
rate and what a bridge draws follow from the step, so a resumed run equals the uninterrupted one bit for bit.
`checkpoints/best.safetensors` is the bridge that validated best, to be used like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from torch import Tensor

from helmas_core.bridges.artefact import load_weights, read_tensors, save_bridge, write_tensors
from helmas_core.bridges.base import Bridge
from helmas_core.errors import CheckpointError
from helmas_core.files import remove_folder, swapping_folder
from helmas_core.foreign import MIB, inside, open_regular, read_object, read_text, why

BRIDGE, OPTIMISER, PROGRESS, SUMS = "bridge.safetensors", "optimiser.safetensors", "progress.json", "SHA256SUMS"
BEST = "best.safetensors"
_FILES = (BRIDGE, OPTIMISER, PROGRESS)


class Progress(BaseModel):
    """progress.json, as far as training goes on from it."""

    step: NonNegativeInt
    losses: dict[str, float | None]
    best: dict[str, float] | None
    data: str
    scaler: dict[str, Any]
    terms: dict[str, list[float]]
    micro_batch: PositiveInt | None
    skipped: tuple[NonNegativeInt, NonNegativeInt]
    seconds: float


def save(
    folder: Path,
    bridge: Bridge,
    optimiser: torch.optim.Optimizer,
    document: Mapping[str, Any],
    progress: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `progress["step"]`; of those before it `keep` − 1 stay, and none that came after."""
    target = folder / f"step-{progress['step']:07d}"
    with swapping_folder(target) as partial:
        save_bridge(partial / BRIDGE, bridge, document)
        write_tensors(partial / OPTIMISER, flatten(optimiser), {"format": 1})
        (partial / PROGRESS).write_text(json.dumps(dict(progress)))
        (partial / SUMS).write_text("".join(f"{sha256(partial / name)}  {name}\n" for name in _FILES))
    before = [path for path in steps(folder) if _step(path) <= progress["step"]]
    for old in set(steps(folder)) - set(before[-keep:]):
        remove_folder(old)
    return target


def steps(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdecimal()), key=_step)


def newest(folder: Path, note: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest whole checkpoint, after a warning for each newer one; None if there never was one.

    CheckpointError if all are broken."""
    found = steps(folder)
    for path in reversed(found):
        if not (wrong := flaw(path)):
            return path
        note(f"warning: {path} is not whole ({wrong}); looking for the one before")
    if not found:
        return None
    raise CheckpointError("every checkpoint is broken", where=str(folder), fix="start again with --overwrite")


def flaw(path: Path) -> str:
    """What is wrong with a checkpoint's files, by their checksums; "" for a whole one."""
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in read_text(inside(path, SUMS), MIB).splitlines())
        wrong = [name for name in _FILES if sums.get(name) != sha256(inside(path, name))]
    except (OSError, ValueError) as error:
        return why(error)
    return f"{', '.join(wrong)}: not as written" if wrong else ""


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


def sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step(path: Path) -> int:
    return int(path.name[5:])
