"""Starting loads no torch, no transformers, no datasets before a command needs them; `bench/start.py` times it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fakes import Cli

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "accelerate", "matplotlib", "scipy", "numpy", "prompt_toolkit")


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["profiles", "list"], ["train", "-p", "lab", "--dry-run"]]
)
def test_loads_nothing_heavy(argv: list[str]) -> None:
    code = f"""
import sys
from helmas_cli.app import main
assert main({argv}) == 0
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""
    assert _run(code).rstrip().endswith("LOADED []")


def test_importing_the_core_configuration_loads_no_terminal() -> None:
    code = """
import sys, helmas_core.config, helmas_core.runs, helmas_core.progress
print([name for name in ("rich", "typer", "torch") if name in sys.modules])
"""
    assert _run(code).strip() == "[]"


COMMANDS = [["baseline"], ["train"], ["eval"], ["chat"], ["inspect-cache"], ["doctor"]]
COMMANDS += [["profiles", "list"], ["profiles", "show"], ["runs", "list"], ["runs", "show"]]
COMMON = ["--profile", "-p", "--set", "-s", "--out", "-o", "--dataset", "--data-dir", "--limit", "--seed", "--json"]
COMMON += ["--quiet", "-q", "--verbose", "-v", "--dry-run"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_takes_the_common_flags(cli: Cli, command: list[str]) -> None:
    words = cli(*command, "--help").out.split()
    assert [flag for flag in COMMON if flag not in words] == []
