"""Reasoning that the teacher wrote, on disk as JSON lines, so that a generation goes on where it was interrupted.

Two runs that think about the same item at once each use their own words; a later run finds those of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from helmas_core.config import TrainConfig
from helmas_core.files import replacing
from helmas_core.foreign import read_text, why
from helmas_core.handoff.examples import Thought
from helmas_core.handoff.keys import digest
from helmas_core.handoff.store import FORMAT, Key, make_folder
from helmas_core.progress import Progress

_FILE = re.compile(r"[0-9a-f]{64}\.jsonl")


class Line(BaseModel):
    """One line of a file."""

    format: Literal[1] = FORMAT
    key: Key
    thought: Thought


class Thoughts:
    """Thoughts by key. Each `put` leaves one file in `folder`, if there is one, that is named by its keys' hash.

    A file that does not hold thoughts is skipped with a note, and so is writing to a folder that takes no files.
    """

    def __init__(self, folder: Path | None, note: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.note = None if folder is None else make_folder(folder), note
        self._known: dict[str, Thought] = {}
        files = [] if self.folder is None else sorted(self.folder.iterdir())
        for path in (path for path in files if _FILE.fullmatch(path.name)):
            self._read(path)

    def get(self, key: str) -> Thought | None:
        return self._known.get(key)

    def add(self, thoughts: Mapping[str, Thought]) -> None:
        """Know `thoughts`, which another process has put."""
        self._known |= thoughts

    def put(self, thoughts: Mapping[str, Thought]) -> None:
        """Add `thoughts`; they are on the disk when this returns."""
        self.add(thoughts)
        if self.folder is None:
            return
        lines = [Line(key=key, thought=thought).model_dump_json() + "\n" for key, thought in thoughts.items()]
        try:
            with replacing(self.folder / f"{digest(sorted(thoughts))}.jsonl") as partial:
                partial.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            self.note(f"store: thoughts cannot be kept ({error.__cause__ or error})")

    def _read(self, path: Path) -> None:
        try:
            text = read_text(path).removesuffix("\n")  # splitlines would also cut at U+2028 inside a thought
            lines = [Line.model_validate_json(line) for line in text.split("\n")]
        except (OSError, ValueError) as error:
            self.note(f"store: skipped {path.name[:12]}…, not a file of thoughts ({why(error)})")
        else:
            self._known |= {line.key: line.thought for line in lines}


def open_thoughts(config: TrainConfig, progress: Progress) -> Thoughts:
    """The thoughts in the store that the configuration names; kept in memory only without one."""
    folder = None if config.store is None else config.store.expanduser() / "thoughts"
    return Thoughts(folder, progress.note)
