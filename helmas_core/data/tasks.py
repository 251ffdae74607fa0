"""The tasks: where their rows come from, how a row becomes an Item, and how answers are asked for and read."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from helmas_core.data import arithmetic, parse, records, relay
from helmas_core.data.examples import MATHEMATICS, WORD_PROBLEMS, Example
from helmas_core.data.item import Item, pool
from helmas_core.data.parse import AnswerForm
from helmas_core.data.sources import Hub, PlacedRow, Row, read_jsonl, read_rows
from helmas_core.errors import DataError, did_you_mean

log = logging.getLogger(__name__)

FINAL_CUE = "\nThe final answer is:"
LETTER_CUE = "\nThe correct answer is:"
BUILT_IN_COUNTS = {"train": 5000}  # of items where no limit is given
BUILT_IN_COUNT = 1000


@dataclass(frozen=True)
class Part:
    """A split of ours: the file it is cut from, and which hash pools of that file it keeps (all if empty)."""

    file: str
    pools: frozenset[str] = frozenset()


_VALIDATION = frozenset({"validation"})
_NOT_VALIDATION = frozenset({"train", "test"})
WITH_TEST = {"train": Part("train", _NOT_VALIDATION), "validation": Part("train", _VALIDATION), "test": Part("test")}
TRAIN_ONLY = {name: Part("train", frozenset({name})) for name in ("train", "validation", "test")}
# MMLU has no train split of its own: "dev" is what its authors mean to be learnt from
MMLU = {
    "train": Part("dev", _NOT_VALIDATION),
    "validation": Part("dev", _VALIDATION),
    "test": Part("test"),
    "auxiliary_train": Part("auxiliary_train"),
}
ONE_FILE = TRAIN_ONLY | {"all": Part("train")}
SCORED = ("validation", "test", "all")  # never drawn by seed


@dataclass(frozen=True)
class Task:
    """One task.

    `kind` "letters" is scored by the likelihood of each letter, "generate" by generated text; `cue` asks for the
    answer; `gap` stands between cue and answer; `reasons` says whether a baseline thinks before it answers; `key` is
    the field whose hash decides the split, so that rewordings of one question stay together.
    """

    name: str
    form: AnswerForm
    splits: Mapping[str, Part]
    to_item: Callable[[Row, int], Item | None] | None = None
    fields: tuple[str, ...] = ()
    key: str = ""
    hub: Hub | None = None
    path: Path | None = None
    generator: Callable[[str, int, int], list[Item]] | None = None
    kind: Literal["generate", "letters"] = "generate"
    cue: str = FINAL_CUE
    gap: str = " "
    stop: tuple[str, ...] = ("\n",)
    few_shot: tuple[Example, ...] = ()
    reasons: bool = False
    grouped: bool = False  # the file is sorted by subject, so its first items say little about all

    def parse(self, text: str, cued: bool = True) -> str | None:
        """The answer in generated `text`: `cued` after a hand-off's query, not `cued` after a chain of thought."""
        return self.form.parse(text, cued)


def _letters(name: str, to_item: Callable[[Row, int], Item | None], fields: str, hub: Hub, **options: Any) -> Task:
    settings: dict[str, Any] = {"splits": WITH_TEST, "key": fields.split()[0], "kind": "letters", "cue": LETTER_CUE}
    return Task(name, parse.LETTER, to_item=to_item, fields=tuple(fields.split()), hub=hub, **(settings | options))


def _reasoned(
    name: str, form: AnswerForm, to_item: Callable[[Row, int], Item | None], fields: str, **options: Any
) -> Task:
    settings: dict[str, Any] = {"splits": TRAIN_ONLY, "key": fields.split()[0], "reasons": True}
    return Task(name, form, to_item=to_item, fields=tuple(fields.split()), **(settings | options))


_TASKS = (
    Task("relay", parse.NUMBER, TRAIN_ONLY, generator=relay.items, cue="\nAnswer:"),
    Task("arithmetic", parse.NUMBER, TRAIN_ONLY, generator=arithmetic.items, cue="\nAnswer:", gap=""),
    _reasoned(
        "gsm8k",
        parse.NUMBER,
        records.gsm8k,
        "question answer",
        splits=WITH_TEST,
        hub=Hub("openai/gsm8k", "main"),
        few_shot=WORD_PROBLEMS,
    ),
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
        hub=Hub("meta-math/MetaMathQA"),
        few_shot=WORD_PROBLEMS,
    ),
    _reasoned(
        "openmathinstruct2",
        parse.MATH,
        records.openmathinstruct2,
        "problem generated_solution expected_answer",
        hub=Hub("nvidia/OpenMathInstruct-2", splits={"train": "train_1M"}, stream=100_000),  # of 14 million
        few_shot=MATHEMATICS,
    ),
    _letters("arc", records.arc, "question choices answerKey", Hub("allenai/ai2_arc", "ARC-Challenge")),
    _letters("mmlu", records.mmlu, "question choices answer", Hub("cais/mmlu", "all"), splits=MMLU, grouped=True),
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


def task_names() -> list[str]:
    return sorted(REGISTRY)


def get_task(name: str) -> Task:
    """The task called `name`, or `jsonl:PATH` for a file of your own. DataError with the nearest name otherwise."""
    if name.startswith("jsonl:"):
        return _own_file(name)
    if name not in REGISTRY:
        raise DataError(
            f'unknown dataset "{name}"', where="data.dataset", fix=did_you_mean(name, [*REGISTRY, "jsonl:PATH"])
        )
    return REGISTRY[name]


def _own_file(name: str) -> Task:
    path = Path(name.removeprefix("jsonl:")).expanduser()
    if not path.exists():
        raise DataError(
            "no such file", where=name, fix="write jsonl:PATH, a file or a folder with train.jsonl and test.jsonl"
        )
    splits = WITH_TEST if path.is_dir() else ONE_FILE
    return _reasoned(name, parse.TEXT, records.jsonl, "prompt answer", splits=splits, path=path)


def load_items(
    task: Task, split: str, limit: int | None = None, seed: int = 0, data_dir: Path | None = None
) -> list[Item]:
    """At most `limit` items of `split`: drawn by `seed` for splits to train on, the first in file order for the others.

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
    items = _items(task, split, data_dir)
    if learnt or task.grouped:
        random.Random(f"{task.name}/{split}/{seed if learnt else 0}").shuffle(items)
    return items[:limit]


def _items(task: Task, split: str, data_dir: Path | None) -> list[Item]:
    part = task.splits[split]
    rows = _rows(task, part.file, data_dir)
    made = [(_convert(task, row, index, place), row) for index, (place, row) in enumerate(rows)]
    kept = [(item, row) for item, row in made if item is not None]
    if len(kept) < len(made):
        log.warning("%s: %d of %d rows hold no question with an answer", task.name, len(made) - len(kept), len(made))
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
        return read_rows(task.name, file, task.hub, data_dir)
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
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(str(error), where=place, fix=fix) from error
