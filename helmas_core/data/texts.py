"""Plain text to learn from: `text:PATH` and `hub-text:OWNER/NAME[:CONFIG[:FIELD]]`, cut into pieces.

A text has no question and no answer: the bridge is fitted on what both models make of it, and the functional losses
are taken on its own continuation.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from helmas_core.data import parse
from helmas_core.data.item import Item
from helmas_core.data.sources import FILE, Hub, PlacedRow, Row, read_rows
from helmas_core.data.task import ONE_FILE, Reader, Task
from helmas_core.errors import DataError
from helmas_core.foreign import read_bytes, why

log = logging.getLogger(__name__)

DOCUMENTS = 20_000  # of a data set on the hub: the most that are read of it
_BORDERS = (r"(?<=\n\n)(?!\n)", r"(?<=\n)", r"(?<=[.!?] )", r"(?<=\s)(?=\S)")  # paragraph, line, sentence, word


def cut(text: str, limit: int, borders: tuple[str, ...] = _BORDERS) -> list[str]:
    """`text` in pieces of at most `limit` characters that join to it again.

    A piece ends at a paragraph's border; at a line's, a sentence's or a word's only inside a paragraph that is too
    long, and inside a word only where that is.
    """
    if not borders:
        return [text[begin : begin + limit] for begin in range(0, len(text), limit)]
    pieces = [""]
    for part in re.split(borders[0], text):
        if len(pieces[-1]) + len(part) <= limit:
            pieces[-1] += part
        else:
            pieces += [part] if len(part) <= limit else cut(part, limit, borders[1:])
    return [piece for piece in pieces if piece]


def local_text(name: str) -> Task:
    """The task of `text:PATH`: a file, or a folder with all text files under it. DataError if it is not there."""
    path = named_path(name)

    def read(_file: str, limit: int, _data_dir: Path | None) -> list[PlacedRow]:
        return [row for place, text in read_texts(path) for row in _rows(place, text, limit)]

    return _task(name, read, path=path)


def named_path(name: str) -> Path:
    """The path of a name like `text:PATH`. DataError if it is not there."""
    family, _, rest = name.partition(":")
    path = Path(rest).expanduser()
    if not path.exists():
        fix = f"write {family}:PATH, a text file or a folder of them"
        raise DataError("no such file or folder", where=name, fix=fix)
    return path


def hub_text(name: str) -> Task:
    """The task of `hub-text:OWNER/NAME[:CONFIG[:FIELD]]`: a text column, "text" unless FIELD says otherwise.

    Raises DataError for a name of another form.
    """
    found = re.fullmatch(r"hub-text:([\w.-]+/[\w.-]+)(?::([^:]*)(?::([^:]+))?)?", name)
    if found is None:
        raise DataError("not a data set's name", where=name, fix="write hub-text:OWNER/NAME[:CONFIG[:FIELD]]")
    id, config, column = found[1], found[2] or None, found[3] or "text"
    hub = Hub(id, config, stream=DOCUMENTS)

    def read(file: str, limit: int, data_dir: Path | None) -> list[PlacedRow]:
        documents = read_rows(id, file, hub, data_dir)
        return [row for place, row in documents for row in _rows(place, _column(row, column, place), limit)]

    return _task(name, read, hub=hub)


def read_texts(path: Path) -> list[tuple[str, str]]:
    """(path, text) of a file or of every file under a folder, in the order of their paths.

    Hidden files and folders are passed over; files that are not UTF-8 text are too, with a warning that counts them.
    Raises DataError if nothing is left.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
    texts = [(str(file), _decode(file)) for file in (files if path.is_dir() else [path])]
    kept = [(place, text) for place, text in texts if text is not None and text.strip()]
    if len(kept) < len(texts):
        log.warning("%s: %d of %d files hold no text", path, len(texts) - len(kept), len(texts))
    if not kept:
        raise DataError("no text here", where=str(path), fix="name a text file in UTF-8, or a folder that has some")
    return kept


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _decode(file: Path) -> str | None:
    """The text of a file with "\\n" as its line break; None if it is binary."""
    try:
        text = read_bytes(file, FILE).decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {why(error)}", where=str(file), fix="name a readable file") from error
    return None if "\0" in text else text.replace("\r\n", "\n")


def _column(row: Row, column: str, place: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        known = ", ".join(name for name, value in row.items() if isinstance(value, str))
        raise DataError(f'no text in field "{column}"', where=place, fix=f"fields with text: {known or 'none'}")
    return text


def _rows(place: str, text: str, limit: int) -> list[PlacedRow]:
    pieces = (piece.strip("\n") for piece in cut(text, limit))
    return [(f"{place}[{index}]", {"text": piece}) for index, piece in enumerate(pieces) if piece.strip()]


def _item(row: Row, index: int) -> Item:
    return Item(str(index), question="", answer="", private=row["text"])


def _task(name: str, read: Reader, **options: Any) -> Task:
    common: dict[str, Any] = {"to_item": _item, "fields": ("text",), "key": "text", "reader": read, "kind": "text"}
    return Task(name, parse.WHOLE, ONE_FILE, **common, **options)
