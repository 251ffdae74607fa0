"""JSON that machines wrote: strict, without secrets, replaced whole or not at all. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helmas_core.files import replacing
from helmas_core.foreign import read_object
from helmas_core.secrets import hidden


def to_json(value: Any, indent: int | None = 2) -> str:
    """`value` as strict JSON: paths become strings, numbers that JSON lacks (nan, inf) become null, secrets stars."""
    return json.dumps(hidden(_plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def write_text(path: Path, text: str) -> None:
    """Replace `path` whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None if there is no file or it is not one."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return None
