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
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Go on although the bridge has learnt some of the items.")
]


def evaluate(
    common: Common,
    bridge: Bridge,
    arms: Arms = None,
    fail_under: FailUnder = [],  # noqa: B006 - Typer copies it
    split: Split = None,
    handoff: Handoff = None,
    batch: Batch = None,
    allow_overlap: AllowOverlap = False,
) -> int:
    """Evaluate a bridge on unseen items; pair, method and hand-off come from the bridge."""
    from helmas_cli.load import open_bridge

    screen = Screen.of(common)
    own = {"eval__arms": arms_of(arms), "eval__split": split, "eval__batch": batch, "data__handoff": handoff}
    own["eval__allow_overlap"] = True if allow_overlap else None
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
    if not config.eval.allow_inexact and any((one.get("exactness") or {}).get("differ") for one in reports):
        from helmas_core.evaluation.guards import require_exact

        require_exact(reports)
    missed = failures(gates, reports)
    screen.note_lines(missed)
    return GATE_MISSED if missed else 0


def _evaluate(config: Config, path: Path, screen: Screen, diagnosed: bool) -> list[Found]:
    """Each data set's report, its items and, if they are wanted, its diagnostics."""
    from helmas_cli.load import check_items, check_machine, open_pair, seen_in_training

    hardware = check_machine(config, screen)
    check_items(config, config.eval.split, config.eval.limit)
    tasks = [(one, seen_in_training(path, one)) for one in per_task(config)]
    overlaps = [_overlap(one, path) for one, _ in tasks]
    for warning in (warning for _, warnings in tasks for warning in warnings):
        screen.note(f"warning: {warning}")
    pair = open_pair(config, hardware, screen)
    from helmas_core.bridges.artefact import load_bridge, read_metadata
    from helmas_core.evaluation.evaluate import evaluate

    bridge, found = load_bridge(path, pair), list[Found]()
    seed = read_metadata(path)["training"].get("seed")
    with screen.progress() as meter:
        for (one, warnings), overlap in zip(tasks, overlaps, strict=True):
            report = evaluate(one, pair, bridge, meter)
            items = report.pop("items", [])
            report["manifest"]["trained_seed"] = seed
            judged = _with_warnings(report, (one, warnings), overlap, screen)
            found.append((judged, items, _diagnose(one, pair, bridge, meter) if diagnosed else None))
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


def _with_warnings(
    report: dict[str, Any], task: tuple[Config, list[str]], overlap: dict[str, Any] | None, screen: Screen
) -> dict[str, Any]:
    for warning in report.get("warnings", []):
        screen.note(f"warning: {warning}")
    return {**report, "overlap": overlap, "warnings": [*task[1], *report.get("warnings", [])]}


def _overlap(config: Config, path: Path) -> dict[str, Any] | None:
    """{"trained_on": hashes that the bridge carries, "items": ids of those to evaluate that are among them}.

    None for a bridge that carries no hashes. DataError for overlap that was not allowed.
    """
    from helmas_core.bridges.artefact import read_metadata
    from helmas_core.data.overlap import overlapping, unpack_hashes
    from helmas_core.data.tasks import get_task, load_items
    from helmas_core.errors import DataError

    training, data = read_metadata(path)["training"], config.data
    if "hashes" not in training:
        return None
    known, task = unpack_hashes(training["hashes"]), get_task(data.dataset)
    items = load_items(
        task, config.eval.split, config.eval.limit, config.train.seed, data.data_dir, data.max_source_tokens
    )
    ids = overlapping(items, known)
    if ids and not config.eval.allow_overlap:
        some = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
        what = f"the bridge was trained on {len(ids)} of the {len(items)} items to evaluate: {some}"
        raise DataError(what, where=data.dataset, fix="evaluate on others, or go on with --allow-overlap")
    return {"trained_on": len(known), "items": ids}


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
