"""A task: where its rows come from, how a row becomes an Item, and how its answers are asked for and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from helmas_core.data.examples import Example
from helmas_core.data.item import Item
from helmas_core.data.parse import AnswerForm
from helmas_core.data.sources import Hub, PlacedRow, Row

FINAL_CUE = "\nThe final answer is:"
LETTER_CUE = "\nThe correct answer is:"


@dataclass(frozen=True)
class Part:
    """A split of ours: the file it is cut from, and which hash pools of that file it keeps (all if empty)."""

    file: str
    pools: frozenset[str] = frozenset()


_VALIDATION = frozenset({"validation"})
_NOT_VALIDATION = frozenset({"train", "test"})
WITH_TEST = {"train": Part("train", _NOT_VALIDATION), "validation": Part("train", _VALIDATION), "test": Part("test")}
TRAIN_ONLY = {name: Part("train", frozenset({name})) for name in ("train", "validation", "test")}


def share_items(splits: Mapping[str, Part], one: str, other: str) -> bool:
    """Whether two splits of a task are cut from one file and have a pool of it in common."""
    if one not in splits or other not in splits:
        return False
    ours, theirs = splits[one], splits[other]
    return ours.file == theirs.file and (not ours.pools or not theirs.pools or bool(ours.pools & theirs.pools))


# MMLU has no train split of its own: "dev" is what its authors mean to be learnt from
MMLU = {
    "train": Part("dev", _NOT_VALIDATION),
    "validation": Part("dev", _VALIDATION),
    "test": Part("test"),
    "auxiliary_train": Part("auxiliary_train"),
}
NO_TEST = {name: part for name, part in WITH_TEST.items() if name != "test"}
ONE_FILE = TRAIN_ONLY | {"all": Part("train")}
SCORED = ("validation", "test", "all")  # never drawn by seed

# (file, most characters of a piece, data folder) -> rows
Reader = Callable[[str, int, Path | None], list[PlacedRow]]


@dataclass(frozen=True)
class Task:
    """One task.

    `kind` "letters" is scored by the likelihood of each letter, "generate" by generated text, and "text" has no
    question and is only trained on; `cue` asks for the answer; `gap` stands between cue and answer; `reasons` says
    whether a baseline thinks before it answers; `key` is the field whose hash decides the split, so that rewordings
    of one question stay together.
    """

    name: str
    form: AnswerForm
    splits: Mapping[str, Part]
    to_item: Callable[[Row, int], Item | None] | None = None
    fields: tuple[str, ...] = ()
    key: str = ""
    hub: Hub | None = None
    folder: str = ""  # of its local files, where that is not its name
    path: Path | None = None
    reader: Reader | None = None  # of texts, which are cut into pieces
    generator: Callable[[str, int, int], list[Item]] | None = None
    kind: Literal["generate", "letters", "text"] = "generate"
    cue: str = FINAL_CUE
    gap: str = " "
    stop: tuple[str, ...] = ("\n",)
    few_shot: tuple[Example, ...] = ()
    reasons: bool = False
    cut: bool = False  # its reasoning is handed over without its last step, whatever the configuration says
    grouped: bool = False  # the file is sorted by subject, so its first items say little about all

    def parse(self, text: str, cued: bool = True) -> str | None:
        """The answer in generated `text`: `cued` after a hand-off's query, not `cued` after a chain of thought."""
        return self.form.parse(text, cued)
