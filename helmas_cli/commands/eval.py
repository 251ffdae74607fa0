"""`helmas eval`: what a bridge carries, against every control."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.options import (
    BRIDGE_HELP,
    Arms,
    Batch,
    Common,
    Handoff,
    Processes,
    Split,
    arms_of,
    flag_tree,
    task_list,
)
from helmas_cli.report import Gate, document_of, failures, gate, show_comparison, show_reports
from helmas_cli.ui import Screen
from helmas_core.processes import first

if TYPE_CHECKING:
    from helmas_cli.several import Opened
    from helmas_core.bridges.base import Bridge as AnyBridge
    from helmas_core.config import Config
    from helmas_core.models.pair import Pair
    from helmas_core.progress import Progress

GATE_MISSED = 3
Found = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]  # a report, its items, its diagnostics
FailUnder = Annotated[
    list[str],
    typer.Option(
        "--fail-under",
        metavar="GATE",
        help="Exit 3 below .9 (the bridge), text=.9, or bridge/text=.9 (-: a difference).",
    ),
]
Bridges = Annotated[
    list[str],
    typer.Option(
        "--bridge", metavar="PATH|REPO", help=f"{BRIDGE_HELP} Repeat to compare.", autocompletion=completion.bridges
    ),
]
LmEval = Annotated[
    str | None,
    typer.Option(
        "--lm-eval", metavar="TASK[,TASK]", help="Tasks of the lm-eval harness instead: names, YAML files or folders."
    ),
]
Shots = Annotated[int | None, typer.Option("--num-fewshot", metavar="N", min=0, help="Worked examples, for --lm-eval.")]
HARNESS_ARMS = ["student", "teacher", "bridge", "deranged"]  # there, text is student
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Go on although the bridge has learnt some of the items.")
]


def evaluate(
    common: Common,
    bridge: Bridges,
    arms: Arms = None,
    fail_under: FailUnder = [],  # noqa: B006 - Typer copies it
    split: Split = None,
    handoff: Handoff = None,
    batch: Batch = None,
    allow_overlap: AllowOverlap = False,
    lm_eval: LmEval = None,
    num_fewshot: Shots = None,
    processes: Processes = 1,
) -> int:
    """Evaluate a bridge, or several beside each other, on unseen items; pair, method and hand-off come from it."""
    from helmas_cli.load import open_bridge, shared_by

    screen = Screen.of(common)
    own: dict[str, Any] = {
        "eval__arms": arms_of(arms),
        "eval__split": split,
        "eval__batch": batch,
        "data__handoff": handoff,
    }
    own["eval__allow_overlap"] = True if allow_overlap else None
    if num_fewshot is not None and lm_eval is None:
        from helmas_core.errors import ConfigError

        raise ConfigError("is for tasks of lm-eval alone", where="--num-fewshot", fix="leave it out, or give --lm-eval")
    if lm_eval is not None:
        _check_harness(common, bridge, arms, split, handoff)
        own["eval__arms"] = own["eval__arms"] or HARNESS_ARMS
    flags = flag_tree(common, "eval", **own)
    if len(bridge) > 1:
        return _evaluate_several(common, screen, flags, bridge, fail_under, processes)
    path, config = open_bridge(common, flags, bridge[0])
    gates = [gate(text, config.eval.arms) for text in fail_under]
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "eval", config, bridge=str(path), out=common.out and str(common.out), lm_eval=lm_eval)
    if (code := shared_by(processes)) is not None:
        return code
    reports = _report(config, path, screen, common.out, (lm_eval, num_fewshot))
    if not config.eval.allow_inexact and any((one.get("exactness") or {}).get("differ") for one in reports):
        from helmas_core.evaluation.guards import require_exact

        require_exact(reports)
    return _judge(screen, gates, reports)


def _judge(screen: Screen, gates: Sequence[Gate], reports: Sequence[Mapping[str, Any]]) -> int:
    """The exit code: whether all gates are met; those that are not are told."""
    missed = failures(gates, reports)
    if first():
        screen.note_lines(missed)
    return GATE_MISSED if missed else 0


def _report(
    config: Config, path: Path, screen: Screen, out: Path | None, harness: tuple[str | None, int | None]
) -> list[dict[str, Any]]:
    """Evaluate, show, and write to `out`."""
    with _alone_in(out, screen):
        tasks, shots = harness
        found = (
            _run_harness(config, path, screen, tasks, shots)
            if tasks is not None
            else _evaluate(config, path, screen, bool(out))
        )
        reports = [report for report, _, _ in found]
        show_reports(screen, reports)
        if out and first():
            _write(screen, found, out, path)
    return reports


def _alone_in(out: Path | None, screen: Screen) -> AbstractContextManager[None]:
    """No other command may use `out` meanwhile, which is refused at once where nothing can be written to it."""
    from helmas_core.lock import locked

    return locked(out.expanduser(), screen.note) if out and first() else nullcontext()


def _evaluate_several(
    common: Common,
    screen: Screen,
    flags: Mapping[str, Any],
    bridges: Sequence[str],
    fail_under: Sequence[str],
    processes: int,
) -> int:
    from helmas_cli.load import shared_by
    from helmas_cli.several import check_several, each, open_several

    opened = open_several(common, flags, bridges)
    config = next(iter(opened.values()))[1]
    check_several(opened, common.out)
    gates = [gate(text, config.eval.arms) for text in fail_under]
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "eval", config, bridges=", ".join(opened), out=common.out and str(common.out))
    if (code := shared_by(processes)) is not None:
        return code
    document = _report_several(screen, opened, common.out)
    if not config.eval.allow_inexact:
        from helmas_core.evaluation.guards import require_exact

        require_exact(document["reports"])
    return _judge(screen, gates, each(document))


def _report_several(screen: Screen, opened: Opened, out: Path | None) -> dict[str, Any]:
    """As `_report`, for several bridges."""
    from helmas_cli.several import evaluate_several

    with _alone_in(out, screen):
        document = evaluate_several(screen, opened)
        if screen.json:
            screen.document(document)
        else:
            show_comparison(screen, document)
        if out and first():
            from helmas_core.report.comparison import write_comparison

            for path in write_comparison(out.expanduser(), document):
                screen.note(f"wrote {path}")
    return document


def _evaluate(config: Config, path: Path, screen: Screen, diagnosed: bool) -> list[Found]:
    """Each data set's report, its items and, if they are wanted, its diagnostics."""
    from helmas_cli.load import check_items, check_machine, open_pair, seen_in_training
    from helmas_core.evaluation.learnt import learnt_items

    hardware = check_machine(config, screen)
    check_items(config, config.eval.split, config.eval.limit)
    tasks = [(one, seen_in_training(path, one)) for one in per_task(config)]
    for warning in (warning for _, warnings in tasks for warning in warnings):
        screen.note(f"warning: {warning}")
    from helmas_core.bridges.artefact import load_bridge, read_metadata

    training = read_metadata(path)["training"]
    overlaps = [learnt_items(one, training) for one, _ in tasks]
    pair = open_pair(config, hardware, screen)
    from helmas_core.evaluation.evaluate import evaluate

    bridge, found = load_bridge(path, pair), list[Found]()
    with screen.progress() as meter:
        for (one, warnings), overlap in zip(tasks, overlaps, strict=True):
            report = evaluate(one, pair, bridge, meter)
            items = report.pop("items", [])
            report["manifest"]["trained_seed"] = training.get("seed")
            judged = _with_warnings(report, (one, warnings), overlap, screen)
            found.append((judged, items, _diagnose(one, pair, bridge, meter) if diagnosed else None))
    return found


def _check_harness(
    common: Common, bridges: Sequence[str], arms: str | None, split: str | None, handoff: str | None
) -> None:
    """ConfigError for flags that a task of lm-eval has no use for, and without the extra."""
    from helmas_core.errors import ConfigError
    from helmas_core.lm_eval import require_harness

    given = {"--dataset": common.dataset, "--split": split, "--handoff": handoff}
    if foreign := [flag for flag, value in given.items() if value is not None]:
        fix = f"leave {foreign[0]} out"
        raise ConfigError(f"{foreign[0]} says nothing of a task of lm-eval", where="--lm-eval", fix=fix)
    if "text" in (arms_of(arms) or []):
        what = "in a task of lm-eval the student reads all that the teacher does, so text is student"
        raise ConfigError(what, where="--arms", fix="leave text out")
    if len(bridges) > 1:
        raise ConfigError("tasks of lm-eval are run for one bridge", where="--bridge", fix="name one")
    require_harness("--lm-eval")


def _run_harness(config: Config, path: Path, screen: Screen, names: str, shots: int | None) -> list[Found]:
    """Each task's report and items. What the tasks need is read before a model is loaded."""
    from helmas_cli.load import check_machine, open_pair

    os.environ.setdefault("TQDM_DISABLE", "1")  # the harness draws bars whatever it is told
    hardware = check_machine(config, screen)
    screen.note(f"lm-eval: reading {names}")
    from helmas_core.evaluation.harness_tasks import choose_tasks, evaluate_task

    chosen = choose_tasks(names)
    pair = open_pair(config, hardware, screen)
    from helmas_core.bridges.artefact import load_bridge

    bridge, found = load_bridge(path, pair), list[Found]()
    with screen.progress() as meter:
        for one in chosen:
            report = evaluate_task(config, pair, bridge, one, shots, meter)
            items = report.pop("items")
            found.append((_with_warnings(report, (config, []), None, screen), items, None))
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
