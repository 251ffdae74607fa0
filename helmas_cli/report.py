"""Evaluation reports as tables, and the gates that `--fail-under` puts on them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helmas_cli.ui import Screen
from helmas_core.errors import ConfigError, did_you_mean

_ARM_COLUMNS = ("arm", "accuracy", "95 %", "n", "unparsed", "cut off", "s p50", "s p95", "tok/s")
_CONTRAST_COLUMNS = ("contrast", "difference", "95 %", "p")
_COST_PARTS = ("reasoning", "teacher_prefill", "teacher_decode", "bridge", "student_prefill", "student_decode")
_COST_COLUMNS = (
    "ms per item", "think", "t read", "t write", "bridge", "s read", "s write", "cold", "warm", "KiB in", "KiB out",
    "GiB", "J",
)  # fmt: skip
_GATE = re.compile(r"(?:(?P<left>\w+)(?:(?P<sign>[-/])(?P<right>\w+))?=)?(?P<value>[+-]?(?:\d+\.?\d*|\.\d+))")


def show_report(screen: Screen, report: Mapping[str, Any]) -> None:
    """One table of arms and one of contrasts."""
    title = f"{report['dataset']} · {report['split']} · n = {report['n']}"
    screen.table(_ARM_COLUMNS, [_arm_row(name, arm) for name, arm in report["arms"].items()], title)
    if report.get("contrasts"):
        screen.table(_CONTRAST_COLUMNS, [_contrast_row(name, row) for name, row in report["contrasts"].items()])
    if not screen.json and report.get("costs"):
        _show_costs(screen, [_cost_row(name, row) for name, row in report["costs"].items()])
    if report.get("harness"):
        _show_harness(screen, report["harness"]["results"])
    show_verdict(screen, report)


def _show_harness(screen: Screen, results: Mapping[str, Any]) -> None:
    """The figures of lm-evaluation-harness: a row for each task's metric, a column for each arm."""
    rows = dict.fromkeys((name, metric) for tasks in results.values() for name, row in tasks.items() for metric in row)
    cells = [[name, metric, *(number(tasks[name].get(metric)) for tasks in results.values())] for name, metric in rows]
    screen.table(("lm-eval", "metric", *results), cells)


def _show_costs(screen: Screen, rows: Sequence[Sequence[str]]) -> None:
    """The columns in which any arm has something."""
    kept = [index for index in range(1, len(_COST_COLUMNS)) if any(row[index] for row in rows)]
    if kept:
        screen.table([_COST_COLUMNS[i] for i in (0, *kept)], [[row[i] for i in (0, *kept)] for row in rows])


def show_verdict(screen: Screen, report: Mapping[str, Any]) -> None:
    """How much the reasoning gives away, and what the report says in plain words."""
    leak = (report.get("reasoning") or {}).get("names_answer")
    if leak is not None:
        screen.print(f"reasoning that names the answer: {leak:.1%} of {report['reasoning']['items']} items")
    if report.get("verdict"):
        text = report["verdict"]["text"]
        screen.print(text if text.startswith("no verdict") else f"verdict: {text}")


def _cost_row(name: str, cost: Mapping[str, Any]) -> list[str]:
    """Milliseconds per item and part, cold and warm medians, what is moved in KiB, peak memory, energy."""
    parts = [_scaled(cost["seconds"].get(part), 1e3) for part in _COST_PARTS]
    totals = [_scaled((cost.get(how) or {}).get("p50"), 1e3) for how in ("cold", "warm")]
    moved = [_scaled(cost.get(key), 1 / 1024) for key in ("teacher_bytes", "bridged_bytes")]
    return [name, *parts, *totals, *moved, number(cost.get("peak_memory_gib")), number(cost.get("joules"))]


def _scaled(value: float | None, by: float) -> str:
    return "" if value is None else number(float(value) * by)


def document_of(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `--json` prints and report.json holds: the one report, or several under "reports"."""
    return reports[0] if len(reports) == 1 else {"reports": list(reports)}


def show_reports(screen: Screen, reports: Sequence[Mapping[str, Any]]) -> None:
    if screen.json:
        screen.document(document_of(reports))
        return
    for index, report in enumerate(reports):
        if index:
            screen.print()
        show_report(screen, report)


def show_comparison(screen: Screen, document: Mapping[str, Any]) -> None:
    """What was compared, then for each data set the variants and the arms without a bridge."""
    from helmas_core.report.comparison import refusals, scores_table, shared_table, variants_table, verdicts, warnings

    screen.table(*variants_table(document))
    for text in refusals(document):
        screen.note(f"not trained: {text}")
    for report in document["reports"]:
        screen.table(*scores_table(report), f"{report['dataset']} · {report['split']} · n = {report['n']}")
        screen.table(*shared_table(report))
        for text in verdicts(report):
            screen.print(text)
        for text in warnings(report):
            screen.note(f"warning: {text}")


def _arm_row(name: str, arm: Mapping[str, Any]) -> list[str]:
    counts = [number(arm.get(key)) for key in ("n", "unparsed", "truncated")]
    times = [number(arm.get(key)) for key in ("seconds_p50", "seconds_p95", "tokens_per_second")]
    return [name, number(arm["accuracy"]), interval(arm.get("ci")), *counts, *times]


def _contrast_row(name: str, row: Mapping[str, Any]) -> list[str]:
    return [name, number(row.get("delta"), "+"), interval(row.get("ci"), "+"), p_value(row.get("p"))]


def p_value(p: float | None) -> str:
    """.062; none is ever 0."""
    return "< .001" if p is not None and p < 0.0005 else number(p)


def number(value: float | None, sign: str = "") -> str:
    """.983, 1.250, 38.2, 1,234; counts as they are; nothing for a value that is missing."""
    if value is None or math.isnan(value):
        return ""
    if isinstance(value, int):
        return f"{value:{sign},}"
    places = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{sign},.{places}f}")


def interval(ends: Sequence[float | None] | None, sign: str = "") -> str:
    return f"{number(ends[0], sign)} … {number(ends[1], sign)}" if ends else ""


@dataclass(frozen=True)
class Gate:
    """The least that an arm's accuracy, or two arms' difference or ratio, must reach."""

    least: float
    left: str
    sign: str = ""
    right: str = ""

    @property
    def name(self) -> str:
        return self.left + self.sign + self.right

    @property
    def arms(self) -> list[str]:
        return [arm for arm in (self.left, self.right) if arm]

    def value(self, report: Mapping[str, Any]) -> float:
        """What the report holds; nan if it is not defined there."""
        left, *right = (report["arms"][arm]["accuracy"] for arm in self.arms)
        if left is None or None in right:
            return float("nan")
        if self.sign == "-":
            return left - right[0]
        if self.sign == "/":
            return left / right[0] if right[0] else float("nan")
        return left

    def met(self, report: Mapping[str, Any]) -> bool:
        return self.value(report) >= self.least - 1e-9  # .9 - .8 is a little less than .1


def gate(text: str, arms: Sequence[str]) -> Gate:
    """`.9` (the bridge arm), `text=.9`, `bridge-deranged=.2` or `bridge/text=.95`; its arms must be among `arms`."""
    found = _GATE.fullmatch(text.replace(" ", ""))
    if not found:
        fix = "write .9, bridge-deranged=.2 or bridge/text=.95"
        raise ConfigError(f'cannot read "{text}"', where="--fail-under", fix=fix)
    made = Gate(float(found["value"]), found["left"] or "bridge", found["sign"] or "", found["right"] or "")
    for arm in made.arms:
        if arm not in arms:
            raise ConfigError(f'no arm "{arm}" in this evaluation', where="--fail-under", fix=did_you_mean(arm, arms))
    return made


def failures(gates: Sequence[Gate], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every gate that a report does not reach."""
    return [
        f"gate not met on {report['dataset']}: {one.name} = {one.value(report):.3f}, asked for {one.least:g}"
        for report in reports
        for one in gates
        if not one.met(report)
    ]
