"""A still of the terminal for the README: `python -m docs.still RUN`, after `make demo` with runs/demo."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from helmas_cli.report import show_report
from helmas_cli.ui import Screen
from helmas_core.evaluation.compare import reports_of
from helmas_core.runs import Run

STILL = Path(__file__).parent / "assets" / "eval.svg"
DATASET, WIDTH = "arithmetic", 106


class Recorder(Screen):
    """A screen whose every line goes through one console."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(
            record=True,
            width=WIDTH,
            file=io.StringIO(),
            force_terminal=True,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def print(self, text: str = "", *, end: str = "\n") -> None:
        self.console.print(text, end=end)


def still(report: dict[str, Any], command: str) -> str:
    """What `command` prints of `report`, as an SVG that fetches no font."""
    screen = Recorder()
    screen.print(f"$ {command}\n")
    with patch("helmas_cli.ui.console", lambda _: screen.console):
        show_report(screen, report)
    drawn = screen.console.export_svg(title="helmas", unique_id="helmas")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def main(run: str) -> None:
    (report,) = (one for one in reports_of(Run(Path(run)).report) if one["dataset"] == DATASET)
    STILL.write_text(still(report, f"helmas eval --bridge runs/demo --dataset {DATASET}"), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
