"""`helmas compare`: methods, or variants of one, trained under equal conditions and shown side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.interrupt import Interrupt, stop_on_interrupt
from helmas_cli.options import Arms, Batch, Common, Handoff, arms_of, flag_tree, resolve
from helmas_cli.report import show_comparison
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.comparison.variants import Variant
    from helmas_core.config import Config
    from helmas_core.models.pair import Pair


Methods = Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Methods to compare, by commas.")]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME|FILE", help="A named comparison instead.", autocompletion=completion.presets
    ),
]
Steps = Annotated[
    int | None, typer.Option("--budget-steps", metavar="N", min=1, help="Training steps of each.", show_default=False)
]


def compare(
    common: Common,
    methods: Methods = None,
    preset: PresetName = None,
    budget_steps: Steps = None,
    arms: Arms = None,
    handoff: Handoff = None,
    batch: Batch = None,
) -> int:
    """Train each variant on the same data, steps and seed, evaluate all on the same items, write one report (--out)."""
    screen = Screen.of(common)
    own = {"eval__arms": arms_of(arms), "data__handoff": handoff, "eval__batch": batch}
    base, variants = _plan(common, methods, preset, flag_tree(common, "eval", **own))
    configs = {variant.name: variant.config(base, budget_steps) for variant in variants}
    out = common.out.expanduser() if common.out else Path("runs") / (Path(preset).stem if preset else "compare")
    if common.dry_run:
        return _show_plan(screen, configs, variants, out)
    from helmas_core.comparison.result import check_arms
    from helmas_core.runs import check_no_run

    check_no_run(out)
    check_arms(configs.values())
    document = _compare(screen, _ready(configs, bool(methods)), out)
    if screen.json:
        screen.document(document)
    else:
        show_comparison(screen, document)
    if not base.eval.allow_inexact:
        from helmas_core.evaluation.guards import require_exact

        require_exact(document["reports"])
    _require_all(document)
    return 0


def _require_all(document: dict[str, Any]) -> None:
    """TrainingError for a comparison that lacks some of its variants."""
    from helmas_core.errors import TrainingError

    if refused := document.get("refused"):
        whole = len(refused) + len(document["variants"])
        what = f"{len(refused)} of {whole} variants could not be trained: {', '.join(refused)}"
        raise TrainingError(what, where="compare", fix="the report says why, and is of the others")


def _plan(
    common: Common, methods: str | None, preset: str | None, flags: dict[str, Any]
) -> tuple[Config, tuple[Variant, ...]]:
    """What all variants share, and the variants."""
    from helmas_core.comparison.variants import Preset, of_methods, read_preset
    from helmas_core.errors import ConfigError

    if bool(methods) == bool(preset):
        raise ConfigError("what is to be compared?", where="compare", fix="give --methods A,B or --preset NAME")
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    plan = read_preset(preset) if preset else Preset({}, of_methods(names))
    if len(plan.variants) < 2:
        raise ConfigError("one variant has nothing to be compared with", where="compare", fix="name two or more")
    return resolve(common, flags, over=plan.base), plan.variants


def _ready(configs: dict[str, Config], by_method: bool) -> dict[str, Config]:
    """The configurations, checked; methods without a profile of their own learn from what they can."""
    from helmas_core.comparison.run import check_configs, learnable

    ready = {name: learnable(config) for name, config in configs.items()} if by_method else configs
    check_configs(ready)
    return ready


def _compare(screen: Screen, configs: dict[str, Config], out: Path) -> dict[str, Any]:
    from helmas_cli.load import check_items, check_machine, open_pair
    from helmas_core.lock import locked
    from helmas_core.report.comparison import write_comparison

    first = next(iter(configs.values()))
    hardware = check_machine(first, screen)
    for config in configs.values():
        check_items(config, config.data.split, config.data.limit, config.data.learnt())
        check_items(config, config.eval.split, config.eval.limit)
    with locked(out, screen.note):
        document = _run(screen, configs, out, lambda config: open_pair(config, hardware, screen))
        for path in write_comparison(out, document):
            screen.note(f"wrote {path}")
    return document


def _run(screen: Screen, configs: dict[str, Config], out: Path, load: Callable[[Config], Pair]) -> dict[str, Any]:
    from helmas_core.comparison.run import Comparison
    from helmas_core.progress import Stopped

    with screen.progress() as meter, stop_on_interrupt(meter.stop) as asked:
        try:
            return Comparison(out, load, meter, sys.argv).go(configs)
        except (Stopped, Interrupt) as error:
            meter.note("interrupted; the same command goes on from here")
            raise typer.Exit(asked.code if isinstance(error, Stopped) else error.code) from error


def _show_plan(screen: Screen, configs: dict[str, Config], variants: tuple[Variant, ...], out: Path) -> int:
    from helmas_core.runs import flat

    rows = {
        variant.name: {"steps": configs[variant.name].train.total_steps(), "changes": flat(variant.changes)}
        for variant in variants
    }
    if screen.json:
        screen.document({"schema": 1, "command": "compare", "dry_run": True, "out": str(out), "variants": rows})
        return 0
    for name, row in rows.items():
        changes = ", ".join(f"{key} = {value}" for key, value in row["changes"].items())
        screen.print(f"{name}: {row['steps']} steps{': ' if changes else ''}{changes}")
    return 0
