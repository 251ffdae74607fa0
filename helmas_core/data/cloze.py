"""`cloze:PATH`: exact reading of plain text. The teacher reads a passage, the student is asked for one word of it.

The word stands once in the passage and not in the question. The answer is begun with its sentence up to that word, so
that the student need not be good at following instructions: it goes on with a sentence that it has read, or it cannot.
"""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path

from helmas_core.data import parse
from helmas_core.data.item import Item
from helmas_core.data.sources import PlacedRow, Row
from helmas_core.data.task import ONE_FILE, Task
from helmas_core.data.texts import cut, named_path, read_texts
from helmas_core.errors import DataError

log = logging.getLogger(__name__)

QUESTION = "Say again, word for word, a sentence of the text."
LONGEST = 1200  # characters of a passage
WORDS = range(4, 41)  # of its sentence before the one asked for
# a line's end inside a paragraph; not one before the mark of a list
_WRAP = re.compile(r"(?<=\S)[ \t]*\n[ \t]*(?=[\"“'‘(]?[^\W\d_])")
_TITLE = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)"  # these end no sentence
_BORDER = re.compile(rf"{_TITLE}(?:(?<=[.!?])|(?<=[.!?][\"'”’)]))\s+|\n+")
_WORD = re.compile(r"(?<!\S)[^\W_]+(?:[-'’.,:][^\W_]+)*(?=[.,;:!?)\"'”’]*(?!\S))")


def cloze_task(name: str) -> Task:
    """The task of `cloze:PATH`: a file, or a folder with all text files under it. DataError if it is not there."""
    path = named_path(name)

    def read(_file: str, limit: int, _data_dir: Path | None) -> list[PlacedRow]:
        return read_passages(path, min(limit, LONGEST))

    fields = ("text", "start", "word")
    return Task(name, parse.WORD, ONE_FILE, _item, fields, key="text", reader=read, grouped=True)


def read_passages(path: Path, limit: int) -> list[PlacedRow]:
    """The passages of half of `limit` to `limit` characters with a word to ask for; a warning counts the others.

    Raises DataError if there is none.
    """
    pieces = [(place, piece.strip()) for place, text in read_texts(path) for piece in cut(_WRAP.sub(" ", text), limit)]
    asked = [(place, piece, choose(piece)) for place, piece in pieces if len(piece) >= limit // 2]
    rows = [(place, {"text": text, "start": found[0], "word": found[1]}) for place, text, found in asked if found]
    if not rows:
        fix = f"name prose with passages of {limit // 2} characters or more"
        raise DataError(f"no word to ask for in {len(pieces)} pieces of text", where=str(path), fix=fix)
    if len(rows) < len(pieces):
        left = len(pieces) - len(rows)
        log.warning("%s: %d of %d pieces are too short or hold no word to ask for", path, left, len(pieces))
    return rows


def choose(text: str) -> tuple[str, str] | None:
    """(the start of its sentence, a word of `text`): a number or name, else a long word; None if there is none."""
    borders = [0, *(border.end() for border in _BORDER.finditer(text))]
    places = [(max(b for b in borders if b <= word.start()), word) for word in _WORD.finditer(text)]
    found = [(text[begin : word.start()].strip(), word[0]) for begin, word in places]
    usable = [(start, word) for start, word in found if _told_once(text, start, word)]
    telling = [(start, word) for start, word in usable if _names(word)]
    plain = [(start, word) for start, word in usable if len(word) >= 6 and word.isalpha() and word.islower()]
    return random.Random(text).choice(telling or plain) if telling or plain else None


def _told_once(text: str, start: str, word: str) -> bool:
    """Whether `word`, in any case and inside other words too, stands only behind `start`, which stands there alone."""
    folded = word.casefold()
    once = text.casefold().count(folded) == text.count(start) == 1
    return once and len(start.split()) in WORDS and folded not in QUESTION.casefold()


def _names(word: str) -> bool:
    """Whether `word` is a number or has a capital letter: "1849", "Rome", "Jean-Luc"."""
    return word[0].isdecimal() or (len(word) > 2 and word.istitle())


def _item(row: Row, index: int) -> Item:
    return Item(str(index), QUESTION, row["word"], private=row["text"], cue=f"\n{row['start']}")
