"""`helmas baseline`: what the two models score alone, before any bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from helmas_cli.commands.eval import per_task
from helmas_cli.options import Batch, Common, Processes, Split, flag_tree, resolve
from helmas_cli.report import document_of, show_reports
from helmas_cli.ui import Screen
from helmas_core.processes import first

if TYPE_CHECKING:
    from helmas_core.config import Config


def baseline(common: Common, split: Split = None, batch: Batch = None, processes: Processes = 1) -> int:
    """Measure student and teacher alone, each with its own prompt."""
    screen = Screen.of(common)
    config = resolve(common, flag_tree(common, "eval", eval__split=split, eval__batch=batch))
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "baseline", config, out=common.out and str(common.out))
    from helmas_cli.load import shared_by

    if (code := shared_by(processes)) is not None:
        return code
    reports = _measure(config, screen)
    show_reports(screen, reports)
    if common.out and first():
        from helmas_core.json_files import write_json

        path = common.out.expanduser() / "baseline.json"
        write_json(path, document_of(reports))
        screen.note(f"wrote {path}")
    return 0


def _measure(config: Config, screen: Screen) -> list[dict[str, Any]]:
    from helmas_cli.load import check_items, check_machine, open_pair

    hardware = check_machine(config, screen)
    check_items(config, config.eval.split, config.eval.limit)
    pair = open_pair(config, hardware, screen)
    from helmas_core.evaluation.baseline import baseline

    with screen.progress() as meter:
        return [baseline(one, pair, meter) for one in per_task(config)]
