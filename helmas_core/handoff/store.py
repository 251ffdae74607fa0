"""A folder of tensors that are dear to compute: entries under hash keys, in shards that never change.

A shard is written whole or not at all, so a killed writer loses the shard in progress and nothing else, and any number
of processes share a folder without locks. Its name is the hash of the keys in it: two writers of the same entries
leave one file, and a broken shard is replaced once its entries are computed again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, StringConstraints
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helmas_core.errors import ConfigError
from helmas_core.files import replacing, sweep
from helmas_core.foreign import why
from helmas_core.tensors import read_header

FORMAT = 1
GIB = 2**30
_INDEX = "helmas_store"
_HEADER = 512  # bytes of header and index that a tensor takes, at most
_SHARD = re.compile(r"[0-9a-f]{64}\.safetensors")
_UNREADABLE = (OSError, SafetensorError, ValueError)
Layout = dict[str, tuple[str, list[int]]]  # tensor name -> dtype, shape
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Index(BaseModel):
    """What a shard says of itself, in its metadata: the tensor `KEY.NAME` for every key and name."""

    format: Literal[1] = FORMAT
    entries: dict[Key, Layout]


class Store:
    """Reads and adds entries (key -> named tensors). Reading is by memory map: what is not touched is not read.

    Nothing is written beyond `gib`, counted over all shards of the folder; reading goes on. Shards that are
    cut short, foreign or unreadable are told to `note` and cost time only; a flipped bit inside a tensor goes
    unnoticed, as in any file of weights. ConfigError if there can be no such folder.
    """

    def __init__(self, folder: Path, gib: float, note: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.gib, self.note = make_folder(folder), gib, note
        self.closed = False
        self._seen: set[str] = set()
        self._places: dict[str, tuple[str, Layout]] = {}
        self._opened = lru_cache(maxsize=64)(lambda name: _open(self.folder / name))
        self.refresh()

    def refresh(self) -> None:
        """Take note of shards that are new since the last look, by whomever."""
        for name in sorted({name for name, _ in self._shards()} - self._seen):
            self._seen.add(name)
            try:
                entries = _read_index(self.folder / name)
            except _UNREADABLE as error:
                self._forget(name, error)
            else:
                self._places |= {key: (name, layout) for key, layout in entries.items() if key not in self._places}

    def layout(self, key: str) -> Layout | None:
        """Names, dtypes and shapes of an entry; None for an unknown one."""
        return self._places[key][1] if key in self._places else None

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, on the CPU; None for an unknown or broken one."""
        if key not in self._places:
            return None
        name, layout = self._places[key]
        try:
            shard = self._opened(name)
            return {part: shard.get_tensor(f"{key}.{part}") for part in layout}
        except _UNREADABLE as error:
            self._forget(name, error)
            return None

    def put(self, entries: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Add `entries` as one shard, unless the budget, the disk or the folder does not allow it."""
        flat = {f"{key}.{name}": tensor for key, entry in entries.items() for name, tensor in entry.items()}
        size = sum(tensor.nbytes + _HEADER for tensor in flat.values())
        try:
            if not self.closed and self.bytes() + size > self.gib * GIB:
                self._close(f"full at {self.gib:g} GiB (train.store_gib)")
            if not self.closed:
                self._write(flat, Index(entries={key: _layout(entry) for key, entry in entries.items()}))
        except OSError as error:
            self._close(f"cannot be written ({error.__cause__ or error})")

    def bytes(self) -> int:
        """The size of all shards, everyone's."""
        return sum(size for _, size in self._shards())

    def _write(self, tensors: dict[str, Tensor], index: Index) -> None:
        name = hashlib.sha256("".join(sorted(index.entries)).encode()).hexdigest() + ".safetensors"
        with replacing(self.folder / name) as partial:
            save_file(tensors, partial, metadata={_INDEX: index.model_dump_json()})
        self._seen.add(name)
        self._places |= {key: (name, layout) for key, layout in index.entries.items()}

    def _shards(self) -> list[tuple[str, int]]:
        """Name and size of every file that is named like a shard; others are none of our business."""
        found: list[tuple[str, int]] = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as files:
            for file in files:
                if _SHARD.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # someone may tidy up meanwhile
                        found.append((file.name, file.stat().st_size))
        return found

    def _forget(self, name: str, error: Exception) -> None:
        self._places = {key: place for key, place in self._places.items() if place[0] != name}
        self._opened.cache_clear()
        self.note(f"store: skipped {name[:12]}…, not a whole shard ({why(error)}); what it held is computed again")

    def _close(self, why: str) -> None:
        self.closed = True
        self.note(f"store: {why}; nothing more is written to it, what it holds is still used")


def make_folder(folder: Path) -> Path:
    """The folder, free of what killed writers left there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        raise ConfigError(f"no usable folder ({error})", where="train.store", fix="name another one") from error
    return folder


def _open(path: Path) -> Any:
    read_header(path)  # a pipe would be waited for, and a header may claim anything
    return safe_open(path, framework="pt")


def _read_index(path: Path) -> dict[str, Layout]:
    """Keys and layouts of a shard, compared with its tensors; one of _UNREADABLE if they do not fit."""
    with _open(path) as shard:
        entries = Index.model_validate_json((shard.metadata() or {}).get(_INDEX, "")).entries
        for key, layout in entries.items():
            if _layout({name: shard.get_tensor(f"{key}.{name}") for name in layout}) != layout:
                raise ValueError("its tensors do not fit its index")
    return entries


def describe(dtype: torch.dtype, shape: Sequence[int]) -> tuple[str, list[int]]:
    """A tensor as a Layout names it."""
    return str(dtype).removeprefix("torch."), list(shape)


def _layout(entry: Mapping[str, Tensor]) -> Layout:
    return {name: describe(tensor.dtype, tensor.shape) for name, tensor in entry.items()}
