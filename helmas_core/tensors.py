"""The header of a safetensors file, checked as a whole before any tensor is touched. No torch here.

8 bytes: length of the header N | N bytes of JSON: {name: {dtype, shape, data_offsets}} | the tensors
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helmas_core.foreign import MIB, open_regular, parse_object

HEADER = 64 * MIB  # most bytes of it: hashes of four million training items fit
TENSORS = 2**16
_LENGTH = 8
_DIMENSIONS = 16
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Header:
    """What a file says that it holds; its tensors fill the rest of it exactly."""

    shapes: dict[str, tuple[str, tuple[int, ...]]]  # by name: dtype as the format calls it, shape
    metadata: dict[str, str]

    @property
    def values(self) -> int:
        """Numbers in all tensors together."""
        return sum(math.prod(shape) for _, shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """The header of a whole safetensors file; OSError or ValueError for any other."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size - _LENGTH
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < 0 or not 2 <= length <= min(size, HEADER):
            raise ValueError(f"a header of {length:,} bytes in a file of {size + _LENGTH:,}")
        text = file.read(length).decode()
    return _header(parse_object(text), size - length)


def _header(document: dict[str, Any], size: int) -> Header:
    metadata = document.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text")
    if len(document) > TENSORS:
        raise ValueError(f"{len(document):,} tensors, at most {TENSORS:,} are read")
    spans = sorted(_span(name[:80], entry) for name, entry in document.items())
    ends = [0, *(end for _, end in spans)]
    if any(begin != end for (begin, _), end in zip(spans, ends, strict=False)) or ends[-1] != size:
        raise ValueError("its tensors do not fill it exactly")
    return Header({name: (entry["dtype"], tuple(entry["shape"])) for name, entry in document.items()}, metadata)


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor begins and ends, which its dtype and shape must ask for."""
    if not isinstance(entry, Mapping) or entry.keys() != _ENTRY or str(entry["dtype"]) not in _BITS:
        raise ValueError(f'tensor "{name}" is of no known kind')
    shape, place = entry["shape"], entry["data_offsets"]
    if not (_sizes(shape) and len(shape) <= _DIMENSIONS and _sizes(place) and len(place) == 2):
        raise ValueError(f'tensor "{name}" has no proper shape or place')
    if math.prod(shape) * _BITS[entry["dtype"]] != 8 * (place[1] - place[0]):
        raise ValueError(f'tensor "{name}" does not fill its place')
    return place[0], place[1]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
