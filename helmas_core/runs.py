"""Run folders: `runs/<name>/` with everything that a run was and gave. No torch here.

    config.json   the resolved configuration      profile.toml  the TOML as written
    manifest.json who, when, with what            metrics.jsonl one line per log step
    checkpoints/  bridge.safetensors  report.{json,md,html}  items.jsonl  diagnostics.json  figures/

What the machine writes is JSON; every file but the growing metrics is replaced whole or not at all.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from helmas_core.config import Config
from helmas_core.documents import Document, Manifest, Row, Stored, fits, is_report
from helmas_core.errors import CheckpointError, ConfigError
from helmas_core.files import is_leftover, replacing_files, writing
from helmas_core.foreign import MIB, inside, parse_object, read_bytes, read_object, why
from helmas_core.json_files import to_json, write_json, write_text
from helmas_core.provenance import git_state, now, versions
from helmas_core.secrets import hidden, hidden_arguments
from helmas_core.validation import validate

ROOT = Path("runs")
LOG = 1024 * MIB  # most bytes of a file of JSON lines
BRIDGE = "bridge.safetensors"
_OURS = ("config.json", "profile.toml", "manifest.json", "metrics.jsonl", BRIDGE, "checkpoints", "figures")
_OURS += ("report.json", "report.md", "report.html", "items.jsonl", "diagnostics.json", "inspect.json", "inspect.html")
_OURS += ("baseline.json", "tracking")
LOCK, OWNER = ".lock", "lock.json"
_DECIDES_TRAINING = ("pair", "bridge", "train", "data")


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"train": {"batch": 8}} as {"train.batch": 8}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that a killed process left half written are left out."""
    try:
        lines = read_bytes(inside(path.parent, path.name), LOG).decode("utf-8", errors="replace").split("\n")
    except (OSError, ValueError):
        return []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = parse_object(line)
    except ValueError:
        return None
    return row if fits(Row, row) else None


@dataclass(frozen=True)
class Run:
    """One run folder. Reading never fails: what is missing or broken is None."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def bridge(self) -> Path:
        return self.path / BRIDGE

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def config(self) -> dict[str, Any] | None:
        return self._read("config.json", Stored)

    @property
    def manifest(self) -> dict[str, Any] | None:
        return self._read("manifest.json", Manifest)

    @property
    def report(self) -> dict[str, Any] | None:
        found = self._read("report.json")
        return found if found is not None and is_report(found) else None

    def _read(self, name: str, kind: type[Document] = Document) -> dict[str, Any] | None:
        """A document in this folder; None if it is missing, broken, not of `kind`, or led to by a link from here."""
        try:
            found = read_object(inside(self.path, name))
        except (OSError, ValueError):
            return None
        return found if fits(kind, found) else None

    def log(self, record: Mapping[str, Any]) -> None:
        """One line more in metrics.jsonl, at once on disk."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(to_json(record, indent=None) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_metrics(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Leave only the `wanted` rows in metrics.jsonl; lines that a killed process left half written go."""
        if self.metrics.exists():
            rows = filter(wanted, read_metrics(self.metrics))
            write_text(self.metrics, "".join(to_json(row, indent=None) + "\n" for row in rows))

    def note(self, **fields: Any) -> None:
        """Add `fields` to the manifest."""
        write_json(self.path / "manifest.json", {**(self.manifest or {}), **fields})

    def write_report(self, report: Mapping[str, Any]) -> Path:
        write_json(self.path / "report.json", report)
        return self.path / "report.json"

    def discard(self) -> bool:
        """Take a run away that failed before it had anything to keep; True if it is gone."""
        kept = self.bridge.exists() or self.metrics.exists()
        if kept or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir())):
            return False
        _clear(self.path)
        if not any(self.path.iterdir()):
            self.path.rmdir()
        return True

    def check_removable(self) -> None:
        """ConfigError unless this is a run folder of ours, and no link to one."""
        if self.path.is_symlink() or not is_run(self.path):
            what = "a link, not a run folder" if self.path.is_symlink() else "not a run folder"
            raise ConfigError(what, where=str(self.path), fix="name a run of `helmas runs list`")

    def remove(self) -> list[Path]:
        """Take away what a run wrote; returns what else lies in its folder. The folder itself, which may be locked, is
        the caller's. Links in it are unlinked and never followed."""
        self.check_removable()
        _clear(self.path)
        return sorted(path for path in self.path.iterdir() if not _passing(path))

    def finish(self, status: str) -> None:
        """Close the manifest with `status`: "done", "interrupted" or "failed"."""
        self.note(status=status, finished=now())


def bridge_file(path: Path) -> Path:
    """The bridge file that `path` names: itself, or the one in a run folder."""
    path = path.expanduser()
    if path.is_dir() and not (path / BRIDGE).is_file():
        raise CheckpointError(f"no {BRIDGE} in this folder", where=str(path), fix="train it first: helmas train -o DIR")
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise CheckpointError(
            "no such file", where=str(path), fix=f"give a {BRIDGE} or a run folder (helmas runs list)"
        )
    return path


def _in_folder(folder: Path) -> Path:
    """The bridge file in a run folder, unless it is a link to something outside."""
    try:
        return inside(folder, BRIDGE)
    except ValueError as error:
        raise CheckpointError(str(error), where=str(folder), fix="name the file itself") from error


def is_run(path: Path) -> bool:
    """Whether helmas made `path`: a configuration, and a manifest of ours."""
    return (path / "config.json").is_file() and Run(path).manifest is not None


def default_run_path(root: Path = ROOT, name: str = "run") -> Path:
    """`root/name`, or the first free `root/name-2`, `root/name-3`, …"""
    numbered = (root / f"{name}-{number}" for number in count(2))
    return next(path for path in chain([root / name], numbered) if not path.exists())


def check_run_path(path: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse a folder that this run must not write to. Writes nothing."""
    used = path.is_file() or (path.is_dir() and not _unused(path))
    is_run = (path / "config.json").is_file() and (path / "manifest.json").is_file()
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", fix="give one of them")
    if resume and not is_run:
        raise ConfigError("no run to resume", where=str(path), fix="start it without --resume")
    if used and not is_run:
        raise ConfigError("not a run folder, and not empty", where=str(path), fix="choose another --out")
    if used and not (resume or overwrite):
        fix = "go on with --resume, replace it with --overwrite, or choose another --out"
        raise ConfigError("this run folder is used", where=str(path), fix=fix)
    check_links(path)


def check_links(path: Path) -> None:
    """ConfigError where a link in a run folder would lead what is written there out of it."""
    for name in _OURS:
        try:
            inside(path, name)
        except (OSError, ValueError) as error:
            raise ConfigError(why(error), where=str(path), fix="remove the link") from error


def _unused(path: Path) -> bool:
    """Whether nothing lies in this folder that a new run would spoil: no file of ours but a start that broke off."""
    names = {inner.name for inner in path.iterdir() if not _passing(inner)}
    begun = names & {*_OURS} == {"config.json"} and {*Config.model_fields} <= (Run(path).config or {}).keys()
    return not names or begun


def _passing(path: Path) -> bool:
    """Whether `path` is only there while a command is at work, or since one was killed at it."""
    return path.name in (LOCK, OWNER) or is_leftover(path)


def check_same_config(path: Path, config: Config) -> None:
    """Refuse to resume a run with another configuration, naming the first key that differs."""
    stored = validate(Config, Run(path).config or {}).model_dump(mode="json")  # with the keys that are newer than it
    asked = hidden(config.model_dump(mode="json"))
    for section in _DECIDES_TRAINING:
        key = _first_difference(stored.get(section), asked[section], section)
        if key:
            raise ConfigError("differs from the run to resume", where=key, fix="leave it as it was, or start a new run")


def _first_difference(stored: Any, asked: Any, where: str) -> str | None:
    if not (isinstance(stored, dict) and isinstance(asked, dict)):
        return None if stored == asked else where
    for key in [*asked, *(key for key in stored if key not in asked)]:
        found = _first_difference(stored.get(key), asked.get(key), f"{where}.{key}")
        if found:
            return found
    return None


def check_no_run(folder: Path) -> None:
    """ConfigError for a folder with a bridge or a run in it, whose own report another one would replace."""
    if any((folder / name).exists() for name in ("manifest.json", BRIDGE)):
        raise ConfigError("a run's folder: its own report would be lost", where=str(folder), fix="choose another --out")


def create_run(
    path: Path,
    config: Config,
    argv: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    profiles_text: str = "",
) -> Run:
    """Make the run folder, or take it up again. A used one is refused unless told what to do with it."""
    check_run_path(path, resume, overwrite)
    run = Run(path)
    if resume:
        check_same_config(path, config)
        run.note(status="running", finished=None, resumed=[*(run.manifest or {}).get("resumed", []), now()])
        return run
    with writing(path), replacing_files(path, before=lambda: _clear(path)) as staged:
        write_json(staged / "config.json", config.model_dump(mode="json"))
        write_text(staged / "profile.toml", hidden(profiles_text))
        write_json(staged / "manifest.json", _manifest(config, argv))
    return run


def _clear(path: Path) -> None:
    """Take away what a run wrote, and nothing else that may lie beside it."""
    for name in _OURS:
        old = path / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def _manifest(config: Config, argv: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "running",
        "started": now(),
        "finished": None,
        "argv": hidden_arguments(argv),
        "seed": config.train.seed,
        "git": git_state(Path.cwd()),
        "versions": versions(),
        "hardware": {"machine": platform.machine(), "system": platform.platform(), "cpus": os.cpu_count()},
    }


def list_runs(root: Path = ROOT) -> list[Run]:
    """Every run under `root`, newest first."""
    folders = [path.parent for path in root.glob("*/manifest.json")]
    return [
        Run(path) for path in sorted(folders, key=lambda path: (path / "manifest.json").stat().st_mtime, reverse=True)
    ]
