"""The pages as tests see them: blocks of code with what stands behind their language, and commands in the prose.

```bash            is run, on the lab pair and in few steps
```bash dry-run    is run with --dry-run: it needs a model that tests do not have, DIR
```bash no-test    is not run: it installs, or is no command of ours; tests/unit/test_pages.py lists these
```toml mine.toml  is written to that file first
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "docs/quick-start.md",
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "results/README.md",
]
PAGES = list(dict.fromkeys(PAGES))  # the quick start makes the runs that other pages go on with
FENCE = re.compile(r"^```(?P<kind>\w+)(?: (?P<note>[^\n]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    note: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Its command lines, without comments; a line that ends in a backslash goes on in the next."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]


def blocks(page: Path) -> Iterator[Block]:
    text, name = page.read_text("utf-8"), page.relative_to(ROOT).as_posix()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(name, line, found["kind"], found["note"] or "", found["text"])


def spans(page: Path) -> list[str]:
    """What stands between backticks in the prose, on one line."""
    prose = ANY_FENCE.sub("", page.read_text("utf-8"))
    return [" ".join(found.split()) for found in SPAN.findall(prose)]
