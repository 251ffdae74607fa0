"""The chat loop, fed with transcripts."""

from __future__ import annotations

import io
import re
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
    assert shown.err.splitlines() == ["bridge · prefill 0.10 s · generate 0.20 s · 2 tokens · read 3, kept 4"] * 2
    assert echo.heard == ["hello", "again"]
    assert turns[0] == {
        "question": "hello",
        "answer": "HELLO!",
        "bridged": True,
        "seconds": {"prefill": 0.1, "generate": 0.2},
        "tokens": 2,
        "stopped": False,
        "read": 3,
        "kept": 4,
    }


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl()
    turns = chat.run(["a", "/bridge off", "b", "/compare", "/bridge on", "/stats", "/reset", "/help", "/quit", "never"])
    shown = capsys.readouterr()
    assert [turn["bridged"] for turn in turns] == [True, False]
    assert turns[-1]["compare"] == {"student": "s", "bridge": "b", "teacher": "t"}
    assert "student: s\nbridge: b\nteacher: t\n" in shown.out
    assert "student alone · " in shown.err
    stats = "2 turns · generate 0.40 s · prefill 0.20 s · 4 tokens · read 6, kept 8"
    assert f"{stats} · caches teacher 1.0 + bridge 0.5 MiB" in shown.err
    assert echo.heard == []
    assert [command for command in COMMANDS if f"\n{command}" not in shown.err] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("/brdge on", '"/bridge"'),
        ("/bridge", "/bridge on|off"),
        ("/compare", "ask something first"),
        ("/quit now", "/quit"),
        ("/set temprature 1", '"temperature"'),
        ("/set temperature hot", "/set temperature 0.0"),
        ("/set max_new_tokens 0", "max_new_tokens"),
        ("/undo", "nothing to take back"),
        ("/load nowhere.json", "nowhere.json: cannot be read"),
        ("/load", "/load FILE"),
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


def test_the_last_turn_can_be_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl()
    assert [turn["question"] for turn in chat.run(["a", "b", "/undo", "c"])] == ["a", "b", "c"]
    assert echo.heard == ["a", "c"]
    assert "taken back: b" in capsys.readouterr().err


def test_settings_are_shown_and_changed(capsys: pytest.CaptureFixture[str]) -> None:
    chat, echo = repl()
    chat.run(["/set temperature 0.7", "/set seed 3", "/set"])
    assert (echo.settings.temperature, echo.settings.seed) == (0.7, 3)
    assert re.search(r"^temperature +0.7$", capsys.readouterr().err, re.MULTILINE)


def test_layers_of_the_last_hand_off(capsys: pytest.CaptureFixture[str]) -> None:
    chat, _ = repl()
    turns = chat.run(["a", "/inspect"])
    assert "1.500" in capsys.readouterr().out
    assert turns[0]["inspect"]["layers"][0]["layer"] == 0


def test_lines_that_go_on_and_lines_that_begin_with_a_space() -> None:
    chat, echo = repl()
    chat.run(["one\\\n", "two \\\n", "three\n", " /quit\n", "open\\"])
    assert echo.heard == ["one\ntwo \nthree", "/quit", "open"]


def test_a_path_may_hold_spaces(tmp_path: Path) -> None:
    chat, _ = repl()
    chat.run(["hello", f"/save {tmp_path}/my talk.txt"])
    assert (tmp_path / "my talk.txt").read_text() == "hello"


class Stopped(Echo):
    def ask(self, text: str, on_token: Callable[[str], None]) -> Any:
        answer = super().ask(text, on_token)
        answer.stopped = True
        return answer


def test_a_stopped_answer_is_kept_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    chat, _ = repl(echo=Stopped())
    assert [turn["stopped"] for turn in chat.run(["a", "b"])] == [True, True]
    assert capsys.readouterr().err.splitlines()[0].endswith("· stopped")
    piped, _ = repl(echo=Stopped(), interactive=False)
    with pytest.raises(KeyboardInterrupt):
        piped.run(["a", "b"])
    assert [turn["question"] for turn in piped.turns] == ["a"]


def test_one_shot(cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("never read\n"))
    assert cli("chat", "--bridge", bridge, "--prompt", "/help me", "--system", "be brief").out == "/HELP ME!\n"
    assert cli("chat", "--bridge", bridge, "--prompt", " ").code == 2


def test_json_holds_any_character(cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x\x9b\x7f\u202ey\n"))
    result = cli("chat", "--bridge", bridge, "--json", "-q")
    assert result.json["turns"][0]["question"] == "x\x9b\x7f\u202ey"
    assert not {"\x9b", "\x7f", "\u202e"} & set(result.out)


def test_a_failed_turn_leaves_what_was_said(
    cli: Cli, core: Core, bridge: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n/nothing\n"))
    result = cli("chat", "--bridge", bridge, "-o", "out", "--json")
    assert result.code == 2
    assert [turn["answer"] for turn in result.json["turns"]] == ["ONE!"]
    assert (tmp_path / "out/chat.json").exists()


def test_without_a_bridge(cli: Cli, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    document = cli("chat", "-p", "lab", "--json", "-q").json
    assert (document["bridge"], document["turns"][0]["bridged"]) == (None, False)
