"""Files that are replaced whole or not at all, whatever interrupts their writer. No torch here."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = ".partial-"
_PARTIAL = re.compile(re.escape(_PREFIX) + r"\w{8}")
_ABANDONED = 3600.0  # seconds: a file is written in far less, so a writer that has been silent for so long is gone


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to; when the block ends well it is synced to the disk and takes the place of `path`.

    It lies in a temporary folder beside `path`, so that temporary files of the libraries that write it do too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=_PREFIX))
    partial = folder / path.name
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.chmod(0o666 & ~_umask())  # a library may make private files; a report is for colleagues too
        partial.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends well it becomes `path`, or, where that exists, its files take their places
    there one by one. It lies beside `path`; what is in `path` under other names stays.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    around = Path(tempfile.mkdtemp(dir=path.parent, prefix=_PREFIX))
    staged = around / (path.name or "root")
    staged.mkdir()
    try:
        yield staged
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        for file in files:
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        if path.exists():
            for file in files:
                place = path / file.relative_to(staged)
                place.parent.mkdir(exist_ok=True)
                file.replace(place)
        else:
            staged.replace(path)
    finally:
        shutil.rmtree(around, ignore_errors=True)
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; what a living one may still be writing stays."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and time.time() - _touched(path) > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _touched(folder: Path) -> float:
    """When something in `folder` last changed; now, if it is vanishing."""
    with suppress(FileNotFoundError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return time.time()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
