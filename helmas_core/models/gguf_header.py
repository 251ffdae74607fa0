"""The header of a GGUF file, walked through within the file's own size before a library reads it.

magic, version, count of tensors, count of settings | settings | names, shapes and places of tensors | tensors
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import IO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from helmas_core.foreign import open_regular

LAYERS = 1024
MAGIC, VERSIONS = b"GGUF", (2, 3)
COUNT = 2**16  # of settings, and of tensors
LONG = 2**22  # of a list: vocabularies have under a million words
NAME = 2**16  # bytes
DIMENSIONS = 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a setting, by its type
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_STRING, _LIST = 8, 9


def gguf_values(path: Path) -> int:
    """Numbers in all tensors of a whole GGUF file together; OSError or ValueError for any other."""
    with open_regular(path) as file:
        walk = _Walk(file)
        if walk.take(4) != MAGIC or walk.number("I") not in VERSIONS:
            raise ValueError("not a GGUF file of a known version")
        tensors, settings = walk.count(COUNT), walk.count(COUNT)
        for _ in range(settings):
            walk.setting()
        places = [walk.tensor() for _ in range(tensors)]
        for end in (end for _, end in places):
            if end > walk.left:
                raise ValueError("a tensor lies beyond its end")
        return sum(values for values, _ in places)


class _Walk:
    """A place in a file, and how many bytes are left behind it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, os.fstat(file.fileno()).st_size

    def take(self, size: int) -> bytes:
        self._less(size)
        return self.file.read(size)

    def skip(self, size: int) -> None:
        self._less(size)
        self.file.seek(size, os.SEEK_CUR)

    def _less(self, size: int) -> None:
        if size > self.left:
            raise ValueError("it ends early")
        self.left -= size

    def number(self, form: str) -> int:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def count(self, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise ValueError(f"a count of {found:,}, at most {most:,} is read")
        return found

    def name(self) -> str:
        return self.take(self.count(NAME)).decode()

    def setting(self) -> None:
        name, kind = self.name(), self.number("I")
        if kind in _INTEGERS:
            value = self.number(_INTEGERS[kind])
            if name.endswith("block_count") and not 0 < value <= LAYERS:
                raise ValueError(f"{value:,} layers, at most {LAYERS:,} are read")
        elif kind == _LIST:
            self._list(self.number("I"), self.count(LONG))
        else:
            self._value(kind)

    def _list(self, kind: int, count: int) -> None:
        if kind in _SIZES:
            self.skip(count * _SIZES[kind])
        for _ in range(0 if kind in _SIZES else count):
            self._value(kind)

    def _value(self, kind: int) -> None:
        if kind != _STRING and kind not in _SIZES:
            raise ValueError(f"a setting of the unknown type {kind}")
        self.skip(self.number("Q") if kind == _STRING else _SIZES[kind])

    def tensor(self) -> tuple[int, int]:
        """(how many numbers, where it ends behind the header)."""
        self.name()
        dimensions = self.number("I")
        if not 0 < dimensions <= DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions:,} dimensions")
        values = math.prod(self.number("Q") for _ in range(dimensions))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("I"))]
        return values, self.number("Q") + -(-values // block) * size
