"""Runs beside each other: where their configurations differ, and what that did to the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helmas_core.documents import Item, fits
from helmas_core.foreign import inside, parse_object, read_text
from helmas_core.runs import LOG, Run, flat

Record = Mapping[str, Any]
Key = tuple[str, str, str]
ARM = "bridge"


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """{runs, differences, paired}: each run's scores, {key: a value per run} of the configuration where not all agree,
    and the paired difference of every later run's bridge to the first one's, on the items that both answered."""
    configs = [flat(run.config or {}) for run in runs]
    keys = sorted({key for config in configs for key in config})
    differences = {key: [config.get(key) for config in configs] for key in keys}
    return {
        "schema": 1,
        "command": "runs compare",
        "runs": [{"name": run.name, "path": str(run.path), "scores": scores(run)} for run in runs],
        "differences": {key: values for key, values in differences.items() if any(v != values[0] for v in values)},
        "paired": _paired(runs),
    }


def scores(run: Run) -> list[dict[str, Any]]:
    """Per data set of report.json: {dataset, split, n, arms: {arm: accuracy}, contrasts}."""
    return [
        {
            **{key: report.get(key) for key in ("dataset", "split", "n")},
            "arms": {name: arm.get("accuracy") for name, arm in (report.get("arms") or {}).items()},
            "contrasts": report.get("contrasts") or {},
        }
        for report in reports_of(run.report)
    ]


def reports_of(document: Record | None) -> list[dict[str, Any]]:
    """The evaluations in report.json, whichever command wrote it."""
    if not document:
        return []
    if "reports" in document:
        return list(document["reports"])
    inner = document if "arms" in document else document.get("eval")
    return [dict(inner)] if inner else []


def _paired(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of {run, against, dataset, n, delta, ci, p}; none where no items were kept."""
    right = [answers(run.path) for run in runs]
    rows = []
    for run, ours in zip(runs[1:], right[1:], strict=True):
        shared = [key for key in right[0] if key in ours]
        for dataset in dict.fromkeys(key[0] for key in shared):
            keys = [key for key in shared if key[0] == dataset]
            rows.append({"run": run.name, "against": runs[0].name, "dataset": dataset, **_test(keys, ours, right[0])})
    return rows


def _test(keys: Sequence[Key], ours: Mapping[Key, bool], theirs: Mapping[Key, bool]) -> dict[str, Any]:
    from helmas_core.evaluation.statistics import paired_difference

    return {"n": len(keys), **paired_difference([ours[key] for key in keys], [theirs[key] for key in keys])}


def answers(folder: Path) -> dict[Key, bool]:
    """Whether the bridge was right, by data set, id and question: an id alone may name another item elsewhere.

    Lines that are cut short or evaluated without the arm are not items that both answered.
    """
    try:
        lines = read_text(inside(folder, "items.jsonl"), LOG).split("\n")
    except (OSError, ValueError):
        return {}
    items = [item for item in map(_item, lines) if item is not None and ARM in item["arms"]]
    return {(item["task"], item["id"], item["question"]): item["arms"][ARM]["right"] for item in items}


def _item(line: str) -> dict[str, Any] | None:
    try:
        item = parse_object(line, finite=False)
    except ValueError:
        return None
    return item if fits(Item, item) else None
