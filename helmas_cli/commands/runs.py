"""`helmas runs`: what was trained and measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.ask import agreed
from helmas_cli.examples import examples
from helmas_cli.options import Common, Yes, with_common
from helmas_cli.report import interval, number, p_value, show_report
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.runs import Run

app = typer.Typer(help="List, show, compare and remove run folders.")
Name = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.", autocompletion=completion.runs)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="RUN", help="Names of runs, or their folders.", autocompletion=completion.runs),
]


def _root(common: Common) -> Path:
    from helmas_core.runs import ROOT

    return common.out.expanduser() if common.out else ROOT


@app.command("list", epilog=examples("runs list"))
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
    """What was not measured on the test split says so: a training's own report is of few validation items."""
    marks = {name: "" if split in (None, "test") else f" ({split})" for name, split in row["splits"].items()}
    return ", ".join(f"{name} {number(score)}{marks[name]}" for name, score in row["accuracy"].items())


def summary(run: Run) -> dict[str, Any]:
    """A run in a few words; what its files lack is None."""
    from helmas_core.evaluation.compare import reports_of

    manifest, config = run.manifest or {"status": "unreadable"}, run.config or {}
    pair, data = config.get("pair", {}), config.get("data", {})
    reports = {report.get("dataset", "?"): report for report in reports_of(run.report)}
    return {
        "name": run.name,
        "path": str(run.path),
        "status": manifest.get("status"),
        "started": manifest.get("started"),
        "pair": _arrow(pair) if {"teacher", "student"} <= set(pair) else None,
        "dataset": data.get("dataset"),
        "accuracy": {name: one.get("arms", {}).get("bridge", {}).get("accuracy") for name, one in reports.items()},
        "splits": {name: one.get("split") for name, one in reports.items()},
    }


def _arrow(pair: Mapping[str, Any]) -> str:
    """The models of a pair, the student last."""
    from helmas_core.sides import named

    *teachers, student = map(str, named(pair).values())
    return f"{' + '.join(teachers)} → {student}"


@app.command("show", epilog=examples("runs show"))
@with_common
def show_run(common: Common, name: Name) -> int:
    """One run: how it was made, and what it gave."""
    from helmas_core.evaluation.compare import reports_of

    screen, run = Screen.of(common), find_run(name, _root(common))
    if screen.json:
        parts = {"manifest": run.manifest, "config": run.config, "report": run.report}
        screen.document({"schema": 1, "command": "runs show", **summary(run), **parts})
        return 0
    facts = summary(run)
    facts["argv"] = " ".join((run.manifest or {}).get("argv", []))
    facts["bridge"] = run.bridge if run.bridge.exists() else None
    del facts["accuracy"], facts["splits"]
    screen.pairs({key: "" if value is None else value for key, value in facts.items()})
    for report in reports_of(run.report):
        screen.print()
        show_report(screen, report)
    return 0


@app.command("compare", epilog=examples("runs compare"))
@with_common
def compare(common: Common, names: Names) -> int:
    """Runs side by side: scores, what differs in their configurations, and the paired difference on shared items."""
    from helmas_core.errors import ConfigError
    from helmas_core.evaluation.compare import compare_runs

    if len(names) < 2:
        raise ConfigError("one run has nothing beside it", where="runs compare", fix="name two or more")
    screen, found = Screen.of(common), compare_runs([find_run(name, _root(common)) for name in names])
    if screen.json:
        screen.document(found)
    else:
        _show_comparison(screen, found)
    return 0


def _show_comparison(screen: Screen, found: Mapping[str, Any]) -> None:
    runs, names = found["runs"], [run["name"] for run in found["runs"]]
    for measured in dict.fromkeys(_measured(one) for run in runs for one in run["scores"]):
        beside = [{_measured(one): one for one in run["scores"]}.get(measured, {"n": None, "arms": {}}) for run in runs]
        arms = dict.fromkeys(arm for one in beside for arm in one["arms"])
        rows = [["n", *(number(one["n"]) for one in beside)]]
        rows += [[arm, *(number(one["arms"].get(arm)) for one in beside)] for arm in arms]
        screen.table(["arm", *names], rows, measured)
    if found["paired"]:
        rows = map(_paired, found["paired"])
        screen.table(("bridge", "data set", "n", "difference", "95 %", "p"), rows, "the same items")
    if found["differences"]:
        rows = [[key, *map(_short, values)] for key, values in found["differences"].items()]
        screen.table(["differs", *names], rows, left=True)


def _measured(scores: Mapping[str, Any]) -> str:
    """Data set and split: accuracies of two splits do not stand in one table."""
    return f"{scores['dataset']} · {scores['split']}"


def _paired(row: Mapping[str, Any]) -> list[str]:
    figures = [number(row["n"]), number(row["delta"], "+"), interval(row["ci"], "+"), p_value(row["p"])]
    return [f"{row['run']} - {row['against']}", row["dataset"], *figures]


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


@app.command("rm", epilog=examples("runs rm"))
@with_common
def remove(common: Common, names: Names, yes: Yes = False) -> int:
    """Delete what runs wrote, after asking. Files of others in a run folder stay."""
    screen = Screen.of(common)
    runs = list({run.path.absolute(): run for run in (find_run(name, _root(common)) for name in names)}.values())
    for run in runs:  # all of them first, so that a bad name among several costs nothing
        run.check_removable()
    going = not common.dry_run and (yes or agreed(_question(runs), "runs rm"))
    left = {str(run.path): [str(path) for path in _removed(run)] for run in runs} if going else {}
    if screen.json:
        screen.document({"schema": 1, "command": "runs rm", "removed": list(left), "left": left})
        return 0
    for path, kept in left.items():
        screen.print(f"removed {path}" + (f"; not ours, kept: {', '.join(kept)}" if kept else ""))
    if not going:
        screen.note(f"kept {', '.join(str(run.path) for run in runs)}")
    return 0


def _removed(run: Run) -> list[Path]:
    from helmas_core.lock import locked

    with locked(run.path):
        left = run.remove()
    if not left:
        run.path.rmdir()
    return left


def _question(runs: Sequence[Run]) -> str:
    said = ", ".join(f"{run.path} ({(run.manifest or {}).get('status')})" for run in runs)
    return f"Delete {said}?"


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
