"""`gym:NAME`: puzzles made on the spot by the reasoning-gym package, which is an extra."""

from __future__ import annotations

import importlib
import logging
import zlib
from itertools import islice
from typing import Any

from helmas_core.data import parse
from helmas_core.data.item import Item, pool
from helmas_core.data.task import TRAIN_ONLY, Task
from helmas_core.errors import ConfigError, DataError, did_you_mean

log = logging.getLogger(__name__)


def gym_task(name: str) -> Task:
    """The task of `gym:NAME`. ConfigError without the package, DataError with the nearest name for an unknown one."""
    dataset = name.removeprefix("gym:")
    if dataset not in (known := _import("reasoning_gym.factory").DATASETS):
        raise DataError(f'unknown puzzle "{dataset}"', where=name, fix=did_you_mean(dataset, known))

    def items(split: str, count: int, seed: int) -> list[Item]:
        return make_items(dataset, split, count, seed)

    return Task(name, parse.TEXT, TRAIN_ONLY, generator=items, cue="\nAnswer:")


def make_items(dataset: str, split: str, count: int, seed: int) -> list[Item]:
    """At most `count` different puzzles whose questions belong to `split`; a warning where fewer can be had.

    Puzzles without one short line as their only answer are passed over: DataError if there are no others.
    """
    found: dict[str, Item] = {}
    tries = 30 * count + 200  # a tenth of all questions is validation's
    start = zlib.crc32(f"{split}/{seed}".encode()) % 2**30
    for row in islice(_import("reasoning_gym").create_dataset(dataset, size=tries, seed=start), tries):
        question, answer = row["question"].strip(), _line(row["answer"])
        if answer and pool(question) == split and question not in found:
            found[question] = Item(f"{dataset}-{split}-{seed}-{len(found)}", question, answer, cue="\nAnswer:")
            if len(found) == count:
                break
    if not found:
        fix = "choose a puzzle with one short answer, such as gym:chain_sum"
        raise DataError(f"no {split} puzzle with a line as its answer", where=f"gym:{dataset}", fix=fix)
    if len(found) < count:
        log.warning("gym:%s: %d of %d %s puzzles can be had", dataset, len(found), count, split)
    return list(found.values())


def _line(answer: object) -> str:
    """The answer if it is one short line, else ""."""
    text = answer.strip() if isinstance(answer, str) else ""
    return text if len(text) <= 100 and "\n" not in text else ""


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fix = 'install the extra: pip install "helmas[procedural]"'
        raise ConfigError(f"reasoning-gym is needed ({error})", where="data.dataset", fix=fix) from error
