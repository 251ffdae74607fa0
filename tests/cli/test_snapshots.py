"""What a person sees, as it was last looked at: `pytest tests/cli/test_snapshots.py --snapshot-update` after a look.

Every help, and what commands print, at 60 and 200 columns of a terminal without colours and escape codes, in a pipe,
with --json and with --quiet. Times, versions and folders are made up.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from docs.commands import command_names
from helmas_cli.app import main
from helmas_core.json_files import write_json, write_text
from helmas_core.layering import load_config
from helmas_core.runs import create_run
from tests.cli.fakes import Cli, Core, Result, report

pytestmark = pytest.mark.unit
NARROW, WIDE = 60, 200
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\+00:00)?")
ESCAPE = "\x1b"
Seen = Callable[..., str]
ALL_ARMS = ("student", "teacher", "text", "bridge", "deranged", "own")
PARTS = ("reasoning", "teacher_prefill", "teacher_decode", "bridge", "student_prefill", "student_decode")
COST = {"seconds": dict.fromkeys(PARTS, 0.0125), "cold": {"p50": 0.075}, "warm": {"p50": 0.025}}
COST |= {"teacher_bytes": 20480, "bridged_bytes": 10240, "peak_memory_gib": 1.25, "joules": 3.5}
VERDICT = {"text": "content effect +.70 [.50, .80]; n = 40"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def full_report(dataset: str = "relay", arms: tuple[str, ...] = ALL_ARMS) -> dict[str, Any]:
    """All that an evaluation's tables can show."""
    made = report(dataset, arms)
    right = {
        name: "1" * round(40 * arm["accuracy"]) + "0" * round(40 - 40 * arm["accuracy"])
        for name, arm in made["arms"].items()
    }
    made["outcomes"] = {"items": [["relay", str(item)] for item in range(40)], "right": right}
    made["costs"] = dict.fromkeys(arms, COST)
    return made | {"reasoning": {"items": 40, "names_answer": 0.125}, "verdict": VERDICT}


@pytest.fixture
def seen(core: Core, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    """What a terminal of so many columns shows, stdout before stderr, and the exit code."""
    monkeypatch.chdir(tmp_path)
    core.reports = full_report
    for name in ("HELMAS_DEBUG", "HELMAS_DATA", "GITHUB_ACTIONS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def look(*argv: str, columns: int) -> str:
        out, err = Terminal(), Terminal()
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            code = main(list(argv))
        assert ESCAPE not in out.getvalue() + err.getvalue()
        return as_text(Result(code, out.getvalue(), err.getvalue()))

    return look


def as_text(result: Result) -> str:
    parts = {"stdout": result.out, "stderr": result.err}
    shown = [f"--- {name}\n{normal(text)}" for name, text in parts.items() if text]
    return "\n".join([*shown, f"--- exit code {result.code}"])


def normal(text: str) -> str:
    """Without what differs from day to day and place to place, and without blanks at the ends of lines."""
    text = TIME.sub("2026-01-01T00:00:00+00:00", text)
    text = re.sub(r'(?<=[" ])/\S+/(?=profiles/|site-packages/|src/)', "/…/", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished runs that differ in a key, the first with a report."""
    for index, name in enumerate(("first", "second")):
        config = load_config(["lab"], [f"train.batch={8 * (index + 1)}"])
        run = create_run(tmp_path / "runs" / name, config, ["helmas", "train", "-p", "lab", "-o", f"runs/{name}"])
        run.bridge.write_bytes(b"bridge")
        write_json(run.path / "report.json", full_report() | {"manifest": {"trained_seed": index}})
        answers = [{"task": "relay", "id": str(item), "question": f"q{item}"} for item in range(20)]
        rows = [row | {"arms": {"bridge": {"right": index >= item % 2}}} for item, row in enumerate(answers)]
        write_text(run.path / "items.jsonl", "\n".join(map(json.dumps, rows)))
        run.finish("done")
        os.utime(run.path / "manifest.json", (index + 1, index + 1))
    return tmp_path


@pytest.mark.parametrize("columns", [NARROW, WIDE])
@pytest.mark.parametrize("command", ["", "profiles", "runs", *command_names()])
def test_help(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = as_text(cli(*command.split(), "--help"))
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown.replace("--install-completi…", ""), "a word is cut off"
    assert shown == snapshot


OUTPUTS = {
    "overview": [],
    "profiles list": ["profiles", "list"],
    "profiles show": ["profiles", "show", "lab", "-s", "train.batch=4"],
    "doctor": ["doctor", "-p", "lab"],
    "runs list": ["runs", "list"],
    "runs show": ["runs", "show", "first"],
    "runs compare": ["runs", "compare", "first", "second"],
    "runs rm": ["runs", "rm", "second", "--yes"],
    "baseline": ["baseline", "-p", "lab", "--dataset", "relay"],
    "train": ["train", "-p", "lab", "-o", "runs/new"],
    "train dry run": ["train", "-p", "lab", "-o", "runs/new", "--dry-run"],
    "eval": ["eval", "--bridge", "runs/first", "--dataset", "relay,arithmetic"],
    "eval missed gate": ["eval", "--bridge", "runs/first", "--dataset", "relay", "--fail-under", ".95"],
    "compare dry run": ["compare", "-p", "lab", "--preset", "blending", "--dry-run"],
    "chat": ["chat", "--bridge", "runs/first", "--prompt", "hello"],
    "inspect-cache": ["inspect-cache", "--bridge", "runs/first"],
    "overlap": ["overlap", "--dataset", "relay,arithmetic", "--limit", "20"],
    "pool": ["pool", "runs/first", "runs/second"],
}
ERRORS = {
    "unknown command": ["evaluate"],
    "no sub-command": ["runs"],
    "unknown flag": ["train", "--limits", "3"],
    "unknown key": ["train", "-s", "train.stepz=3"],
    "unknown profile": ["train", "-p", "labb"],
    "unknown data set": ["eval", "--bridge", "runs/first", "--dataset", "gsm9k"],
    "no bridge": ["eval"],
    "no such run": ["runs", "show", "frist"],
    "used folder": ["train", "-p", "lab", "-o", "runs/first"],
    "one run": ["runs", "compare", "first"],
}


@pytest.mark.parametrize("columns", [NARROW, WIDE])
@pytest.mark.parametrize("name", OUTPUTS)
def test_output(seen: Seen, runs: Path, snapshot: SnapshotAssertion, name: str, columns: int) -> None:
    assert seen(*OUTPUTS[name], columns=columns) == snapshot


@pytest.mark.parametrize("name", ERRORS)
def test_error(seen: Seen, runs: Path, snapshot: SnapshotAssertion, name: str) -> None:
    assert seen(*ERRORS[name], columns=NARROW) == snapshot


def test_doctor_of_the_lab_pair(cli: Cli, snapshot: SnapshotAssertion) -> None:
    """By the real core; what this machine has is left out."""
    shown = as_text(cli("doctor", "-p", "lab"))
    assert "\n".join(line for line in shown.splitlines() if not line.startswith("available_gib")) == snapshot


def test_figures_are_whole_at_any_width(seen: Seen, runs: Path) -> None:
    """What a wide terminal shows of a report, a narrow one shows too, no word or figure cut in two."""
    for name in ("eval", "baseline", "runs compare", "pool", "inspect-cache", "runs show"):
        narrow, wide = (set(seen(*OUTPUTS[name], columns=columns).split()) for columns in (NARROW, WIDE))
        assert {word for word in wide if not word.startswith("─")} <= narrow, name


PIPED = ("profiles list", "runs list", "eval", "runs compare", "pool", "overlap")


@pytest.mark.parametrize("name", PIPED)
def test_in_a_pipe(cli: Cli, core: Core, runs: Path, snapshot: SnapshotAssertion, name: str) -> None:
    assert as_text(cli(*OUTPUTS[name])) == snapshot


DOCUMENTS = [name for name in OUTPUTS if name != "overview"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_one_document_and_nothing_else(cli: Cli, core: Core, runs: Path, name: str) -> None:
    result = cli(*OUTPUTS[name], "--json")
    assert isinstance(json.loads(result.out), dict)
    assert result.out.endswith("}\n")
    assert result.code in (0, 3)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_quiet_leaves_stderr_to_errors(cli: Cli, core: Core, runs: Path, name: str) -> None:
    result = cli(*OUTPUTS[name], "--quiet")
    assert result.out
    missed = [line for line in result.err.splitlines() if line.startswith("gate not met")]
    assert result.err.splitlines() == missed
    assert bool(missed) == (result.code == 3)


SHAPES = ("profiles list", "doctor", "runs list", "eval", "train", "pool", "overlap")


@pytest.mark.parametrize("name", SHAPES)
def test_documents_keep_their_shape(cli: Cli, core: Core, runs: Path, snapshot: SnapshotAssertion, name: str) -> None:
    assert shape(cli(*OUTPUTS[name], "--json").json) == snapshot


def shape(value: Any) -> Any:
    """Keys and kinds of values; of a list its first."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__
