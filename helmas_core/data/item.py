"""One item of a task, before any model has seen it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What the task knows about one question.

    `private` is text that only the teacher may read; `reasoning` is the gold rationale, if the data set
    has one; `answer` is the gold answer in the form that the task's parser returns; `cue`, if given, replaces
    the task's own words that ask for the answer; `category` is what reports group by: a subject, a kind of fact.
    """

    id: str
    question: str
    answer: str
    private: str = ""
    reasoning: str = ""
    choices: tuple[str, ...] = ()
    cue: str = ""
    category: str = ""


def pool(key: str) -> str:
    """The split that owns `key`: a fixed 70/10/20 partition that no seed can move."""
    bucket = zlib.crc32(key.encode()) % 10
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"
