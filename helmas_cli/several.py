"""`helmas eval` with several bridges: one table of all of them on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helmas_cli.load import check_items, check_machine, open_bridge, open_pair
from helmas_cli.options import Common
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.bridges.base import Bridge
    from helmas_core.config import Config
    from helmas_core.models.pair import Pair

Opened = Mapping[str, tuple[Path, "Config"]]


def open_several(common: Common, flags: Mapping[str, Any], bridges: Sequence[str]) -> Opened:
    """Each bridge's file and configuration under its name; ConfigError unless all are for the same models."""
    from helmas_core.errors import ConfigError

    opened = {name: open_bridge(common, flags, path) for name, path in _names(bridges).items()}
    pairs = {(config.pair.teacher, config.pair.more_teachers, config.pair.student) for _, config in opened.values()}
    if len(pairs) > 1:
        raise ConfigError("the bridges are for unlike pairs", where="--bridge", fix="evaluate each by itself")
    return opened


def _names(bridges: Sequence[str]) -> dict[str, str]:
    """A run folder's name, or that of the folder around a bridge's file; with a number where two are alike."""
    found: dict[str, str] = {}
    for named in bridges:
        own = Path(named).expanduser().resolve()
        stem = own.parent.name if own.is_file() else own.name
        alike = sum(name == stem or name.startswith(f"{stem}-") for name in found)
        found[f"{stem}-{alike + 1}" if alike else stem] = named
    return found


def check_several(opened: Opened, out: Path | None) -> None:
    """ConfigError for a folder that holds a run, and for arms without the one that is compared."""
    from helmas_core.comparison.result import check_arms
    from helmas_core.runs import check_no_run

    if out:
        check_no_run(out.expanduser())
    check_arms(config for _, config in opened.values())


def evaluate_several(screen: Screen, opened: Opened) -> dict[str, Any]:
    """The `eval --json` document of several bridges."""
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.comparison.run import evaluate_beside

    configs = {name: config for name, (_, config) in opened.items()}
    first = next(iter(configs.values()))
    hardware = check_machine(first, screen)
    for config in configs.values():
        check_items(config, config.eval.split, config.eval.limit)
    pairs: dict[str, Pair] = {}  # by hand-off: bridges of one pair may take unlike ones

    def open_one(name: str, config: Config) -> tuple[Path, Pair, Bridge]:
        if config.data.handoff not in pairs:
            pairs.clear()
            pairs[config.data.handoff] = open_pair(config, hardware, screen)
        pair = pairs[config.data.handoff]
        return opened[name][0], pair, load_bridge(opened[name][0], pair)

    with screen.progress() as meter:
        reports = [evaluate_beside(dataset, configs, open_one, meter) for dataset in first.data.names()]
    return {
        "schema": 1,
        "command": "eval",
        "seed": first.train.seed,
        "variants": [
            {**_describe(name, path, config, first), "parameters": reports[0]["variants"][name]["bridge"]["parameters"]}
            for name, (path, config) in opened.items()
        ],
        "reports": reports,
    }


def _describe(name: str, path: Path, config: Config, first: Config) -> dict[str, Any]:
    from helmas_core.bridges.artefact import read_metadata
    from helmas_core.bridges.registry import method_mode
    from helmas_core.comparison.run import changes

    training = read_metadata(path)["training"]
    known = {"name": name, "run": str(path), "method": config.bridge.method, "mode": method_mode(config.bridge)}
    return {**known, "steps": training.get("steps"), "changes": changes(config, first)}


def each(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What gates are put on: a report per data set and bridge, with the arms that it shares."""
    return [
        {"dataset": f"{report['dataset']}, {name}", "arms": {**report["arms"], **row["arms"]}}
        for report in document["reports"]
        for name, row in report["variants"].items()
    ]
