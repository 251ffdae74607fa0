"""The chat loop: lines in, answers out. It knows neither models nor terminals, so a transcript can drive it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from helmas_cli.ui import Screen
from helmas_core.errors import ConfigError, HelmasError, did_you_mean

HELP = {
    "/help": "these commands",
    "/bridge on|off": "hand the teacher's cache over, or let the student answer alone",
    "/compare": "the last turn answered by each: student, bridge, teacher",
    "/stats": "turns, tokens and seconds so far",
    "/reset": "forget the conversation",
    "/quit": "leave",
}
COMMANDS = sorted({words.split()[0] for words in HELP})


class Answer(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def seconds(self) -> dict[str, float]: ...
    @property
    def tokens(self) -> int: ...


class Conversation(Protocol):
    bridged: bool

    def ask(self, text: str, on_token: Callable[[str], None]) -> Answer: ...
    def compare(self) -> dict[str, str]: ...
    def reset(self) -> None: ...


class Repl:
    """One conversation on one screen; `turns` is its record."""

    def __init__(self, conversation: Conversation, screen: Screen, has_bridge: bool, interactive: bool) -> None:
        self.conversation, self.screen = conversation, screen
        self.has_bridge, self.interactive = has_bridge, interactive
        self.turns: list[dict[str, Any]] = []

    def run(self, lines: Iterable[str]) -> list[dict[str, Any]]:
        """Answer line after line until they end or say /quit."""
        for line in lines:
            text = line.strip()
            if text == "/quit":
                break
            if text:
                self._answer(text)
        return self.turns

    def _answer(self, text: str) -> None:
        """One line; at a terminal neither an error nor Ctrl-C ends the conversation."""
        try:
            self._command(text) if text.startswith("/") else self._ask(text)
        except HelmasError as error:
            if not self.interactive:
                raise
            self.screen.note(f"error: {error}")
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self._show("\n")
            self.screen.note("stopped")

    def _ask(self, text: str) -> None:
        answer = self.conversation.ask(text, self._show)
        self._show("\n")
        seconds, bridged = dict(answer.seconds), self.conversation.bridged
        turn = {
            "question": text,
            "answer": answer.text,
            "bridged": bridged,
            "seconds": seconds,
            "tokens": answer.tokens,
        }
        self.turns.append(turn)
        self.screen.note(f"{'bridge' if bridged else 'student alone'} · {timings(seconds, answer.tokens)}")

    def _show(self, piece: str) -> None:
        if not self.screen.json:  # then stdout is for the one document at the end
            self.screen.print(piece, end="")

    def _command(self, text: str) -> None:
        name, *words = text.split()
        match name, words:
            case "/help", []:
                self.screen.note_lines(f"{command:<15} {what}" for command, what in HELP.items())
            case "/bridge", ["on" | "off" as state]:
                self._switch(state == "on")
            case "/compare", []:
                self._compare()
            case "/stats", []:
                self.screen.note(self._stats())
            case "/reset", []:
                self.conversation.reset()
                self.screen.note("forgotten")
            case _:
                fix = (
                    f"write {next(h for h in HELP if h.startswith(name))}"
                    if name in COMMANDS
                    else did_you_mean(name, COMMANDS)
                )
                raise ConfigError(f'cannot do "{text}"', fix=fix)

    def _switch(self, on: bool) -> None:
        if on and not self.has_bridge:
            raise ConfigError("there is no bridge to switch on", fix="start with helmas chat --bridge PATH")
        self.conversation.bridged = on
        self.screen.note(f"bridge {'on' if on else 'off'}")

    def _compare(self) -> None:
        if not self.turns:
            raise ConfigError("nothing to compare yet", fix="ask something first")
        answers = self.conversation.compare()
        self.turns[-1]["compare"] = answers
        for name, answer in answers.items():
            self._show(f"{name}: {answer}\n")

    def _stats(self) -> str:
        tokens = sum(turn["tokens"] for turn in self.turns)
        parts = {part for turn in self.turns for part in turn["seconds"]}
        seconds = {part: sum(turn["seconds"].get(part, 0.0) for turn in self.turns) for part in sorted(parts)}
        count = len(self.turns)
        return f"{count} turn{'' if count == 1 else 's'} · {timings(seconds, tokens)}"


def timings(seconds: Mapping[str, float], tokens: int) -> str:
    """prefill 0.12 s · generate 0.80 s · 21 tokens"""
    return " · ".join([*(f"{part} {value:.2f} s" for part, value in seconds.items()), f"{tokens} tokens"])


def typed_lines() -> Iterator[str]:
    """Lines typed at a terminal, with history and completion of commands; Ctrl-D ends them, Ctrl-C clears one."""
    import sys

    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.output import create_output

    # The prompt goes to stderr: stdout carries answers only.
    completer = WordCompleter([*COMMANDS, "/bridge on", "/bridge off"], sentence=True)
    session: PromptSession[str] = PromptSession(completer=completer, output=create_output(sys.stderr))
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
