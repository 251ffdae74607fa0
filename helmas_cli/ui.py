"""What a person sees. The only file with Rich: results on stdout, everything else on stderr."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from shutil import get_terminal_size
from threading import Event
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

from helmas_core.plain import as_json, printable
from helmas_core.processes import first
from helmas_core.secrets import hidden

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.table import Table
    from rich.text import Text

    from helmas_cli.options import Common

LINE_SECONDS = 5.0
PIPE_WIDTH = 1000  # Rich would fold tables at 80 columns in a pipe
PROSE_WIDTH = 30  # the last column of a text table folds at words, down to this
_BETWEEN, _AROUND = 2, 6  # blanks between columns; around two of them
_SHADES = " .:-=+*#%@"
_FORMATS = {"loss": "loss {:.4g}", "tokens_per_second": "{:,.0f} tokens/s", "memory_gib": "{:.1f} GiB"}


LONGEST = 2000  # characters of a note


def one_line(text: str) -> str:
    """A note or an error: one line that steers nothing, tells no secret, and ends."""
    line = hidden(printable(" ".join(text.split())))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def console(stream: IO[str]) -> Console:
    from rich.console import Console

    size: Any = {} if stream.isatty() else {"width": PIPE_WIDTH}
    if stream.isatty() and is_dumb():  # Rich would take 80 columns, whatever is there
        size = dict(zip(("width", "height"), get_terminal_size(), strict=True))
    return Console(file=stream, markup=False, emoji=False, highlight=False, **size)


def is_dumb() -> bool:
    """Whether the terminal knows no escape codes: no style, no bars that are drawn again and again."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


class Screen:
    """Where a command shows its result (stdout) and its notes (stderr)."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose

    @classmethod
    def of(cls, common: Common) -> Screen:
        return cls(json=common.json, quiet=common.quiet or not first(), verbose=common.verbose)

    def document(self, value: Mapping[str, Any]) -> None:
        """The one JSON document of `--json`."""
        from helmas_core.json_files import to_json

        # JSON has no \x9b: what `printable` would make of such a character could not be read back
        self.print(as_json(to_json(value)))

    def print(self, text: str = "", *, end: str = "\n") -> None:
        """Result text on stdout, as it is but for control characters."""
        sys.stdout.write(printable(text) + end)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """One line on stderr, dimmed on a terminal, unless quiet."""
        if self.quiet:
            return
        dim = sys.stderr.isatty() and "NO_COLOR" not in os.environ and not is_dumb()
        sys.stderr.write(f"\x1b[2m{one_line(text)}\x1b[0m\n" if dim else one_line(text) + "\n")
        sys.stderr.flush()

    def note_lines(self, lines: Iterable[str]) -> None:
        """Lines on stderr that keep their columns."""
        for line in lines:
            sys.stderr.write(printable(line) + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", left: bool = False) -> None:
        """A table on stdout; the first column is text, the others are figures, or text too if `left`.

        Where it is too wide its columns go on below, each time after the first one: no figure is ever cut in two.
        """
        cells = [[printable("" if cell is None else str(cell)) for cell in row] for row in rows]
        out, widths = console(sys.stdout), _widths([list(columns), *cells])
        if left:
            widths[-1] = min(widths[-1], PROSE_WIDTH)
        for group in column_groups(widths, out.width):
            table = _table(title)
            for index in group:
                whole = widths[0] + widths[index] + _AROUND <= out.width and not (left and index == len(columns) - 1)
                justify = "right" if index and not left else "left"
                table.add_column(printable(columns[index]), justify=justify, overflow="fold", no_wrap=whole)
            for row in cells:
                table.add_row(*(row[index] for index in group))
            out.print(table)
            title = ""

    def pairs(self, rows: Mapping[str, Any]) -> None:
        """Names and values, one a line."""
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            self.print(f"{name:<{width}}  {value}")

    def heat_map(self, matrix: Sequence[Sequence[float]], title: str) -> None:
        """One row of cells per student layer, one cell per teacher layer; brighter is more weight."""
        out = console(sys.stdout)
        top = max((value for row in matrix for value in row if math.isfinite(value)), default=0.0) or 1.0
        wide = 2 if 2 * max(map(len, matrix), default=0) + 5 <= out.width else 1
        self.print(f"{title} (row: student layer, column: teacher layer, brightest: {top:.3g})")
        for layer, row in enumerate(matrix):
            coloured = out.color_system is not None and not out.no_color
            out.print(_cells(layer, [value / top for value in row], wide, coloured))

    @contextmanager
    def progress(self) -> Iterator[Meter]:
        """The meter that suits stderr; it is always closed."""
        bars = sys.stderr.isatty() and not is_dumb()
        meter = Meter(self) if self.quiet else BarMeter(self) if bars else LineMeter(self)
        try:
            yield meter
        finally:
            meter.close()


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=printable(title) or None, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """What each column takes on a terminal."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def column_groups(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which columns stand side by side: as many as there is room for, and the first one in every group."""
    group, taken = [0], widths[0] + _AROUND
    for index, width in enumerate(widths[1:], 1):
        if len(group) > 1 and taken + width > room:
            yield group
            group, taken = [0], widths[0] + _AROUND
        group.append(index)
        taken += width + _BETWEEN
    yield group


def _cells(layer: int, row: Sequence[float], wide: int, coloured: bool) -> Text:
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    line = Text(f"{layer:>3}  ", no_wrap=True)
    for value in row:
        value = min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
        shade = "" if coloured else _SHADES[round(value * (len(_SHADES) - 1))]
        colour = Color.from_rgb(30 + 225 * value, 20 + 200 * value, 70 - 40 * value)
        line.append(shade * wide or " " * wide, Style(bgcolor=colour) if coloured else Style())
    return line


def size(count: int) -> str:
    """812 B, 3.4 KiB, 156.2 MiB."""
    amount, unit = float(count), "B"
    for bigger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, bigger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def clock(seconds: float) -> str:
    """3:07, or 1:02:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures_line(figures: Mapping[str, float | str]) -> str:
    """loss 0.51 · 1,200 tokens/s · 2.1 GiB, then any others by name."""
    known = [name for name in _FORMATS if name in figures]
    others = [name for name in figures if name not in _FORMATS]
    return " · ".join(_figure(name, figures[name]) for name in [*known, *others])


def _figure(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{name} {value}"
    return _FORMATS[name].format(value) if name in _FORMATS else f"{name} {value:.4g}"


class Meter:
    """The core's `Progress` with nothing shown; `stop` is set by Ctrl-C."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.stop = screen, Event()

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, **figures: float | str) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...

    def note(self, text: str) -> None:
        self.screen.note(text)

    def stop_requested(self) -> bool:
        return self.stop.is_set()


class LineMeter(Meter):
    """A plain line every few seconds: for files, pipes and batch systems."""

    def __init__(self, screen: Screen, every: float = LINE_SECONDS) -> None:
        super().__init__(screen)
        self.every, self.work = every, list[tuple[str, int, int, float]]()
        self.shown = -math.inf

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.work.append((name, total, done, monotonic()))
        self.shown = -math.inf

    def update(self, done: int, **figures: float | str) -> None:
        name, total, before, began = self.work[-1]
        now = monotonic()
        if now - self.shown < self.every and done < total:
            return
        self.shown = now
        left = (now - began) / (done - before) * (total - done) if done > before else math.nan
        parts = [f"{name} {done}/{total}", figures_line(figures), "" if math.isnan(left) else f"ETA {clock(left)}"]
        self.note(" · ".join(filter(None, parts)))

    def finish(self) -> None:
        if self.work:
            self.work.pop()


class BarMeter(Meter):
    """Bars on a terminal, one per piece of work under way, with figures, ETA and notes above."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self.bars, self.work = _bars(), list[Any]()

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.bars.start()
        self.work.append(self.bars.add_task(one_line(name), total=total, completed=done, figures=""))

    def update(self, done: int, **figures: float | str) -> None:
        self.bars.update(self.work[-1], completed=done, figures=one_line(figures_line(figures)))

    def note(self, text: str) -> None:
        self.bars.console.print(one_line(text))

    def finish(self) -> None:
        if self.work:
            self.bars.stop_task(self.work.pop())
        if not self.work:
            self.close()

    def close(self) -> None:
        self.bars.stop()
        for task in self.bars.task_ids:
            self.bars.remove_task(task)


def _bars() -> Bars:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    words = TextColumn("{task.description}", markup=False)
    figures = TextColumn("{task.fields[figures]}", markup=False)
    ends = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    return Progress(words, BarColumn(), MofNCompleteColumn(), figures, *ends, console=console(sys.stderr))
