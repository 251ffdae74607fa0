"""From paths and a configuration to the core's objects; nothing heavy is imported before it is called."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helmas_cli.options import Common, resolve, task_list
from helmas_cli.ui import Screen
from helmas_core.plain import log_printably

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from helmas_core.config import Config
    from helmas_core.models.hardware import Hardware
    from helmas_core.models.pair import Pair
    from helmas_core.sharing.folder import Place


def shared_by(count: int) -> int | None:
    """Run this command line in `count` processes, and return its exit code; None in one of them, or if it is one."""
    from helmas_core import processes

    if count == 1 or processes.count() > 1:
        return None
    from helmas_core.launch import launch

    return launch("helmas_cli", sys.argv[1:], count)


def bridge_file(named: str, screen: Screen) -> Path:
    """The bridge file that is named: itself, the one in a run folder, or that of a shared bridge, fetched."""
    from helmas_core.runs import BRIDGE
    from helmas_core.runs import bridge_file as file_at

    found = fetched(named, screen)  # the hub's own cache is made of links
    return file_at(found / BRIDGE if found else Path(named))


def fetched(named: str, screen: Screen) -> Path | None:
    """Where a shared bridge lies now in the cache; None for what is no name of one."""
    from helmas_core.sharing.address import shared_bridge

    found = shared_bridge(named)
    if found is None:
        return None
    calm_libraries(screen)
    from helmas_core.sharing.hub import fetch_cached

    return fetch_cached(found, screen.note)


def run_bridge(named: str) -> Path:
    """The bridge file of a run, by its path or by its name in ./runs."""
    from helmas_core.runs import BRIDGE, ROOT
    from helmas_core.runs import bridge_file as file_at

    known, path = ROOT / named, Path(named).expanduser()
    return file_at(known if (known / BRIDGE).is_file() and not path.exists() else path)


def place_of(repo: str, revision: str | None, private: bool = False) -> Place:
    """The folder or the repository that `push` and `pull` are told."""
    from helmas_core.errors import ConfigError
    from helmas_core.sharing.address import target

    found = target(repo, revision)
    if isinstance(found, Path):
        from helmas_core.sharing.folder import Folder

        if private:
            raise ConfigError("a folder has no such setting", where="--private", fix="leave it out")
        return Folder(found)
    from helmas_core.sharing.hub import Hub

    return Hub(found, private)


def open_bridge(common: Common, flags: Mapping[str, Any], bridge: str) -> tuple[Path, Config]:
    """The bridge's file, and the flags over the configuration that it carries: pair, method, hand-off."""
    resolve(common, flags, base={})  # what is wrong with the flags is said before a file is read
    path = bridge_file(bridge, Screen.of(common))
    from helmas_core.bridges.artefact import read_metadata

    return path, resolve(common, flags, base=read_metadata(path)["config"])


def seen_in_training(path: Path, config: Config) -> list[str]:
    """A warning for each data set of which the split to evaluate holds items that the bridge was trained on."""
    from helmas_core.bridges.artefact import read_metadata
    from helmas_core.data.task import share_items
    from helmas_core.data.tasks import get_task

    training = read_metadata(path)["training"]
    learnt = [name.strip() for name in training.get("dataset", "").split(",")]
    return [
        f"the bridge was trained on items of {name}, split {config.eval.split}: this says nothing of unseen ones"
        for name in task_list(config)
        if name in learnt and share_items(get_task(name).splits, config.eval.split, training.get("split", ""))
    ]


def check_bridge(config: Config) -> None:
    """ConfigError for an unknown method, and for an option, a mode, a loss or a hand-off that it lacks."""
    from helmas_core.bridges.registry import check_method

    check_method(config.bridge, config.train, config.data.handoff)


def check_machine(config: Config, screen: Screen) -> Hardware:
    """What to compute on; ConfigError if this machine will not do."""
    calm_libraries(screen)
    from helmas_core.models.hardware import resolve_hardware

    return resolve_hardware(config)


def check_items(config: Config, split: str, limit: int | None, names: Sequence[str] | None = None) -> None:
    """Read the items once, so that a bad file is reported before a model is loaded or a folder made.

    Those of data.dataset, which must have answers to score, or those of `names`, which are only learnt.
    """
    from helmas_core.data.tasks import get_task, load_items, scored_task

    tasks = map(scored_task, task_list(config)) if names is None else map(get_task, names)
    for task in tasks:
        if not (task.hub and task.hub.stream):  # a streamed data set is too large to read twice
            load_items(task, split, limit, config.train.seed, config.data.data_dir, config.data.max_source_tokens)


def open_pair(config: Config, hardware: Hardware, screen: Screen) -> Pair:
    """Load both models, after noting what was decided about the machine, and why."""
    from helmas_core.models.loading import load_pair

    for reason in hardware.reasons:
        screen.note(reason)
    return load_pair(config, hardware, screen.note)


def calm_libraries(screen: Screen) -> None:
    """Libraries log to stderr, warnings only, and draw no bars of their own unless someone looks."""
    level = logging.ERROR if screen.quiet else [logging.WARNING, logging.INFO][min(screen.verbose, 1)]
    level = logging.DEBUG if screen.verbose > 1 else level
    log_printably()
    logging.basicConfig(stream=sys.stderr, level=level, format="%(name)s: %(message)s")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", logging.getLevelName(level).lower())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if screen.quiet or not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
