"""A shared bridge as a folder: the names that its files have on the hub too, and how they get in and out whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from helmas_core.errors import CheckpointError, ConfigError
from helmas_core.files import replacing_folder
from helmas_core.runs import BRIDGE

Files = dict[str, bytes | Path]
CARD = "README.md"
ITEMS = "items.jsonl"
_PLAIN = (BRIDGE, CARD, "report.json", "config.json", ITEMS)
_FIGURE = re.compile(r"figures/[\w@][\w.@-]*\.png")


def shareable(name: str) -> bool:
    """Whether a file of this name belongs to a shared bridge. Such a name cannot leave the folder it is put in."""
    return name in _PLAIN or bool(_FIGURE.fullmatch(name))


class Place(Protocol):
    """Where a bridge is shared."""

    @property
    def address(self) -> str:
        """What a person writes to name it."""
        ...

    @property
    def name(self) -> str: ...

    def look(self) -> str:
        """What sending means there, in words. ConfigError where it must not be."""
        ...

    def card(self) -> str:
        """The card that lies there; "" without one."""
        ...

    def send(self, files: Mapping[str, bytes | Path]) -> dict[str, str]:
        """Make the shared files there exactly `files`: {"where"} and what else there is to tell."""
        ...

    def fill(self, folder: Path) -> str | None:
        """Copy the shared files to `folder`; returns the commit that they are of, if there is such a thing."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name or "bridge"

    @property
    def address(self) -> str:
        return f"./{self.name}"

    def look(self) -> str:
        check_folder(self.path)
        return f"over what is in {self.path}" if is_shared(self.path) else f"in the folder {self.path}"

    def card(self) -> str:
        path = self.path / CARD
        return path.read_text("utf-8", errors="replace") if path.is_file() else ""

    def send(self, files: Mapping[str, bytes | Path]) -> dict[str, str]:
        with arriving(self.path) as staged:
            _write(files, staged)
        return {"where": str(self.path)}

    def fill(self, folder: Path) -> None:
        _write(contents(self.path), folder)


def check_folder(folder: Path) -> None:
    """ConfigError for a folder in use that holds no shared bridge, or a run whose own bridge would be lost."""
    fix = "choose another folder"
    if folder.exists() and not folder.is_dir():
        raise ConfigError("a file, not a folder", where=str(folder), fix=fix)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if (folder / "manifest.json").exists():
        raise ConfigError("a run folder: its own bridge would be replaced", where=str(folder), fix=fix)
    if not is_shared(folder):
        raise ConfigError("not the folder of a shared bridge, and not empty", where=str(folder), fix=fix)
    if (folder / "figures").is_symlink():
        raise ConfigError("its figures lie elsewhere", where=str(folder), fix=fix)


def is_shared(folder: Path) -> bool:
    return (folder / BRIDGE).is_file() and (folder / CARD).is_file()


@contextmanager
def arriving(folder: Path) -> Iterator[Path]:
    """A place for the files of a shared bridge; they are looked at before any of them takes its place in `folder`,
    where files of ours that have no successor go."""
    check_folder(folder)
    with replacing_folder(folder) as staged:
        yield staged
        names = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
        _check_arrived(staged, names)
    for path in [*map(folder.joinpath, _PLAIN), *(folder / "figures").glob("*.png")]:
        if path.relative_to(folder).as_posix() not in names:
            path.unlink(missing_ok=True)


def _check_arrived(staged: Path, names: set[str]) -> None:
    from helmas_core.bridges.artefact import read_metadata

    for path in staged.rglob("*"):
        name = path.relative_to(staged).as_posix()
        if path.is_symlink() or not (shareable(name) or (name == "figures" and path.is_dir())):
            raise CheckpointError(f"{name} is no file of a shared bridge", fix="look at where it comes from")
    if BRIDGE not in names:
        raise CheckpointError(f"holds no {BRIDGE}", fix="give the address of a shared bridge")
    try:
        read_metadata(staged / BRIDGE)  # whole, ours, and of a format that we read
    except CheckpointError as error:  # the place that it names is gone by then
        raise CheckpointError(error.what, where=BRIDGE, fix="look at where it comes from") from error


def _write(files: Mapping[str, bytes | Path], folder: Path) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            shutil.copyfile(content, place)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the shared files in `folder`, by name."""
    return {name: path.stat().st_size for name, path in contents(folder).items()}


def contents(folder: Path) -> dict[str, Path]:
    """The files of the shared bridge in `folder`. CheckpointError for links, which may lead anywhere."""
    if not is_shared(folder):
        fix = "give a folder that helmas push wrote"
        raise CheckpointError("not the folder of a shared bridge", where=str(folder), fix=fix)
    paths = [*map(folder.joinpath, _PLAIN), *sorted((folder / "figures").glob("*.png"))]
    found = {path.relative_to(folder).as_posix(): path for path in paths if path.exists() or path.is_symlink()}
    if linked := [path for path in [folder / "figures", *found.values()] if path.is_symlink()]:
        raise CheckpointError("a link, which may lead anywhere", where=str(linked[0]), fix="put the file there itself")
    return {name: path for name, path in found.items() if shareable(name)}
