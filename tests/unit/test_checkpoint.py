"""Checkpoints: which ones stay, what is told of a broken one, and that no kill leaves half of one under its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection
from helmas_core.errors import CheckpointError
from helmas_core.models.pair import Pair
from helmas_core.training import checkpoint
from tests.faults import until_it_holds

pytestmark = pytest.mark.unit


@pytest.fixture
def bridge(unequal: Pair) -> Bridge:
    return build_bridge(BridgeSection.model_validate({"method": "ridge", "neighbours": 1}), unequal)


def save(folder: Path, bridge: Bridge, step: int, keep: int = 2) -> Path:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    return checkpoint.save(folder, bridge, optimiser, {"format": 1}, {"step": step}, keep)


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.steps(folder)]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_stay(tmp_path: Path, bridge: Bridge, keep: int) -> None:
    for step in (5, 10, 15, 20_000_000):
        save(tmp_path, bridge, step, keep)
    assert names(tmp_path) == ["step-0000005", "step-0000010", "step-0000015", "step-20000000"][-keep:]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-20000000"


def test_what_came_after_goes_and_what_came_before_stays(tmp_path: Path, bridge: Bridge) -> None:
    for step in (4, 8):
        save(tmp_path, bridge, step)
    save(tmp_path, bridge, 5, keep=2)  # a run that went back to 4
    assert names(tmp_path) == ["step-0000004", "step-0000005"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


BREAK: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "cut": ("bridge.safetensors", _cut),
    "bit": ("optimiser.safetensors", _flip),
    "progress": ("progress.json", lambda path: path.write_text('{"step": 9}')),
    "gone": ("optimiser.safetensors", Path.unlink),
    "no sums": ("SHA256SUMS", Path.unlink),
    "half of the sums": ("SHA256SUMS", lambda path: path.write_text(path.read_text()[:80])),
    "no text": ("SHA256SUMS", lambda path: path.write_bytes(b"\xff\xfe")),
}


@pytest.mark.parametrize(("name", "spoil"), BREAK.values(), ids=BREAK.keys())
def test_a_broken_checkpoint_is_named_and_passed_over(
    tmp_path: Path, bridge: Bridge, name: str, spoil: Callable[[Path], Any]
) -> None:
    save(tmp_path, bridge, 4)
    spoil(save(tmp_path, bridge, 8) / name)
    notes: list[str] = []
    assert checkpoint.newest(tmp_path, notes.append) == tmp_path / "step-0000004"
    (note,) = notes
    assert "step-0000008" in note and "not whole" in note
    save(tmp_path, bridge, 8)
    assert checkpoint.newest(tmp_path, notes.append) == tmp_path / "step-0000008" and len(notes) == 1


def test_a_pipe_or_a_link_in_a_checkpoint_is_not_followed(tmp_path: Path, bridge: Bridge) -> None:
    for name in ("SHA256SUMS", "optimiser.safetensors"):
        path = save(tmp_path, bridge, 4) / name
        outside = path.rename(tmp_path / "outside")
        path.symlink_to(outside)
        assert "leads out of its folder" in checkpoint.flaw(path.parent)
        path.unlink()
        os.mkfifo(path)
        assert "not a regular file" in checkpoint.flaw(path.parent)


def test_none_and_none_whole_are_two_things(tmp_path: Path, bridge: Bridge) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") is None
    (tmp_path / "step-by-step.txt").touch()
    assert checkpoint.newest(tmp_path) is None
    _cut(save(tmp_path, bridge, 4) / "progress.json")
    with pytest.raises(CheckpointError, match="every checkpoint is broken"):
        checkpoint.newest(tmp_path)


def test_coreutils_can_check_the_sums(tmp_path: Path, bridge: Bridge) -> None:
    lines = (save(tmp_path, bridge, 4) / "SHA256SUMS").read_text().splitlines()
    assert [len(line.split("  ")[0]) for line in lines] == [64] * 3


@pytest.mark.parametrize("again", [False, True])
def test_a_disk_that_fails_at_any_write_leaves_a_whole_checkpoint(tmp_path: Path, bridge: Bridge, again: bool) -> None:
    """`again`: the step to save is there already, as after a warning about a newer one."""
    for step in (4, 8) if again else (3, 4):
        save(tmp_path, bridge, step)
    tries = 0
    for _ in until_it_holds(tmp_path):
        tries += 1
        try:
            save(tmp_path, bridge, 8)
        except OSError as error:
            assert "step-" in str(error) and ".partial" not in str(error)  # noqa: PT017
        assert checkpoint.newest(tmp_path) is not None
        assert all(not checkpoint.flaw(path) for path in checkpoint.steps(tmp_path))
        assert not list(tmp_path.rglob(".partial-*"))
    assert tries > 10 and json.loads((tmp_path / "step-0000008/progress.json").read_text()) == {"step": 8}
