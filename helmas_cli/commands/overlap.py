"""`helmas overlap`: which items data sets share, in whatever dress. No model and no torch is needed."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from helmas_cli.options import Common, flag_tree, resolve, task_list
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.config import Config
    from helmas_core.data.item import Item

_SHOWN = 3


def overlap(common: Common) -> int:
    """Tell which items the splits of data sets share: the same but for case, accents, spacing and punctuation."""
    screen = Screen.of(common)
    config = resolve(common, flag_tree(common, "data"))
    splits = {name: items for task in task_list(config) for name, items in _splits(config, task, screen).items()}
    pairs = [row for one in combinations(splits, 2) if (row := _shared(splits, *one))["items"]]
    counts = {name: len(items) for name, items in splits.items()}
    if screen.json:
        screen.document({"schema": 1, "command": "overlap", "items": counts, "overlaps": pairs})
        return 0
    for name, count in counts.items():
        screen.print(f"{name}: {count:,} items")
    for row in pairs:
        some = ", ".join(f"{ours} = {theirs}" for ours, theirs in row["ids"][:_SHOWN])
        more = f" and {row['items'] - _SHOWN} more" if row["items"] > _SHOWN else ""
        screen.print(f"{row['of']} and {row['with']} share {row['items']}: {some}{more}")
    if not pairs:
        screen.print("no split shares an item with another")
    return 0


def _splits(config: Config, name: str, screen: Screen) -> dict[str, list[Item]]:
    """Every split of a task that can be read here; one that cannot is noted."""
    from helmas_core.data.tasks import get_task, load_items
    from helmas_core.errors import DataError

    task, data, found = get_task(name), config.data, {}
    parts = [split for split in task.splits if split != "all"] or list(task.splits)  # all is the others together
    for split in parts:
        try:
            found[f"{name}/{split}"] = load_items(
                task, split, data.limit, config.train.seed, data.data_dir, data.max_source_tokens
            )
        except DataError as error:
            screen.note(f"{name}/{split} left out: {error}")
    if not found:
        raise DataError("no split of it can be read here", where=name, fix="give --data-dir, or a network")
    return found


def _shared(splits: dict[str, list[Item]], ours: str, theirs: str) -> dict[str, Any]:
    from helmas_core.data.overlap import shared

    ids = shared(splits[ours], splits[theirs])
    return {"of": ours, "with": theirs, "items": len(ids), "ids": [list(pair) for pair in ids]}
