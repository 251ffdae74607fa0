"""Kills and a disk that is really full, in processes of their own; `python -m tests.killer` does it 200 times."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killer import command

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def _python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )


@pytest.mark.parametrize("options", [["--kills", "3", "--fork"], ["--kills", "1", "--writes", "1"]], ids=" ".join)
def test_a_training_that_is_killed_comes_out_as_if_nothing_had_been(tmp_path: Path, options: list[str]) -> None:
    done = _python("tests.killer", "--seed", "3", "--out", str(tmp_path), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all equal"
    assert int(done.stdout.splitlines()[-3].split()[0]) >= int(options[1])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """30 MB, of which a checkpoint takes 17."""
    (disk := tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_real_disk_that_is_full_and_then_grows(small_disk: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", small_disk / "run"
    assert _python("helmas_cli", *command(whole, False), cwd=tmp_path).returncode == 0
    full = _python("helmas_cli", *command(run, False), cwd=tmp_path)
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.startswith(f"error: {run}/checkpoints/step-0000006: cannot be written (") and "No space left" in line
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000003"]
    subprocess.run(["mount", "-o", "remount,size=90m", str(small_disk)], check=True)
    again = _python("helmas_cli", *command(run, True), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (run / "bridge.safetensors").read_bytes() == (whole / "bridge.safetensors").read_bytes()
