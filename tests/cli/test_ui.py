"""Escaping, tables, heat maps and progress."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from helmas_cli import ui
from helmas_cli.ui import BarMeter, LineMeter, Screen, printable

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


@given(st.text())
def test_printable_text_cannot_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160) for char in shown)
    shown.encode()


@given(st.text(st.characters(exclude_categories=["C"])))
def test_other_text_stays(text: str) -> None:
    assert printable(text) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_every_few_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(ui, "monotonic", lambda: now)
    meter = LineMeter(Screen(), every=5)
    meter.start("train", 100)
    for step in range(1, 101):
        now += 1
        meter.update(step, loss=1 / step, memory_gib=2.0, stage="warm")
    meter.finish()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[0] == "train 1/100 · loss 1 · 2.0 GiB · stage warm · ETA 1:39"
    assert lines[-1].startswith("train 100/100")


def test_a_resumed_run_is_timed_by_its_own_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(ui, "monotonic", lambda: now)
    meter = LineMeter(Screen(), every=0)
    meter.start("train", 100, done=90)
    meter.update(90)
    now += 8
    meter.update(92)
    assert capsys.readouterr().err.splitlines() == ["train 90/100", "train 92/100 · ETA 0:32"]


def test_work_inside_work(capsys: pytest.CaptureFixture[str]) -> None:
    meter = LineMeter(Screen(), every=0)
    meter.start("train", 2)
    meter.start("validate", 1)
    meter.update(1)
    meter.finish()
    meter.update(2)
    meter.finish()
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["validate", "train"]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Screen().progress() as meter:
        assert isinstance(meter, BarMeter)
        meter.start("train [bold]", 3, done=1)
        assert meter.bars.tasks[0].completed == 1
        meter.update(1, loss=0.25, tokens_per_second=12.0, memory_gib=1.5)
        meter.note("a [red]note[/red]\x1b[2J")
        meter.start("validate", 1)
        meter.update(1)
        meter.finish()
        meter.update(3, loss=0.125)
        meter.finish()
    shown = terminal.getvalue()
    wanted = ("train [bold]", "loss 0.125", "a [red]note[/red]\\x1b[2J", "validate", "ETA")
    assert [text for text in wanted if text not in shown] == []


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True).progress() as meter:
        meter.start("train", 1)
        meter.update(1)
        meter.note("x")
        meter.finish()
    assert capsys.readouterr() == ("", "")


def test_a_table_is_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(["name", "figure"], [["x" * 100, "1"], ["[red]", "\x1b[2J"]])
    out = capsys.readouterr().out
    assert "x" * 100 in out
    assert "[red]" in out
    assert "\x1b" not in out


def test_heat_map(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Screen().heat_map([[1.0, 0.0], [0.5, float("nan")]], "K")
    assert capsys.readouterr().out.splitlines()[1:] == ["  0  @@  ", "  1  ==  "]
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Style._add.cache_clear()  # Rich keeps the codes of the terminal on which a style was first seen
    Screen().heat_map([[1.0, 0.0]], "K")
    assert "48;2;255;220;30" in terminal.getvalue()
    assert "48;2;30;20;70" in terminal.getvalue()


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_walls() -> None:
    """Rich lives in ui.py, the core knows no terminal and no command, the commands no tensors."""
    core = {path: _imports(path) for path in (ROOT / "helmas_core").rglob("*.py")}
    cli = {path: _imports(path) for path in (ROOT / "helmas_cli").rglob("*.py")}
    assert [path for path, names in core.items() if names & {"typer", "rich", "prompt_toolkit", "helmas_cli"}] == []
    assert [path for path, names in cli.items() if names & {"torch", "transformers", "numpy", "datasets"}] == []
    assert [path.name for path, names in cli.items() if "rich" in names] == ["ui.py"]
    assert [path.name for path, names in cli.items() if "prompt_toolkit" in names] == ["terminal.py"]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, kind: str = "dumb") -> Terminal:
    """A terminal in place of stdout and stderr that is so wide."""
    terminal = Terminal()
    for name, value in {"COLUMNS": str(columns), "TERM": kind, "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def test_a_table_that_is_too_wide_goes_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, 30)
    Screen().table(["arm", "accuracy", "seconds", "tokens"], [["bridge", ".981", "0.125", "123,456"]], "relay")
    lines = [line.split() for line in terminal.getvalue().splitlines() if line.strip()]
    assert [line for line in lines if line[0] == "bridge"] == [["bridge", ".981", "0.125"], ["bridge", "123,456"]]
    assert lines.count(["relay"]) == 1
    assert max(map(len, terminal.getvalue().splitlines())) <= 30


def test_words_of_a_table_fold_in_its_last_column_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, 60)
    said = "one word after another " * 4
    Screen().table(["run", "started", "about"], [["first", "2026-11-25T07:00:00", said]], left=True)
    shown = terminal.getvalue()
    assert "2026-11-25T07:00:00" in shown
    assert max(map(len, shown.splitlines())) <= 60
    assert shown.count("another") == 4


@given(st.lists(st.integers(1, 80), min_size=1, max_size=12), st.integers(20, 120))
def test_every_column_is_shown_once_after_the_first(widths: list[int], room: int) -> None:
    groups = list(ui.column_groups(widths, room))
    assert [group[0] for group in groups] == [0] * len(groups)
    assert [index for group in groups for index in group[1:]] == list(range(1, len(widths)))
    assert all(len(group) > 1 for group in groups) or len(widths) == 1


def test_without_colour_a_heat_map_is_drawn_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, 80, "xterm-256color")
    Screen().heat_map([[1.0, 0.0]], "K")
    assert terminal.getvalue().splitlines()[1].split() == ["0", "@@"]


def test_a_dumb_terminal_gets_lines_without_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch, 80)
    monkeypatch.delenv("NO_COLOR")
    screen = Screen()
    screen.note("a note")
    screen.table(["name", "figure"], [["a", "1"]], "a title")
    with screen.progress() as meter:
        assert isinstance(meter, LineMeter)
        meter.start("train", 1)
        meter.update(1, loss=0.5)
    shown = terminal.getvalue()
    assert "\x1b" not in shown
    assert "train 1/1 · loss 0.5" in shown
