"""Evaluations of several bridges on the same items as one document. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helmas_core.config import CONTROLS, Config
from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.statistics import paired_difference
from helmas_core.evaluation.verdict import verdict

Report = Mapping[str, Any]
BRIDGED = ("bridge", "deranged", *CONTROLS)  # the arms that depend on the bridge
CONTRASTS = ("student", "deranged", "text", "teacher")


def shared_arms(arms: Sequence[str]) -> list[str]:
    """Those of `arms` that are the same whatever the bridge."""
    return [arm for arm in arms if arm not in BRIDGED]


def check_arms(configs: Iterable[Config]) -> None:
    """ConfigError where the arm that is compared would not be run."""
    if any("bridge" not in config.eval.arms for config in configs):
        raise ConfigError("bridge is the arm that is compared", where="--arms", fix="add it")


def beside(
    reports: Mapping[str, Report], seed: int, minimum_n: int = 1, allow_inexact: bool = False, against: bool = True
) -> dict[str, Any]:
    """{dataset, split, n, arms, costs, variants}: `reports` of one data set by variant, as `eval` makes them.

    `arms` and `costs` are those of the first report that no bridge has a part in. Each variant has its own arms, their
    contrasts, costs, warnings and verdict; `against_first` is its bridge's paired difference to the first variant's,
    if they are to be set `against` it: not where another one was to be the first.
    DataError for reports on unlike items, which cannot be paired.
    """
    first = next(iter(reports.values()))
    for name, report in reports.items():
        if _items(report) != _items(first):
            fix = "let data.max_source_tokens and what is read be the same in all"
            raise DataError("answered other items than the first", where=f"{name}, {first['dataset']}", fix=fix)
    shared = {name: first["arms"][name] for name in shared_arms(list(first["arms"]))}
    head = {key: first[key] for key in ("dataset", "split", "n", "exactness") if key in first}
    costs = {arm: first["costs"][arm] for arm in shared if arm in (first.get("costs") or {})}
    rows = {name: _variant(report, first, seed, against) for name, report in reports.items()}
    for row in rows.values():
        row["verdict"] = verdict({**head, **row, "costs": costs | row["costs"]}, minimum_n, allow_inexact)
    return {**head, "arms": shared, "costs": costs, "variants": rows}


def _items(report: Report) -> list[Any]:
    return [report["n"], *((item["task"], item["id"]) for item in report.get("items") or ())]


def _variant(report: Report, first: Report, seed: int, against: bool) -> dict[str, Any]:
    ours, theirs = _right(report), _right(first)
    known = {arm: marks for arm, marks in theirs.items() if arm not in BRIDGED} | ours
    contrasts = {
        f"bridge-{other}": paired_difference(ours["bridge"], known[other], seed)
        for other in CONTRASTS
        if "bridge" in ours and other in known
    }
    alone = report is first or not against
    return {
        "bridge": report["bridge"],
        "arms": {name: arm for name, arm in report["arms"].items() if name in BRIDGED},
        "contrasts": contrasts,
        "against_first": None if alone else paired_difference(ours["bridge"], theirs["bridge"], seed),
        "costs": {name: cost for name, cost in (report.get("costs") or {}).items() if name in BRIDGED},
        "warnings": list(report.get("warnings") or []),
    }


def _right(report: Report) -> dict[str, list[bool]]:
    """Whether each arm was right, item by item."""
    return {arm: [mark == "1" for mark in marks] for arm, marks in report["outcomes"]["right"].items()}
