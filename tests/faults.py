"""A disk that fills up, turns read-only, or takes the process with it, at the k-th write under a folder."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
from safetensors import SafetensorError

OnWrite = Callable[[int, str], None]
_NEW = os.O_CREAT | os.O_WRONLY | os.O_RDWR


def full_from(k: int, code: int = errno.ENOSPC) -> OnWrite:
    """Every write from the `k`-th on fails; real errors of a write name no file, and neither do these."""

    def fail(count: int, _: str) -> None:
        if count >= k:
            raise OSError(code, os.strerror(code))

    return fail


def killed_at(k: int) -> OnWrite:
    """The `k`-th write does not come about, nor anything after it."""

    def kill(count: int, _: str) -> None:
        if count >= k:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


class Disk:
    """Counts the writes under `root` and asks `on_write` before each; a file's text counts twice, in two halves."""

    def __init__(self, root: Path, on_write: OnWrite = lambda *_: None) -> None:
        self.root, self.on_write, self.count = os.path.realpath(root), on_write, 0
        self.places, self.failed = list[str](), False

    def tick(self, what: str, path: Any) -> None:
        if self.holds(path):
            self.count += 1
            self.places.append(f"{what} {path}")
            try:
                self.on_write(self.count, what)
            except OSError:
                self.failed = True
                raise

    def holds(self, path: Any) -> bool:
        place = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else os.path.realpath(path)
        return os.fspath(place).startswith(self.root)


class _Written:
    """A file under the disk's root, opened for writing."""

    def __init__(self, file: Any, disk: Disk, path: Any) -> None:
        self._file, self._disk, self._path = file, disk, path

    def write(self, data: Any) -> int:
        middle = len(data) // 2
        self._disk.tick("write", self._path)
        self._file.write(data[:middle])
        self._file.flush()
        self._disk.tick("write on", self._path)
        return middle + self._file.write(data[middle:])

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing(root: Path, on_write: OnWrite = lambda *_: None) -> Iterator[Disk]:
    """Let `on_write` decide about every write under `root`, by its number from 1 and its kind."""
    disk = Disk(root, on_write)
    with ExitStack() as stack:
        for place, name, made in _patches(disk):
            stack.enter_context(patch.object(place, name, made))
        yield disk


def until_it_holds(root: Path, code: int = errno.ENOSPC) -> Iterator[Disk]:
    """A disk that fails from its first write on, then one that does from its second, up to one that never fails."""
    for k in count(1):
        with failing(root, full_from(k, code)) as disk:
            yield disk
        if not disk.failed:
            return


def _patches(disk: Disk) -> list[tuple[Any, str, Callable[..., Any]]]:
    plain = {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "fsync", "open")}
    opened, serialise = io.open, getattr(safetensors.torch, "serialize_file")  # noqa: B009 - it is not exported

    def before(name: str) -> Callable[..., Any]:
        def act(path: Any, *rest: Any, **more: Any) -> Any:
            if name != "open" or (rest and rest[0] & _NEW):
                disk.tick(name, path)
            return plain[name](path, *rest, **more)

        return act

    def open_file(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wxa+") or not disk.holds(path):
            return opened(path, mode, *rest, **more)
        disk.tick("open", path)
        return _Written(opened(path, mode, *rest, **more), disk, path)

    def save_tensors(tensors: Any, path: Any, *rest: Any, **more: Any) -> Any:
        try:
            disk.tick("save", path)
        except OSError as error:
            Path(path).touch()
            raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error
        return serialise(tensors, path, *rest, **more)

    return [
        *((os, name, before(name)) for name in plain),
        (io, "open", open_file),
        (builtins, "open", open_file),
        (safetensors.torch, "serialize_file", save_tensors),
    ]
