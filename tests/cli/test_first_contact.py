"""What somebody meets who has just installed helmas: the overview, the examples, the completion of words."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from helmas_cli.app import app, main
from helmas_cli.examples import EXAMPLES, OVERVIEW
from helmas_core.config import ARMS, CONTROLS
from helmas_core.data.tasks import REGISTRY
from helmas_core.json_files import write_json
from helmas_core.layering import profile_names
from tests.cli.fakes import Cli, report

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
COLUMNS = 60
Complete = Callable[..., list[str]]


def commands(group: object, before: str = "") -> Iterator[str]:
    """The names of all commands, those of groups too."""
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name


ALL = list(commands(typer.main.get_command(app)))


def test_alone_it_says_what_to_type_first(cli: Cli) -> None:
    shown = cli()
    assert (shown.code, shown.out, shown.err) == (0, OVERVIEW + "\n", "")
    assert len(shown.out.splitlines()) <= 15
    typed = [line.split("  ")[1] for line in OVERVIEW.splitlines() if line.startswith("  helmas")]
    assert typed[0].startswith("helmas train -p lab")
    assert [line for line in typed if line.split()[1] not in {name.split()[0] for name in ALL}] == []


@pytest.mark.parametrize("command", ALL)
def test_the_help_of_a_command_ends_with_two_examples(cli: Cli, command: str) -> None:
    shown = [line.strip() for line in cli(*command.split(), "--help").out.rstrip().splitlines()]
    first, second = EXAMPLES[command]
    assert shown[-3:] == ["Examples:", first, second]
    for line in (first, second):
        assert shlex.split(line)[: len(command.split()) + 1] == ["helmas", *command.split()]
        assert len(line) <= COLUMNS - 2, f"{line} is broken in two at {COLUMNS} columns"


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert EXAMPLES.keys() <= set(ALL)


@pytest.fixture
def complete(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Complete:
    """What a shell is offered for the last word typed, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ask(typed: str, shell: str = "bash") -> list[str]:
        for name, value in asked(typed, shell).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main([])
        return [line.split("\t")[0] for line in capsys.readouterr().out.splitlines() if line]

    return ask


def asked(typed: str, shell: str) -> dict[str, str]:
    """The environment in which a shell asks for completions."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_TYPER_COMPLETE_ARGS": typed}
    return {"_HELMAS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, one with a bridge and one with a report; another one elsewhere."""
    for name in ("runs/first", "runs/second", "other/third"):
        write_json(tmp_path / name / "manifest.json", {"status": "done"})
    (tmp_path / "runs/first/bridge.safetensors").write_bytes(b"")
    write_json(tmp_path / "runs/second/report.json", report("relay"))
    return tmp_path


def test_profiles_arms_and_keys_are_completed(complete: Complete) -> None:
    assert complete("helmas train -p ") == profile_names()
    assert complete("helmas profiles show qwen") == ["qwen2.5-cpu", "qwen2.5-gpu", "qwen3-h200"]
    assert set(complete("helmas eval --arms ")) == {*ARMS, *CONTROLS}
    assert complete("helmas eval --arms text,te") == ["text,teacher"]
    assert complete("helmas compare --preset bl") == ["blending"]
    assert complete("helmas train -s train.ste") == ["train.steps="]


def test_data_sets_are_completed_and_none_twice(complete: Complete) -> None:
    assert {*REGISTRY, "channel:facts", "jsonl:", "cloze:"} <= set(complete("helmas eval --dataset "))
    assert complete("helmas eval --dataset relay,re") == []
    assert complete("helmas overlap --dataset relay,arith") == ["relay,arithmetic"]


def test_runs_are_completed_by_what_they_hold(complete: Complete, runs: Path) -> None:
    assert complete("helmas eval --bridge ") == ["runs/first"]
    assert complete("helmas chat --bridge runs/f") == ["runs/first"]
    assert complete("helmas push ") == ["runs/first"]
    assert complete("helmas inspect-cache --bridge runs/first --against r") == ["runs/first"]
    assert complete("helmas pool ") == ["runs/second"]
    assert sorted(complete("helmas runs show ")) == ["first", "second"]
    assert complete("helmas runs compare first ") == ["second"]
    assert complete("helmas runs rm -o other ") == ["third"]
    assert sorted(complete("helmas plot -o other ")) == ["first", "second"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_are_completed_in_every_shell(complete: Complete, shell: str) -> None:
    assert "profiles" in complete("helmas prof", shell)[0]


def test_completion_loads_nothing_heavy(runs: Path) -> None:
    code = """
import atexit, sys
sys.argv[0] = "helmas"
from helmas_cli.app import main
heavy = {"torch", "transformers", "datasets", "numpy", "matplotlib"}
atexit.register(lambda: print("LOADED", sorted(heavy & sys.modules.keys())))
main()
"""
    for typed in ("helmas eval --bridge ", "helmas eval --dataset channel:f", "helmas pool "):
        environment = {**os.environ, **asked(typed, "bash"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=runs, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "LOADED []"
        assert len(done.stdout.splitlines()) == 2, typed
