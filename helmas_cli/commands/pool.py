"""`helmas pool`: evaluations on the same items, of bridges trained with several seeds, as one result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.options import Common, resolve
from helmas_cli.report import interval, number, p_value, show_verdict
from helmas_cli.ui import Screen

Reports = Annotated[
    list[str],
    typer.Argument(
        metavar="REPORT",
        help="report.json files, run folders of eval, or OWNER/NAME.",
        autocompletion=completion.reports,
    ),
]


def pool(common: Common, reports: Reports) -> int:
    """Pool evaluations of several seeds; intervals count both what items and what seeds are drawn."""
    from helmas_cli.load import fetched
    from helmas_core.errors import DataError
    from helmas_core.evaluation.pool import pool_reports

    screen = Screen.of(common)
    least = resolve(common, {}, base={}).eval.minimum_n
    if len(reports) < 2:
        raise DataError("one report is nothing to pool", where="pool", fix="name two or more")
    paths = [fetched(named, screen) or Path(named).expanduser() for named in reports]
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a report is named twice", where="pool", fix="name reports of different seeds")
    runs = [_read(path) for path in paths]
    if len({len(run) for run in runs}) > 1:
        raise DataError("the reports hold different data sets", where="pool", fix="evaluate all on the same ones")
    pooled = [pool_reports(list(same), least) for same in zip(*runs, strict=True)]
    if screen.json:
        screen.document(pooled[0] if len(pooled) == 1 else {"reports": pooled})
        return 0
    for one in pooled:
        _show(screen, one)
    return 0


def _read(path: Path) -> list[dict[str, Any]]:
    """The evaluations in a report.json; DataError unless all of them can be pooled."""
    from helmas_core.documents import Poolable, misfit
    from helmas_core.errors import DataError
    from helmas_core.foreign import inside, read_object, why

    fix = "give the --out folder of helmas eval"
    try:
        document = read_object(inside(path, "report.json") if path.is_dir() else path)
    except (OSError, ValueError) as error:
        raise DataError(f"not readable: {why(error)}", where=str(path), fix=fix) from error
    found = document.get("reports", [document])
    if not isinstance(found, list) or not all(isinstance(one, dict) and "arms" in one for one in found):
        raise DataError("not a report of helmas eval", where=str(path), fix=fix)
    if wrong := next(filter(None, (misfit(Poolable, one) for one in found)), None):
        raise DataError(f"not a whole report of helmas eval ({wrong})", where=str(path), fix=fix)
    return found


def _show(screen: Screen, report: dict[str, Any]) -> None:
    title = f"{report['dataset']} · {report['split']} · n = {report['n']} · {len(report['seeds'])} runs"
    rows = [
        [name, number(arm["accuracy"]), interval(arm["ci"]), number(arm["sd"]), " ".join(map(number, arm["seeds"]))]
        for name, arm in report["arms"].items()
    ]
    screen.table(("arm", "accuracy", "95 %", "sd", "each run"), rows, title)
    rows = [
        [name, number(row["delta"], "+"), interval(row["ci"], "+"), p_value(row["p"])]
        for name, row in report["contrasts"].items()
    ]
    screen.table(("contrast", "difference", "95 %", "p"), rows)
    show_verdict(screen, report)
