"""One command at a time in a run folder; whoever dies in it leaves the door open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helmas_core.errors import ConfigError, WriteError
from helmas_core.json_files import write_json
from helmas_core.layering import load_config
from helmas_core.lock import locked
from helmas_core.runs import Run, check_run_path, create_run
from tests.cli.fakes import Cli, Core
from tests.faults import failing, full_from

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from helmas_core.lock import locked
with locked(Path(sys.argv[1])):
    print("READY", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of `folder`."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"READY\n"
        yield process
        process.kill()


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as process:
        with (
            pytest.raises(ConfigError, match=rf"run: in use by .*pid {process.pid} on .* since 20\d\d-"),
            locked(tmp_path / "run"),
        ):
            pass
        owner = json.loads((tmp_path / "run/lock.json").read_text())
        assert owner.keys() == {"host", "pid", "command", "started"}
        process.send_signal(signal.SIGKILL)
        process.wait()
        notes: list[str] = []
        with locked(tmp_path / "run", notes.append):
            assert json.loads((tmp_path / "run/lock.json").read_text())["pid"] == os.getpid()
        assert f"pid {process.pid}" in notes[0] and "taken over" in notes[0]


def test_nothing_is_left_where_nothing_was_made(tmp_path: Path) -> None:
    with locked(tmp_path / "runs/x"):
        assert (tmp_path / "runs/x/lock.json").exists()
    assert not any(tmp_path.iterdir())
    with locked(tmp_path / "runs/x"):
        (tmp_path / "runs/x/a").touch()
    assert [path.name for path in (tmp_path / "runs/x").iterdir()] == ["a"]


def test_half_written_files_of_a_killed_owner_go(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (run, run / "checkpoints", outside):
        (folder / ".partial-abcdefgh").mkdir(parents=True)
    (run / "figures").symlink_to(outside)
    with locked(run):
        assert [path.parent.name for path in tmp_path.rglob(".partial-*")] == ["outside"]


def test_the_owners_command_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["helmas", "train", "--api-key", "open-sesame", "-o", "x"])
    with locked(tmp_path):
        owner = json.loads((tmp_path / "lock.json").read_text())
    assert owner["command"] == "helmas train --api-key '***' -o x"


def test_a_start_that_was_killed_is_no_run_and_can_be_made_again(tmp_path: Path) -> None:
    config = load_config(["lab"])
    (tmp_path / "config.json").write_text('{"architectures": ["somebody\'s"]}')
    with pytest.raises(ConfigError, match="not a run folder"):
        check_run_path(tmp_path)
    write_json(tmp_path / "config.json", config.model_dump(mode="json"))
    (tmp_path / "lock.json").touch()
    (tmp_path / ".partial-abcdefgh").mkdir()
    check_run_path(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a run folder"):
        check_run_path(tmp_path, overwrite=True)
    (tmp_path / "report.json").unlink()
    with locked(tmp_path):
        create_run(tmp_path, config)
    assert Run(tmp_path).config == config.model_dump(mode="json")


def test_a_folder_that_takes_no_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/run"), locked(tmp_path / "file/run"):
        pass
    with failing(tmp_path, full_from(1)), pytest.raises(WriteError, match="run"), locked(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_commands_wait_for_no_one(cli: Cli, core: Core, comparing: list[str], bridge: Path) -> None:
    assert cli("train", "-p", "lab", "-o", "runs/x").code == 0
    with holder(Path("runs/x").absolute()), holder(Path("runs/y").absolute()):
        for argv in (
            ["train", "-o", "runs/x", "--resume"],
            ["train", "-p", "lab", "-o", "runs/x", "--overwrite"],
            ["eval", "--bridge", str(bridge), "-p", "lab", "-o", "runs/x"],
            ["compare", "-p", "lab", "--methods", "ridge,kava", "--dataset", "relay", "-o", "runs/y"],
            ["eval", "--bridge", str(bridge), "--bridge", str(bridge), "--dataset", "relay", "-o", "runs/y"],
            ["runs", "rm", "x", "--yes"],
        ):
            result = cli(*argv)
            assert (result.code, "in use by" in result.err) == (2, True), argv
    assert Path("runs/x/bridge.safetensors").exists()
    again = cli("train", "-o", "runs/x", "--resume")
    assert again.code == 0 and "taken over from" in again.err
    assert not Path("runs/x/lock.json").exists()
