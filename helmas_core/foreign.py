"""Files that anyone may have written: measured, read and parsed within limits, or refused. No torch here.

Everything here raises OSError or ValueError with a message of one line, before it allocates what a file only claims;
the reader of a format says where and what to do about it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

MIB = 2**20
DOCUMENT = 64 * MIB  # most bytes of a file that one JSON object fills
PROFILE = MIB
DEPTH = 64  # objects and lists inside each other
_SHOWN = 200  # characters of a reason
_DIGITS = 19  # of an integer in a document
_OTHERS = {"[": "list", '"': "string", "n": "null", "t": "bool", "f": "bool", **dict.fromkeys("-0123456789", "number")}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def open_regular(path: Path) -> BufferedReader:
    """`path` for reading. OSError for a pipe, a device or a folder, none of which is waited for or listed."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(None, "not a regular file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """What a regular file of at most `most` bytes holds."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"{size:,} bytes, at most {most:,} are read")
        return file.read(size)


def read_text(path: Path, most: int = DOCUMENT) -> str:
    """The UTF-8 text of a file, without its byte order mark."""
    return read_bytes(path, most).decode("utf-8-sig")


def read_object(path: Path, most: int = DOCUMENT, finite: bool = True) -> dict[str, Any]:
    """The JSON object that fills a file; see `parse_object`."""
    return parse_object(read_text(path, most), finite=finite)


def parse_object(text: str, digits: int = _DIGITS, finite: bool = True) -> dict[str, Any]:
    """A JSON object without a key twice, a number that is none, an integer of more than `digits` digits, half a
    character, or more than DEPTH levels."""
    if (begin := text.lstrip()[:1]) in _OTHERS:
        raise ValueError(f"a JSON {_OTHERS[begin]}, not an object")
    if begin != "{":
        raise ValueError("not JSON")
    try:
        return _checked(text, json.loads(text, **_hooks(digits, finite)))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"more than {DEPTH} levels deep") from error


def _hooks(digits: int, finite: bool) -> dict[str, Any]:
    def integer(text: str) -> int:
        if len(text) > digits:
            raise ValueError(f"an integer of {len(text)} digits")
        return int(text)

    hooks = {"object_pairs_hook": _unique, "parse_int": integer}
    return {**hooks, "parse_float": _finite, "parse_constant": _no_number} if finite else hooks


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number in JSON")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f'the key "{twice[:40]}" stands there twice')
    return found


def _checked(text: str, value: dict[str, Any]) -> dict[str, Any]:
    """`value`, walked through only where its text gives a reason to."""
    if text.count("[") + text.count("{") > DEPTH:
        check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def check_depth(value: Any, most: int = DEPTH) -> None:
    """ValueError where objects and lists stand inside each other more than `most` deep."""
    layer = [value]
    for _ in range(most + 1):
        layer = [inner for outer in layer for inner in _inner(outer)]
        if not layer:
            return
    raise ValueError(f"more than {most} levels deep")


def _inner(value: Any) -> Iterator[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (inner for inner in held if isinstance(inner, dict | list))


def why(error: Exception) -> str:
    """The reason in one line: of an OSError without the path, which stands beside it."""
    if isinstance(error, UnicodeError):
        return "not UTF-8 text"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, which no link leads out of `folder`; ValueError otherwise."""
    path = folder / name
    try:
        kept = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError as error:  # links in a circle
        raise ValueError(f"{name} leads nowhere") from error
    if not kept:
        raise ValueError(f"{name} leads out of its folder")
    return path
