"""A real terminal: Ctrl-C in the middle of an answer, history, completion."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from helmas_cli.terminal import Completions, DiscreetHistory, history_file, open_history
from helmas_cli.ui import Screen

ROOT = Path(__file__).parents[2]
# The lab student never comes to an end here, so that there is always an answer to stop; all else is as it is.
ENDLESS = """
import sys
from helmas_core import conversation
conversation.endings = lambda tokenizer: []
conversation.stopped = lambda *arguments: False
from helmas_cli.app import main
sys.exit(main(sys.argv[1:]))
"""
READY = r"\x1b\[\?2004h"  # the prompt takes pasted text from here on
WAIT = 120  # seconds, on a machine that does much else


def completed(text: str) -> list[str]:
    found = Completions().get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + item.start_position] + item.text for item in found]


@pytest.mark.unit
def test_tab_completes_commands_keys_and_paths(tmp_path: Path) -> None:
    (tmp_path / "talk.json").touch()
    assert completed("/un") == ["/undo"]
    assert completed("/bridge o") == ["/bridge on", "/bridge off"]
    assert completed("/set te") == ["/set temperature "]
    assert completed(f"/load {tmp_path}/ta") == [f"/load {tmp_path}/talk.json"]
    assert completed("hello") == []


@pytest.mark.unit
def test_history_is_private_and_discreet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = open_history(True, print)
    for line in ("hello", " secret", "bye"):
        history.append_string(line)
    assert stat.S_IMODE(history_file().stat().st_mode) == 0o600
    assert list(DiscreetHistory(str(history_file())).load_history_strings()) == ["bye", "hello"]
    assert "secret" not in history.get_strings()
    open_history(False, print).append_string("unwritten")
    assert "unwritten" not in history_file().read_text()


@pytest.mark.unit
def test_no_place_for_history_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "helmas").touch()  # a file where the folder should be
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    open_history(True, Screen().note).append_string("kept in memory")
    assert "no history" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.slow
def test_ctrl_c_stops_the_answer_only(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment |= {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
    arguments = ["-c", ENDLESS, "chat", "-p", "lab", "-s", "eval.baseline_tokens=1000000"]
    # a test run in the background ignores SIGINT, and so would all that it starts
    not_ignoring: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    talk = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(tmp_path),
        env=environment,
        encoding="utf-8",
        timeout=WAIT,
        dimensions=(50, 200),
        **not_ignoring,
    )
    talk.expect("Ctrl-D leaves")
    for count in (1, 2):
        talk.expect(READY)
        talk.send("Seat numbers: Kara 412, Tona 318.\\\r")
        talk.expect("…")
        talk.send("Answer: Kara\r")
        talk.expect("412")
        talk.sendintr()
        talk.expect("student alone .* stopped")
        talk.send(f"/save talk-{count}.json\r")
        talk.expect("saved to")
    talk.expect(READY)
    talk.send("/undo\r")
    talk.expect("taken back")
    talk.expect(READY)
    talk.sendeof()
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    turns = json.loads((tmp_path / "talk-2.json").read_text())["turns"]
    assert [turn["stopped"] for turn in turns] == [True, True]
    assert all(turn["answer"].startswith("412") for turn in turns)
    assert turns[0]["question"] == "Seat numbers: Kara 412, Tona 318.\nAnswer: Kara"
