"""`helmas plot`: learning curves of one run, or of several in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from helmas_cli.commands.runs import Names, find_run
from helmas_cli.options import Common
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.runs import Run


def plot(common: Common, names: Names) -> int:
    """Draw losses and validation accuracy by step: in the one run's figures/, in --out, or here as curves.png."""
    from helmas_core.runs import ROOT

    screen, runs = Screen.of(common), [find_run(name, ROOT) for name in dict.fromkeys(names)]
    rows = {label: _rows(run) for label, run in _labels(runs).items()}
    path = _folder(common, runs) / "curves.png"
    if not common.dry_run:
        from helmas_core.evaluation.figures import curve_figure, save
        from helmas_core.runs import check_links

        check_links(runs[0].path)
        save(curve_figure(rows), path)
    if screen.json:
        screen.document({"schema": 1, "command": "plot", "runs": [str(run.path) for run in runs], "figure": str(path)})
    else:
        screen.print(str(path))
    return 0


def _rows(run: Run) -> list[dict[str, object]]:
    from helmas_core.errors import DataError
    from helmas_core.runs import read_metrics

    rows = read_metrics(run.metrics)
    if not rows:
        raise DataError("nothing was logged", where=str(run.metrics), fix="choose a run that trained")
    return rows


def _labels(runs: list[Run]) -> dict[str, Run]:
    """The runs by name, or by folder where two have the same."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.path): run for run in runs}


def _folder(common: Common, runs: list[Run]) -> Path:
    if common.out:
        return common.out.expanduser()
    return runs[0].figures if len(runs) == 1 else Path()
