"""`compare` over a comparison that answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from helmas_core.progress import Stopped
from tests.cli.fakes import Cli, Core

pytestmark = pytest.mark.unit
ARGV = ("compare", "-p", "lab", "--methods", "ridge,kava", "--dataset", "relay")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_tells_the_signal(
    cli: Cli, core: Core, comparing: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def stopped(*_: object) -> None:
        os.kill(os.getpid(), number)
        raise Stopped

    monkeypatch.setattr(sys.modules["helmas_core.comparison.run"].Comparison, "go", stopped)
    result = cli(*ARGV, "-o", "runs/x")
    assert (result.code, "the same command goes on from here" in result.err) == (128 + number, True)
    assert not Path("runs/x").exists()  # nor a lock in it


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["-o", "runs/demo"], "a run's folder"), (["--arms", "student,text"], "bridge is the arm that is compared")],
)
def test_refused_before_anything_is_trained(
    cli: Cli, core: Core, comparing: list[str], flags: list[str], words: str
) -> None:
    Path("runs/demo").mkdir(parents=True, exist_ok=True)
    Path("runs/demo/manifest.json").write_text("{}")
    result = cli(*ARGV, *flags)
    assert (result.code, comparing, core.calls) == (2, [], [])
    assert words in result.err and len(result.err.splitlines()) == 1


def test_the_report_of_the_others_is_shown_before_it_fails(
    cli: Cli, core: Core, comparing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = {"name": "kava", "method": "kava", "mode": "replace", "changes": {}}
    document = {"schema": 1, "variants": [variant], "refused": {"ridge": "too few rows"}, "reports": []}
    monkeypatch.setattr(sys.modules["helmas_core.comparison.run"].Comparison, "go", lambda *_: document)
    result = cli(*ARGV)
    assert result.code == 1
    assert "kava" in result.out and "not trained: ridge: too few rows" in result.err
    assert result.err.splitlines()[-1].startswith("error: compare: 1 of 2 variants could not be trained: ridge")
