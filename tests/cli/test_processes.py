"""`--processes N`: what is started, who speaks, how the exit code is found. Nothing is launched here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from helmas_core.errors import TrainingError
from helmas_core.launch import _killed
from tests.cli.fakes import Cli, Core

pytestmark = pytest.mark.unit
Launched = list[tuple[str, list[str], int]]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    calls: Launched = []

    def launch(module: str, arguments: Sequence[str], processes: int) -> int:
        calls.append((module, list(arguments), processes))
        return 3

    module = ModuleType("helmas_core.launch")
    module.__dict__["launch"] = launch
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the second of two processes; the others are not there, and not asked for."""
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("join", "leave"):
        monkeypatch.setattr(f"helmas_core.processes.{name}", lambda: None)
    monkeypatch.setattr("helmas_core.processes.agree", lambda wish: wish)
    monkeypatch.setattr("helmas_core.processes.broadcast", lambda value: value)


@pytest.mark.parametrize("command", ["train -o runs/x", "eval --bridge runs/made", "baseline"])
def test_the_same_command_line_in_several(
    cli: Cli, core: Core, launched: Launched, bridge: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    arguments = [*command.split(), "-p", "lab", "--processes", "4"]
    monkeypatch.setattr(sys, "argv", ["helmas", *arguments])
    assert cli(*arguments).code == 3
    assert launched == [("helmas_cli", arguments, 4)]
    assert core.calls == [] and not Path("runs/x").exists()
    assert cli(*arguments, "--dry-run").code == 0 and cli(*arguments[:-1], "1").code == 0 and len(launched) == 1


def test_what_is_wrong_is_said_before_anything_is_started(cli: Cli, core: Core, launched: Launched) -> None:
    assert cli("train", "-p", "lab", "-s", "train.btach=1", "--processes", "2").code == 2
    assert cli("train", "-p", "lab", "--processes", "0").code == 2
    assert launched == []


def test_only_the_first_one_shows_and_writes(cli: Cli, core: Core, second: None, launched: Launched) -> None:
    Path("runs/x").mkdir(parents=True)  # as the first one does
    result = cli("train", "-p", "lab", "-o", "runs/x", "--json", "--processes", "2")
    assert (result.code, result.out, result.err, launched) == (0, "", "", [])
    assert core.calls[-1][0] == "train"
    assert sorted(path.name for path in Path("runs/x").iterdir()) == [
        "bridge.safetensors",
        "metrics.jsonl",
    ]  # the fake's
    failed = cli("train", "-p", "lab", "-s", "train.btach=1")
    assert (failed.code, failed.err) == (2, "")


def test_what_is_one_process_s_work_is_refused_to_several(
    cli: Cli, core: Core, second: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helmas_core.processes.first_to_fail", lambda code: (True, code))
    result = cli("doctor", "-p", "lab")
    assert (result.code, "one process does this alone" in result.err) == (2, True)


def test_who_was_killed_is_named() -> None:
    with pytest.raises(TrainingError, match="process 1 was ended by SIGKILL"):
        _killed({0: -15, 1: -9})
    with pytest.raises(TrainingError, match="lost each other"):
        _killed({0: 75})
    assert _killed({0: -15, 1: -15}) == 143
