"""One command at a time in a run folder. The lock is the operating system's: it ends with its owner, however it ends.

`lock.json` beside it says who the owner is.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from helmas_core.errors import ConfigError
from helmas_core.files import sweep, writing
from helmas_core.json_files import read_json, write_json
from helmas_core.provenance import now
from helmas_core.runs import LOCK, OWNER, Run
from helmas_core.secrets import hidden_arguments


@contextmanager
def locked(folder: Path, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep other commands out of `folder`, which is made if need be, until the block ends. ConfigError that names the
    command that is at work in it; one that was killed at it is told to `note`, and what it left half written goes.

    Folders that hold nothing afterwards are taken away again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder)
    try:
        if before := read_json(folder / OWNER):
            note(f"{folder}: taken over from {_told(before)}, which is gone")
        write_json(folder / OWNER, _ourselves())
        _sweep(Run(folder))
        yield
    finally:
        with suppress(OSError):  # on a folder that has become read-only
            for name in (OWNER, LOCK):
                (folder / name).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        owner = read_json(folder / OWNER)
        what = f"in use by {_told(owner)}" if owner else "in use by another command"
        raise ConfigError(what, where=str(folder), fix="wait for it, or choose another --out") from error
    return lock


def _sweep(run: Run) -> None:
    """Remove what killed writers left in a run folder and in those inside it, which no link may lead to."""
    for folder in (run.path, run.checkpoints, run.figures):
        if folder.is_dir() and (folder == run.path or not folder.is_symlink()):
            sweep(folder)


def _ourselves() -> dict[str, Any]:
    command = shlex.join(["helmas", *hidden_arguments(sys.argv[1:])])
    return {"host": platform.node(), "pid": os.getpid(), "command": command, "started": now()}


def _told(owner: Mapping[str, Any]) -> str:
    return f'"{owner.get("command")}", pid {owner.get("pid")} on {owner.get("host")} since {owner.get("started")}'
