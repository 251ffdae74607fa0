"""The tasks by name, and how their items are loaded."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from helmas_core.data import arithmetic, cloze, parse, procedural, records, relay, texts
from helmas_core.data.channels.registry import channel_task
from helmas_core.data.examples import MATHEMATICS, WORD_PROBLEMS
from helmas_core.data.item import Item, pool
from helmas_core.data.parse import AnswerForm
from helmas_core.data.sources import Hub, PlacedRow, Row, read_jsonl, read_rows
from helmas_core.data.task import LETTER_CUE, MMLU, NO_TEST, ONE_FILE, SCORED, TRAIN_ONLY, WITH_TEST, Task
from helmas_core.errors import DataError, did_you_mean
from helmas_core.foreign import why

log = logging.getLogger(__name__)

BUILT_IN_COUNTS = {"train": 5000}  # of items where no limit is given
BUILT_IN_COUNT = 1000
PIECE = 2048  # most characters of a piece of text where no limit is given


def _letters(name: str, to_item: Callable[[Row, int], Item | None], fields: str, hub: Hub, **options: Any) -> Task:
    settings: dict[str, Any] = {"splits": WITH_TEST, "key": fields.split()[0], "kind": "letters", "cue": LETTER_CUE}
    return Task(name, parse.LETTER, to_item=to_item, fields=tuple(fields.split()), hub=hub, **(settings | options))


def _reasoned(
    name: str, form: AnswerForm, to_item: Callable[[Row, int], Item | None], fields: str, **options: Any
) -> Task:
    settings: dict[str, Any] = {"splits": TRAIN_ONLY, "key": fields.split()[0], "reasons": True}
    return Task(name, form, to_item=to_item, fields=tuple(fields.split()), **(settings | options))


_GSM8K = _reasoned(
    "gsm8k",
    parse.NUMBER,
    records.gsm8k,
    "question answer",
    splits=WITH_TEST,
    hub=Hub("openai/gsm8k", "main"),
    few_shot=WORD_PROBLEMS,
)
_TASKS = (
    Task("relay", parse.NUMBER, TRAIN_ONLY, generator=relay.items, cue="\nAnswer:"),
    Task("arithmetic", parse.NUMBER, TRAIN_ONLY, generator=arithmetic.items, cue="\nAnswer:", gap=""),
    _GSM8K,
    replace(_GSM8K, name="gsm8k-cut", folder="gsm8k", cut=True),
    _reasoned(
        "math",
        parse.MATH,
        records.math,
        "problem solution",
        splits=WITH_TEST,
        hub=Hub("nlile/hendrycks-MATH-benchmark"),  # its test split is MATH-500, its train split the other 12,000
        few_shot=MATHEMATICS,
    ),
    _reasoned(
        "metamathqa",
        parse.MATH,
        records.metamathqa,
        "query response",
        key="original_question",
        splits=NO_TEST,  # it rewords train questions of other data sets, among them what their users train on
        hub=Hub("meta-math/MetaMathQA"),
        few_shot=WORD_PROBLEMS,
    ),
    _reasoned(
        "openmathinstruct2",
        parse.MATH,
        records.openmathinstruct2,
        "problem generated_solution expected_answer",
        splits=NO_TEST,
        hub=Hub("nvidia/OpenMathInstruct-2", splits={"train": "train_1M"}, stream=100_000),  # of 14 million
        few_shot=MATHEMATICS,
    ),
    _letters("arc", records.arc, "question choices answerKey", Hub("allenai/ai2_arc", "ARC-Challenge")),
    _letters("mmlu", records.mmlu, "question choices answer", Hub("cais/mmlu", "all"), splits=MMLU, grouped=True),
    _letters(
        "mmlu-passages",
        records.mmlu_passages,
        "question choices answer",
        Hub("cais/mmlu", "all"),
        splits=MMLU,
        grouped=True,
        folder="mmlu",
    ),
    _letters("openbookqa", records.openbookqa, "question_stem choices answerKey", Hub("allenai/openbookqa", "main")),
    Task(
        "openhermes",
        parse.WHOLE,
        TRAIN_ONLY,
        to_item=records.openhermes,
        fields=("conversations",),
        hub=Hub("teknium/OpenHermes-2.5", stream=100_000),  # of 1 million
        cue="\nAnswer:",
        stop=(),
    ),
)
REGISTRY: dict[str, Task] = {task.name: task for task in _TASKS}


def get_task(name: str) -> Task:
    """The task called `name`, or one of a family, such as `jsonl:PATH`. DataError with the nearest name otherwise."""
    family, colon, _ = name.partition(":")
    if colon and family in FAMILIES:
        return FAMILIES[family](name)
    if name not in REGISTRY:
        fix = did_you_mean(name, [*REGISTRY, *(f"{family}:…" for family in FAMILIES)])
        raise DataError(f'unknown dataset "{name}"', where="data.dataset", fix=fix)
    return REGISTRY[name]


def scored_task(name: str) -> Task:
    """The task called `name`, which must have answers to score. DataError for one that only holds text."""
    task = get_task(name)
    if task.kind == "text":
        fix = "name a task with answers here and train on the text through data.mix (train.eval_samples = 0: unscored)"
        raise DataError(f"{name} has no questions, so no accuracy", where="data.dataset", fix=fix)
    return task


def _own_file(name: str) -> Task:
    path = Path(name.removeprefix("jsonl:")).expanduser()
    if not path.exists():
        raise DataError(
            "no such file", where=name, fix="write jsonl:PATH, a file or a folder with train.jsonl and test.jsonl"
        )
    splits = WITH_TEST if path.is_dir() else ONE_FILE
    return _reasoned(name, parse.TEXT, records.jsonl, "prompt answer", splits=splits, path=path)


# each makes a task of a whole name, "family:…"
FAMILIES: dict[str, Callable[[str], Task]] = {
    "jsonl": _own_file,
    "text": texts.local_text,
    "hub-text": texts.hub_text,
    "cloze": cloze.cloze_task,
    "gym": procedural.gym_task,
    "channel": channel_task,
}


def load_items(
    task: Task,
    split: str,
    limit: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    piece: int = PIECE,
) -> list[Item]:
    """At most `limit` items of `split`: drawn by `seed` for splits to train on, the first in file order for the others.

    Texts are cut into pieces of at most `piece` characters.
    Built-in tasks make `limit` items (if None, 5000 for train, 1000 otherwise); only their train items follow `seed`.
    Raises DataError for an unknown split, an unreadable or malformed row, or a split without items.
    """
    if split not in task.splits:
        known = ", ".join(task.splits)
        raise DataError(f'no split "{split}" in {task.name}', where="split", fix=f"known splits: {known}")
    learnt = split not in SCORED
    if task.generator is not None:
        count = BUILT_IN_COUNTS.get(split, BUILT_IN_COUNT) if limit is None else limit
        # every run is scored on the same items, whatever it was trained on
        return task.generator(split, count, seed if learnt else 0)
    items = _items(task, split, data_dir, piece)
    if learnt or task.grouped:
        random.Random(f"{task.name}/{split}/{seed if learnt else 0}").shuffle(items)
    return items[:limit]


def _items(task: Task, split: str, data_dir: Path | None, piece: int) -> list[Item]:
    part = task.splits[split]
    rows = task.reader(part.file, piece, data_dir) if task.reader else _rows(task, part.file, data_dir)
    made = [(_convert(task, row, index, place), row) for index, (place, row) in enumerate(rows)]
    kept = [(item, row) for item, row in made if item is not None]
    if len(kept) < len(made):
        log.warning("%s: %d of %d rows hold no question of this task", task.name, len(made) - len(kept), len(made))
    items = [
        replace(item, id=f"{Path(task.name).stem}-{part.file}-{item.id}")
        for item, row in kept
        if not part.pools or pool(str(row.get(task.key) or item.question).strip()) in part.pools
    ]
    if not items:
        what = f"no items for split {split} among {len(made)} rows"
        raise DataError(what, where=task.name, fix="use another split or a larger file")
    return items


def _rows(task: Task, file: str, data_dir: Path | None) -> list[PlacedRow]:
    if task.path is None:
        return read_rows(task.folder or task.name, file, task.hub, data_dir)
    return read_jsonl(task.path / f"{file}.jsonl" if task.path.is_dir() else task.path)


def _convert(task: Task, row: Row, index: int, place: str) -> Item | None:
    assert task.to_item is not None
    fix = f"a {task.name.partition(':')[0]} row has the fields {', '.join(task.fields)}"
    missing = [name for name in task.fields if name not in row]
    if missing:
        raise DataError(f"missing field {', '.join(missing)}", where=place, fix=fix)
    try:
        return task.to_item(row, index)
    except KeyError as error:
        raise DataError(f"missing field {error}", where=place, fix=fix) from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataError(why(error), where=place, fix=fix) from error
