"""A run's folder and what reads it, transcripts, and what is typed in a chat."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helmas_cli.commands import pool, runs
from helmas_cli.options import Common
from helmas_cli.repl import Repl
from helmas_cli.report import show_reports
from helmas_cli.ui import Screen
from helmas_core.errors import DataError
from helmas_core.evaluation.compare import answers, compare_runs, reports_of
from helmas_core.evaluation.figures import curve_figure
from helmas_core.json_files import to_json
from helmas_core.plain import harmless
from helmas_core.runs import Run, check_same_config, create_run, is_run, read_metrics
from helmas_core.transcript import Exchange, Settings, Transcript, read_transcript, write_transcript
from tests.evidence import SAMPLE, curves, items
from tests.fuzz.format import Format, config


def _run(folder: Path) -> None:
    """A run with everything in it, beside a second one with the same items."""
    for name in ("one", "two"):
        run = create_run(folder / name, config(), ["helmas", "train"], profiles_text="[pair]\n")
        right = dict.fromkeys(SAMPLE["arms"], "01" * 5)
        outcomes = {"items": [["relay", str(i)] for i in range(10)], "right": right}
        report = {
            **SAMPLE,
            "outcomes": outcomes,
            "costs": {"bridge": {"seconds": {"bridge": 0.1}, "cold": {"p50": 0.2}}},
        }
        report |= {
            "reasoning": {"names_answer": 0.1, "items": 10},
            "verdict": {"text": "content effect +.80"},
            "split": "test",
        }
        run.write_report(report)
        (run.path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items("x", 4)))
        run.metrics.write_text("".join(to_json(row, indent=None) + "\n" for row in curves()))
        run.finish("done")


def _silent(show: Callable[[Screen], Any]) -> None:
    """What a command prints, on both streams, must be harmless."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        show(Screen())
    raw = [char for char in {*out.getvalue(), *err.getvalue()} if not harmless(char)]
    assert not raw, f"raw characters reach the terminal: {raw!r}"


def _some(folder: Path, name: str, one_in: int) -> bool:
    """Whether to do what takes its time with this file: with one in so many."""
    return (folder / name).stat().st_size % one_in == 0


def _read_report(folder: Path) -> None:
    run = Run(folder / "one")
    runs.summary(run)
    if run.report is None:
        raise DataError("no report")
    if _some(folder, "one/report.json", 4):
        _silent(lambda screen: show_reports(screen, reports_of(run.report)))


def _read_pooled(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        pool.pool(Common(json=True, quiet=True, profile=["lab"]), [str(folder / "one"), str(folder / "two")])


def _read_run(folder: Path) -> None:
    run = Run(folder / "one")
    runs.summary(run)
    if not is_run(run.path):
        raise DataError("no run")
    check_same_config(run.path, config())
    if _some(folder, "one/config.json", 8):
        found = compare_runs([run, Run(folder / "two")])
        _silent(lambda screen: runs._show_comparison(screen, found))


def _read_items(folder: Path) -> None:
    if len(answers(folder / "one")) < 4:
        raise DataError("lines left out")


def _read_metrics(folder: Path) -> None:
    rows = read_metrics(folder / "one/metrics.jsonl")
    if not rows:
        raise DataError("no rows")
    if len(rows) == 2:  # a figure takes its time
        curve_figure({"": rows})


def _transcript(folder: Path) -> None:
    turn = Exchange(question="wer?", answer="Bo \u00e9\U0001f600", bridged=True, stopped=True)
    models: dict[str, str | None] = {"bridge": None, "teacher": "0" * 16}
    write_transcript(
        folder / "talk.json", Transcript(system="", bridged=True, settings=Settings(), models=models, turns=(turn,))
    )


def _read_transcript(folder: Path) -> None:
    read_transcript(folder / "talk.json")


class Parrot:
    """A conversation that answers with the question and touches no file."""

    def __init__(self) -> None:
        self.bridged, self.settings, self.said = True, Settings(), list[str]()

    def ask(self, text: str, on_token: Callable[[str], None]) -> Any:
        self.said.append(text)
        for char in text[:500]:
            on_token(char)
        return SimpleNamespace(text=text, seconds={"answer": 0.1}, tokens=1, new=1, kept=0, stopped=False)

    def compare(self) -> dict[str, str]:
        return {"student": self.said[-1]} if self.said else {}

    def inspect(self) -> dict[str, Any]:
        return {"layers": [{"layer": 0, "k_norm": 1.5}]}

    def set(self, key: str, value: str) -> None:
        self.settings = self.settings.changed(key, value)

    def bytes(self) -> dict[str, int]:
        return {"teacher": 2**20}

    def save(self, path: Path) -> None:
        self.said.append(str(path))

    def load(self, path: Path) -> None:
        self.said.append(str(path))

    def undo(self) -> str | None:
        return self.said.pop() if self.said else None

    def reset(self) -> None:
        self.said.clear()


def _chat(folder: Path) -> None:
    lines = [
        "Hello there\\",
        "and more",
        "/set temperature 0.7",
        "/set seed 3",
        "/stats",
        "/compare",
        "/undo",
        "/save a.json",
    ]
    (folder / "typed.txt").write_text(
        "\n".join([*lines, "/load b.json", "/bridge off", "/help", "last words \U0001f600"])
    )


def _read_chat(folder: Path) -> None:
    typed = io.TextIOWrapper(io.BytesIO((folder / "typed.txt").read_bytes()), "utf-8", errors="replace")
    _silent(lambda screen: [Repl(Parrot(), screen, has_bridge=True, interactive=True).run(typed)])


FORMATS = (
    Format("report", "json", 5, ("one/report.json",), _run, _read_report),
    Format("reports pooled", "json", 1, ("two/report.json",), _run, _read_pooled),
    Format("run folder", "json", 3, ("one/manifest.json", "one/config.json"), _run, _read_run),
    Format("items", "lines", 8, ("one/items.jsonl",), _run, _read_items),
    Format("metrics", "lines", 4, ("one/metrics.jsonl",), _run, _read_metrics),
    Format("transcript", "json", 12, ("talk.json",), _transcript, _read_transcript),
    Format("chat input", "text", 2, ("typed.txt",), _chat, _read_chat),
)
