"""What a format is: small valid files, which of them to harm, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helmas_core.config import Config
from helmas_core.layering import load_config


@dataclass(frozen=True)
class Format:
    """`seeds` are whole folders; in each, `names` are the files to harm; `read` takes the folder.

    `share` is the format's part of all files, by weight.
    """

    name: str
    kind: str
    share: int
    names: tuple[str, ...]
    make: Callable[[Path], None]
    read: Callable[[Path], None]


@cache
def config() -> Config:
    return load_config(["lab"], ["bridge.method=ridge", "bridge.neighbours=2"])
