"""From a configuration to examples: items of every data set, reasoning where it has to be written, then ids."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from helmas_core.config import Config
from helmas_core.data.item import Item
from helmas_core.data.prompts import render
from helmas_core.data.tasks import Task, get_task, load_items
from helmas_core.errors import DataError, PairError
from helmas_core.handoff.examples import SHORTEST_TEXT, Example, Thought, make_example
from helmas_core.handoff.reasoning import think
from helmas_core.models.align import shares
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress


def prepare(
    config: Config,
    pair: Pair,
    split: str,
    limit: int | None,
    seed: int,
    progress: Progress,
    names: Sequence[str] | None = None,
) -> list[Example]:
    """The examples of `split`, up to `limit` from each data set of `names`, in their order; None: of data.dataset.

    Texts too short to be continued are left out, with a note.
    """
    data = config.data
    found: list[Example] = []
    for name in data.names() if names is None else names:
        task = get_task(name)
        items = load_items(task, split, limit, seed, data.data_dir, data.max_source_tokens)
        thoughts = think(config, pair.as_teacher, task, items, progress) if _generates(config) else [None] * len(items)
        made = [_example(config, pair, task, i, t) for i, t in zip(items, thoughts, strict=True)]
        kept = [example for example in made if task.kind != "text" or example.cuts]
        if len(kept) < len(made):
            progress.note(f"{len(made) - len(kept)} pieces of {name} are under {SHORTEST_TEXT} tokens; left out")
        found += kept
    if not found:
        raise DataError("no items", where="data.dataset", fix="choose another split or limit")
    check_alignment(found, config.pair.min_alignment)
    return found


def summary_of_alignment(examples: Sequence[Example]) -> dict[str, Any] | None:
    """How unlike tokenizers cut the sources' shared text, as `align.shares` tells it; None where they share one."""
    found = [one.alignment for example in examples for one in example.by_teacher]
    alignments = [alignment for alignment in found if alignment is not None]
    return shares(alignments) if alignments else None


def check_alignment(examples: Sequence[Example], least: float) -> None:
    """PairError where too few of the student's tokens are one token of a teacher's each."""
    by_teacher = zip(*(example.by_teacher for example in examples), strict=True)
    found = [shares(known) for each in by_teacher if (known := [one.alignment for one in each if one.alignment])]
    if found and (worst := min(one["exact"] for one in found)) < least:
        what = f"the tokenizers agree on {worst:.0%} of the student's tokens in this data"
        raise PairError(what, where="pair.min_alignment", fix="use two models of one family, or lower it")


def prepare_item(config: Config, pair: Pair, split: str, wanted: str, progress: Progress) -> Example:
    """The example of the item called `wanted` in `split`; DataError with the nearest id where there is none."""
    data, known = config.data, list[str]()
    for name in data.names():
        task = get_task(name)
        items = load_items(task, split, None, config.train.seed, data.data_dir, data.max_source_tokens)
        for item in (item for item in items if item.id == wanted):
            thoughts = think(config, pair.as_teacher, task, [item], progress) if _generates(config) else [None]
            return _example(config, pair, task, item, thoughts[0])
        known += [item.id for item in items]
    close = difflib.get_close_matches(wanted, known, n=1)
    fix = f'did you mean "{close[0]}"?' if close else f'ids look like "{known[0]}"'
    raise DataError(f'no item "{wanted}" in {data.dataset}, split {split}', where="--item", fix=fix)


def _example(config: Config, pair: Pair, task: Task, item: Item, thought: Thought | None) -> Example:
    written = None if thought is None else thought.text
    data = config.data
    views = pair.views
    prompt, *told = (
        render(task, item, data.handoff, view.template, written, data.cut_last_step, data.scaffold)
        for view in (pair, *(view.as_teacher for view in views))
    )
    first, *more = (make_example(v, task, item, prompt, thought, t) for v, t in zip(views, told, strict=True))
    return replace(first, more=tuple(more))


def _generates(config: Config) -> bool:
    return config.data.handoff == "reasoning" and config.data.reasoning == "generate"
