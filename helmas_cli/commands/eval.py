"""`helmas eval`: what a bridge carries, against every control."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli.options import (
    Arms,
    Batch,
    Bridge,
    Common,
    Handoff,
    Split,
    arms_of,
    flag_tree,
    task_list,
)
from helmas_cli.report import document_of, failures, gate, show_reports
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.bridges.base import Bridge as AnyBridge
    from helmas_core.config import Config
    from helmas_core.models.pair import Pair
    from helmas_core.progress import Progress

GATE_MISSED = 3
Found = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]  # a report, its items, its diagnostics
FailUnder = Annotated[
    list[str],
    typer.Option(
        "--fail-under", metavar="GATE", help="Exit 3 below .9 (bridge), bridge-deranged=.2 or bridge/text=.95."
    ),
]


def evaluate(
    common: Common,
    bridge: Bridge,
    arms: Arms = None,
    fail_under: FailUnder = [],  # noqa: B006 - Typer copies it
    split: Split = None,
    handoff: Handoff = None,
    batch: Batch = None,
) -> int:
    """Evaluate a bridge on unseen items; pair, method and hand-off come from the bridge."""
    from helmas_cli.load import open_bridge

    screen = Screen.of(common)
    own = {"eval__arms": arms_of(arms), "eval__split": split, "eval__batch": batch, "data__handoff": handoff}
    flags = flag_tree(common, "eval", **own)
    path, config = open_bridge(common, flags, bridge)
    gates = [gate(text, config.eval.arms) for text in fail_under]
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "eval", config, bridge=str(path), out=common.out and str(common.out))
    found = _evaluate(config, path, screen, bool(common.out))
    reports = [report for report, _, _ in found]
    show_reports(screen, reports)
    if common.out:
        _write(screen, found, common.out, path)
    missed = failures(gates, reports)
    for line in missed:
        typer.echo(line, err=True)
    return GATE_MISSED if missed else 0


def _evaluate(config: Config, path: Path, screen: Screen, diagnosed: bool) -> list[Found]:
    """Each data set's report, its items and, if they are wanted, its diagnostics."""
    from helmas_cli.load import check_items, check_machine, open_pair, seen_in_training

    hardware = check_machine(config, screen)
    check_items(config, config.eval.split, config.eval.limit)
    tasks = [(one, seen_in_training(path, one)) for one in per_task(config)]
    for warning in (warning for _, warnings in tasks for warning in warnings):
        screen.note(f"warning: {warning}")
    pair = open_pair(config, hardware, screen)
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.evaluation.evaluate import evaluate

    bridge, found = load_bridge(path, pair), list[Found]()
    with screen.progress() as meter:
        for one, warnings in tasks:
            report = {**evaluate(one, pair, bridge, meter), "warnings": warnings}
            items = report.pop("items", [])
            found.append((report, items, _diagnose(one, pair, bridge, meter) if diagnosed else None))
    return found


def _diagnose(config: Config, pair: Pair, bridge: AnyBridge, meter: Progress) -> dict[str, Any] | None:
    """The bridge by layer; a method that cannot be looked into so costs the report only its figures."""
    from helmas_core.errors import HelmasError
    from helmas_core.evaluation.diagnose import diagnose

    try:
        return diagnose(config, pair, bridge, meter)
    except HelmasError as error:
        meter.note(f"no diagnostics by layer: {error}")
        return None


def per_task(config: Config) -> list[Config]:
    """The same configuration once for each of its data sets."""
    return [
        config.model_copy(update={"data": config.data.model_copy(update={"dataset": name})})
        for name in task_list(config)
    ]


def _write(screen: Screen, found: list[Found], out: Path, bridge: Path) -> None:
    from helmas_core.report.document import Evidence
    from helmas_core.report.write import write_report
    from helmas_core.runs import Run

    evidence = [Evidence(*one) for one in found]
    document = document_of([report for report, _, _ in found])
    for path in write_report(Run(out.expanduser()), document, evidence, Run(bridge.parent)):
        screen.note(f"wrote {path}")
