"""Files and folders that are replaced whole or not at all, whatever interrupts their writer. No torch here."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from helmas_core.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows: what a killed writer leaves stays there, since nobody can tell whether it lives
    fcntl = None

_PREFIX = ".partial-"
_PARTIAL = re.compile(re.escape(_PREFIX) + r"\w{8}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong in the block, as a WriteError that names `path`, and not what is temporary inside it."""
    try:
        yield
    except WriteError as error:
        raise WriteError(error.what, where=str(path), fix=error.fix) from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "make room or mend its permissions; what was there before still is"
        raise WriteError(f"cannot be written ({reason})", where=str(path), fix=fix) from error


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder in `folder` to prepare files in, on the same disk; gone at the end, or swept if its owner is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, handle = _own_folder(folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def replacing_files(folder: Path, before: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to write files to; when the block ends well all of them are synced to the disk, and only then take
    their places in `folder`, each whole. `before` may clear what must not lie beside them."""
    with writing(folder), scratch(folder) as staged:
        yield staged
        files = [path for path in sorted(staged.rglob("*")) if path.is_file()]
        targets = [folder / path.relative_to(staged) for path in files]
        for path in files:
            _sync_file(path)
            path.chmod(0o666 & ~_umask())  # a library may make private files; a report is for colleagues too
        parents = {target.parent for target in targets}
        for parent in parents:
            parent.mkdir(parents=True, exist_ok=True)
        before()
        for path, target in zip(files, targets, strict=True):
            path.replace(target)
        for parent in parents:
            _sync_folder(parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which then takes the place of `path`. Temporary files of a library lie beside it."""
    with writing(path), replacing_files(path.parent) as staged:
        yield staged / path.name


@contextmanager
def swapping_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which then takes the place of `path`. Only a folder that stood there already is away for
    a moment between the two."""
    with writing(path), scratch(path.parent) as staged:
        partial = staged / path.name
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            _sync_file(file)
        _sync_folder(partial)
        if path.exists():
            path.rename(staged / "before")
        partial.rename(path)
        _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Take `path` away at once: whoever is killed meanwhile leaves no half of it under its name."""
    with writing(path), scratch(path.parent) as staged:
        path.rename(staged / path.name)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends well it becomes `path`, or, where that exists, its files take their places
    there one by one. It lies beside `path`; what is in `path` under other names stays.
    """
    path = path.resolve()
    with writing(path), scratch(path.parent) as around:
        staged = around / (path.name or "root")
        staged.mkdir()
        yield staged
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        for file in files:
            _sync_file(file)
        if path.exists():
            for file in files:
                place = path / file.relative_to(staged)
                place.parent.mkdir(exist_ok=True)
                file.replace(place)
        else:
            staged.replace(path)
        _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; what a living one is still writing stays."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and (handle := _lock(path, wait=False)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def is_leftover(path: Path) -> bool:
    """Whether a writer of ours made `path` to prepare files in."""
    return _PARTIAL.fullmatch(path.name) is not None


def _own_folder(folder: Path) -> tuple[Path, int | None]:
    """A new folder and the handle of its lock, which ends with this process: so a sweeper tells who lives."""
    while True:
        path = Path(tempfile.mkdtemp(dir=folder, prefix=_PREFIX))
        handle = _lock(path, wait=True)
        if path.exists():  # else a sweeper was here between the two
            return path, handle
        if handle is not None:
            os.close(handle)


def _lock(folder: Path, wait: bool) -> int | None:
    """Lock a folder; None if somebody else has it, or where folders have no locks."""
    if fcntl is None:
        return None
    with suppress(FileNotFoundError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(handle)
        else:
            return handle
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
