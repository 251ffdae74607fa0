"""`helmas runs`: what was trained and measured here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli.options import Common, with_common
from helmas_cli.report import number, show_report
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.runs import Run

app = typer.Typer(help="List the run folders, or show one.")
Name = Annotated[str, typer.Argument(help="Name of a run, or its folder.")]


def _root(common: Common) -> Path:
    from helmas_core.runs import ROOT

    return common.out.expanduser() if common.out else ROOT


@app.command("list")
@with_common
def list_runs(common: Common) -> int:
    """The runs in ./runs (or --out), newest first."""
    from helmas_core.runs import list_runs as find

    screen = Screen.of(common)
    rows = [summary(run) for run in find(_root(common))]
    rows = [row for row in rows if common.dataset in (None, row["dataset"])][: common.limit]
    if screen.json:
        screen.document({"schema": 1, "command": "runs list", "runs": rows})
        return 0
    if not rows:
        screen.note(f"no runs in {_root(common)}")
        return 0
    columns = ("run", "status", "started", "pair", "dataset", "bridge accuracy")
    screen.table(
        columns,
        [[row["name"], row["status"], row["started"], row["pair"], row["dataset"], _scores(row)] for row in rows],
        left=True,
    )
    return 0


def _scores(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(score)}" for name, score in row["accuracy"].items())


def summary(run: Run) -> dict[str, Any]:
    """A run in a few words; what its files lack is None."""
    manifest, config = run.manifest or {"status": "unreadable"}, run.config or {}
    pair, data = config.get("pair", {}), config.get("data", {})
    arms = {report.get("dataset", "?"): report.get("arms", {}).get("bridge", {}) for report in reports_of(run.report)}
    return {
        "name": run.name,
        "path": str(run.path),
        "status": manifest.get("status"),
        "started": manifest.get("started"),
        "pair": f"{pair['teacher']} → {pair['student']}" if {"teacher", "student"} <= set(pair) else None,
        "dataset": data.get("dataset"),
        "accuracy": {name: arm.get("accuracy") for name, arm in arms.items()},
    }


def reports_of(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The evaluations in report.json, whichever command wrote it."""
    if not document:
        return []
    if "reports" in document:
        return list(document["reports"])
    inner = document if "arms" in document else document.get("eval")
    return [dict(inner)] if inner else []


@app.command("show")
@with_common
def show_run(common: Common, name: Name) -> int:
    """One run: how it was made, and what it gave."""
    screen, run = Screen.of(common), find_run(name, _root(common))
    if screen.json:
        parts = {"manifest": run.manifest, "config": run.config, "report": run.report}
        screen.document({"schema": 1, "command": "runs show", **summary(run), **parts})
        return 0
    facts = summary(run)
    facts["argv"] = " ".join((run.manifest or {}).get("argv", []))
    facts["bridge"] = run.bridge if run.bridge.exists() else None
    del facts["accuracy"]
    screen.pairs({key: "" if value is None else value for key, value in facts.items()})
    for report in reports_of(run.report):
        screen.print()
        show_report(screen, report)
    return 0


def find_run(name: str, root: Path) -> Run:
    """The run called `name` under `root`, or in the folder `name`."""
    from helmas_core.errors import ConfigError, did_you_mean
    from helmas_core.runs import Run
    from helmas_core.runs import list_runs as find

    for path in (root / name, Path(name).expanduser()):
        if (path / "manifest.json").is_file():
            return Run(path)
    known = [run.name for run in find(root)]
    raise ConfigError(
        f'no run "{name}"', where=str(root), fix=did_you_mean(name, known) if known else "train one first"
    )
