"""Rows of a data set: local JSON lines first, the hub otherwise.

A local file is `DIR/<dataset>/<split>.jsonl` in the public format of that data set; `DIR` is
`--data-dir`, then `HELMAS_DATA`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from helmas_core.errors import DataError
from helmas_core.foreign import MIB, parse_object, read_bytes, why

FILE = 16 * 1024 * MIB  # most bytes of a file of data
DIGITS = 4300  # of an integer in a row: answers of mathematics are long
Row = dict[str, Any]
PlacedRow = tuple[str, Row]  # where it came from, for messages, and the row


@dataclass(frozen=True)
class Hub:
    """A data set on the hub; `splits` maps our file names to its split names where they differ.

    `stream` is the most rows read, without downloading the rest, of a data set too large to load whole.
    """

    id: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict[str, str])
    stream: int | None = None


def read_rows(name: str, file: str, hub: Hub | None, data_dir: Path | None = None) -> list[PlacedRow]:
    """The rows of `<name>/<file>.jsonl`, or of the hub's split for `file`.

    Raises DataError if neither is there, if a line is not a JSON object, or if there are no rows.
    """
    tried = [folder / name / f"{file}.jsonl" for folder in data_folders(data_dir)]
    for path in tried:
        if path.is_file():
            return read_jsonl(path)
    if hub is None:
        raise DataError(
            "no such file", where=str(tried[0] if tried else name), fix="give --data-dir a folder that has it"
        )
    return _read_hub(name, hub, file, tried)


def data_folders(data_dir: Path | None) -> list[Path]:
    """The folders looked through, in order. DataError if a named one is missing."""
    named = [("--data-dir", data_dir), ("HELMAS_DATA", os.environ.get("HELMAS_DATA"))]
    folders: list[Path] = []
    for origin, value in named:
        if not value:
            continue
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise DataError(
                f'no such folder "{folder}"', where=origin, fix="name a folder that holds <dataset>/<split>.jsonl"
            )
        folders.append(folder)
    return folders


def read_jsonl(path: Path) -> list[PlacedRow]:
    """One row per non-blank line, each placed as "path:line". DataError names the first broken line."""
    rows = list(_lines(path))
    if not rows:
        raise DataError("the file has no rows", where=str(path), fix="write one JSON object per line")
    return rows


def _lines(path: Path) -> Iterator[PlacedRow]:
    try:
        lines = read_bytes(path, FILE).split(b"\n")  # not str.splitlines: U+2028 may stand inside a JSON string
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {why(error)}", where=str(path), fix="name a readable file") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", _parse_line(line, f"{path}:{number}")


def _parse_line(line: bytes, where: str) -> Row:
    try:
        return parse_object(line.decode("utf-8-sig"), DIGITS)
    except ValueError as error:
        what = why(error) if "JSON" in why(error) else f"not JSON: {why(error)}"
        raise DataError(what, where=where, fix="each line must be one JSON object in UTF-8") from error


def _read_hub(name: str, hub: Hub, file: str, tried: list[Path]) -> list[PlacedRow]:
    split = hub.splits.get(file, file)
    place = ":".join(filter(None, [hub.id, hub.config, split]))
    try:
        from datasets import load_dataset  # slow to import, and not needed for local files
        from huggingface_hub.utils.logging import set_verbosity_error

        set_verbosity_error()  # it would announce each of its retries; what they come to is said below
        table = load_dataset(hub.id, hub.config, split=split, streaming=hub.stream is not None)
        rows = [(f"{place}[{index}]", dict(row)) for index, row in enumerate(islice(table, hub.stream))]
    except Exception as error:  # whatever stops the hub, the ways out are the same
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        looked = f"; looked for {', '.join(map(str, tried))}" if tried else ""
        fix = f"go online, or put {name}/{file}.jsonl in a folder and name it with --data-dir or HELMAS_DATA"
        raise DataError(f"not local and not to be had from the hub ({reason}){looked}", where=place, fix=fix) from error
    if not rows:
        raise DataError("the data set has no rows", where=place, fix="choose another split")
    return rows
