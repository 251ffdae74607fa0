"""The chat loop, fed with transcripts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helmas_cli.repl import COMMANDS, Repl
from helmas_cli.ui import Screen
from helmas_core.errors import CacheError, ConfigError
from tests.cli.fakes import Cli, Core, Echo

pytestmark = pytest.mark.unit


def repl(bridge: object | None = "bridge", interactive: bool = True, echo: Echo | None = None) -> tuple[Repl, Echo]:
    echo = echo or Echo(bridge=bridge)
    return Repl(echo, Screen(), has_bridge=bridge is not None, interactive=interactive), echo


def test_streams_answers_and_tells_timings(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl()
    turns = chat.run(["hello\n", "\n", "again"])
    shown = capsys.readouterr()
    assert shown.out == "HELLO!\nAGAIN!\n"
    assert shown.err.splitlines() == ["bridge · prefill 0.10 s · generate 0.20 s · 2 tokens"] * 2
    assert echo.heard == ["hello", "again"]
    assert turns[0] == {
        "question": "hello",
        "answer": "HELLO!",
        "bridged": True,
        "seconds": {"prefill": 0.1, "generate": 0.2},
        "tokens": 2,
    }


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl()
    turns = chat.run(["a", "/bridge off", "b", "/compare", "/bridge on", "/stats", "/reset", "/help", "/quit", "never"])
    shown = capsys.readouterr()
    assert [turn["bridged"] for turn in turns] == [True, False]
    assert turns[-1]["compare"] == {"student": "s", "bridge": "b", "teacher": "t"}
    assert "student: s\nbridge: b\nteacher: t\n" in shown.out
    assert "student alone · " in shown.err
    assert "2 turns · generate 0.40 s · prefill 0.20 s · 4 tokens" in shown.err
    assert echo.heard == []
    assert [command for command in COMMANDS if f"\n{command}" not in shown.err] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("/brdge on", '"/bridge"'),
        ("/bridge", "/bridge on|off"),
        ("/compare", "ask something first"),
        ("/quit now", "/quit"),
    ],
)
def test_a_wrong_command_does_not_end_the_conversation(
    capsys: pytest.CaptureFixture[str], line: str, word: str
) -> None:
    chat, _ = repl()
    chat.run([line, "still here"])
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert word in shown.err
    assert shown.out == "STILL HERE!\n"


def test_no_bridge_to_switch_on(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl(bridge=None)
    chat.run(["/bridge on"])
    assert not echo.bridged
    assert "helmas chat --bridge" in capsys.readouterr().err


class Broken(Echo):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def ask(self, text: str, on_token: Callable[[str], None]) -> Any:
        error, self.error = self.error, None
        if error:
            on_token("half")
            raise error
        return super().ask(text, on_token)


@pytest.mark.parametrize("error", [CacheError("too long"), KeyboardInterrupt()])
def test_trouble_in_an_answer(capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    chat, _ = repl(echo=Broken(error))
    assert [turn["question"] for turn in chat.run(["a", "b"])] == ["b"]
    assert capsys.readouterr().out.endswith("B!\n")
    piped, _ = repl(echo=Broken(error), interactive=False)
    with pytest.raises(type(error)):
        piped.run(["a", "b"])


def test_a_wrong_command_in_a_pipe_is_an_error() -> None:
    chat, _ = repl(interactive=False)
    with pytest.raises(ConfigError):
        chat.run(["/nothing"])


def test_answers_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    repl()[0].run(["x\x1b]0;owned\x07\x9b2J\u202e\r"])
    out = capsys.readouterr().out
    assert out == "X\\x1b]0;OWNED\\x07\\x9b2J\\u202e!\n"


def test_piped_lines(cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    result = cli("chat", "--bridge", bridge, "-o", "out")
    assert (result.code, result.out) == (0, "ONE!\nTWO!\n")
    assert (tmp_path / "out/chat.json").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    document = cli("chat", "--bridge", bridge, "--json", "-q").json
    assert [(turn["answer"], turn["bridged"]) for turn in document["turns"]] == [("ONE!", True)]


def test_without_a_bridge(cli: Cli, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    document = cli("chat", "-p", "lab", "--json", "-q").json
    assert (document["bridge"], document["turns"][0]["bridged"]) == (None, False)
