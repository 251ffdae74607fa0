"""`helmas train`: from a pair and data to a bridge in a run folder."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli.interrupt import Interrupt, stop_on_interrupt
from helmas_cli.options import Common, Processes, check_task, flag_tree, profiles_text, resolve
from helmas_cli.report import show_report
from helmas_cli.ui import Screen
from helmas_core import processes as group

if TYPE_CHECKING:
    from helmas_core.config import Config
    from helmas_core.models.pair import Pair
    from helmas_core.runs import Run

Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]


def train(common: Common, resume: Resume = False, overwrite: Overwrite = False, processes: Processes = 1) -> int:
    """Train a bridge and write it, its checkpoints and its report to a run folder (--out)."""
    screen = Screen.of(common)
    path = group.broadcast(_run_path(common, resume))
    config = _config(common, path, resume, overwrite)
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "train", config, out=str(path))
    from helmas_cli.load import shared_by
    from helmas_core.lock import locked

    if (code := shared_by(processes)) is not None:
        return code
    with locked(path, screen.note) if group.first() else nullcontext():
        document, code = _begin(common, config, path, screen, resume, overwrite)
    if screen.json:
        screen.document(document)
    else:
        _show(screen, document)
    return code


def _begin(
    common: Common, config: Config, path: Path, screen: Screen, resume: bool, overwrite: bool
) -> tuple[dict[str, Any], int]:
    """Check what can be checked, load the pair, make the run folder, train."""
    from helmas_cli.load import check_bridge, check_items, check_machine, open_pair
    from helmas_core.runs import Run, create_run
    from helmas_core.training.tracking import check_tracker

    check_tracker(config.train.tracker)
    hardware = check_machine(config, screen)
    check_bridge(config)
    check_items(config, config.data.split, config.data.limit, config.data.learnt())
    if config.train.eval_samples:
        check_items(config, "validation", config.train.eval_samples)
    pair = open_pair(config, hardware, screen)
    run = Run(path)
    if group.first():
        text = profiles_text(common.profile)
        run = create_run(path, config, sys.argv, resume=resume, overwrite=overwrite, profiles_text=text)
        run.note(decisions=list(hardware.reasons), pair=pair.describe(), processes=group.count())
    group.agree(False)  # the folder is there when the others look at it
    return _train(config, pair, run, screen, resume)


def _run_path(common: Common, resume: bool) -> Path:
    from helmas_core.errors import ConfigError
    from helmas_core.runs import default_run_path

    if common.out:
        return common.out.expanduser()
    if resume:
        raise ConfigError("which run?", where="--resume", fix="name its folder with --out")
    return default_run_path(name=Path(common.profile[-1]).stem if common.profile else "run")


def _config(common: Common, path: Path, resume: bool, overwrite: bool) -> Config:
    """The configuration, after every check that needs no model. Without a profile, a resumed run brings its own."""
    from helmas_core.runs import Run, check_run_path, check_same_config

    flags = flag_tree(common, "data")
    config = resolve(common, flags)
    for name in config.data.shares():
        check_task(name)
    if group.first():  # it makes the folder, perhaps before another one comes here
        check_run_path(path, resume, overwrite)
    group.agree(False)
    if resume:
        config = resolve(common, flags, None if common.profile else Run(path).config)
        check_same_config(path, config)
    return config


def _train(config: Config, pair: Pair, run: Run, screen: Screen, resume: bool) -> tuple[dict[str, Any], int]:
    """The training document and the exit code; the manifest says how it ended, whatever happens."""
    from helmas_core.progress import Stopped
    from helmas_core.training.session import train_bridge

    try:
        with screen.progress() as meter, stop_on_interrupt(meter.stop) as asked:
            try:
                document = train_bridge(config, pair, run, meter, resume)
            except Stopped:  # before the first step, so there is nothing to save
                raise Interrupt(asked.number) from None
        # an interrupt in the last validation comes too late to leave anything that --resume would train
        unfinished = document["steps"] < config.train.total_steps()
        status = "interrupted" if group.agree(meter.stop_requested()) and unfinished else "done"
        if group.first():
            run.write_report(document)
            run.finish(status)
        return document, asked.code if status == "interrupted" else 0
    except BaseException as error:
        with suppress(OSError):  # what went wrong is worth more than a manifest that a full disk does not take
            if group.first():
                _close(run, error, resume)
        if isinstance(error, Interrupt):
            raise typer.Exit(error.code) from error
        raise


def _close(run: Run, error: BaseException, resume: bool) -> None:
    if isinstance(error, KeyboardInterrupt):
        run.finish("interrupted")
    elif resume or not run.discard():
        run.finish("failed")


def _show(screen: Screen, document: dict[str, Any]) -> None:
    losses = {f"loss {name}": f"{value:.4g}" for name, value in document["losses"].items()}
    counts = {key.replace("_", " "): f"{n:,}" for key, n in document.items() if key.endswith("parameters")}
    facts = {**counts, "steps": document["steps"]}
    screen.pairs({"bridge": document["bridge"], **facts, "seconds": f"{document['seconds']:.1f}", **losses})
    if document.get("eval"):
        screen.print()
        show_report(screen, document["eval"])
