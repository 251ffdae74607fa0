"""The chat loop: lines in, answers out. It knows neither models nor terminals, so a transcript can drive it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from helmas_cli.report import number
from helmas_cli.ui import Screen
from helmas_core.errors import ConfigError, HelmasError, did_you_mean
from helmas_core.transcript import KEYS, Settings

MORE = "\\"
FILES = ("/save", "/load")
HELP = {
    "/help": "these commands",
    "/bridge on|off": "hand the teacher's cache over, or let the student answer alone",
    "/compare": "the last turn answered by each: student, bridge, teacher",
    "/inspect": "the last hand-off, layer by layer, against the student's own cache",
    "/set [KEY VALUE]": f"the settings, or one changed: {', '.join(KEYS)}",
    "/stats": "turns, tokens, seconds and memory so far",
    "/save FILE": "write the conversation down",
    "/load FILE": "go on from a conversation that was saved",
    "/undo": "take the last turn back",
    "/reset": "forget the conversation",
    "/quit": "leave",
}
COMMANDS = sorted({words.split()[0] for words in HELP})
_HINTS = (
    f"A line that ends in {MORE} goes on in the next one. Ctrl-C stops an answer; what was said stays.",
    "A line that begins with a space is a message like any other, and is not kept in the history.",
)
_COLUMNS = {"layer": "layer", "k_norm": "K norm", "k_norm_own": "own", "v_norm": "V norm", "v_norm_own": "own"}
_COLUMNS |= {"k_cosine": "K cos", "v_cosine": "V cos", "attention_cosine": "attn cos"}


class Answer(Protocol):
    text: str
    seconds: dict[str, float]
    tokens: int
    new: int
    kept: int
    stopped: bool


class Conversation(Protocol):
    bridged: bool
    settings: Settings

    def ask(self, text: str, on_token: Callable[[str], None]) -> Answer: ...
    def compare(self) -> dict[str, str]: ...
    def inspect(self) -> dict[str, Any]: ...
    def set(self, key: str, value: str) -> None: ...
    def bytes(self) -> dict[str, int]: ...
    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...
    def undo(self) -> str | None: ...
    def reset(self) -> None: ...


class Repl:
    """One conversation on one screen; `turns` is the record of all that was asked, taken back or not."""

    def __init__(self, conversation: Conversation, screen: Screen, has_bridge: bool, interactive: bool) -> None:
        self.conversation, self.screen = conversation, screen
        self.has_bridge, self.interactive = has_bridge, interactive
        self.turns: list[dict[str, Any]] = []

    def run(self, lines: Iterable[str]) -> list[dict[str, Any]]:
        """Answer message after message until they end or say /quit."""
        for text in messages(lines):
            if text == "/quit":
                break
            if text.strip():
                self._answer(text)
        return self.turns

    def _answer(self, text: str) -> None:
        """One message; at a terminal neither an error nor Ctrl-C ends the conversation."""
        try:
            self._command(text) if text.startswith("/") else self._ask(text.strip())
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
        turn = {"question": text, "answer": answer.text, "bridged": self.conversation.bridged}
        turn |= {"seconds": dict(answer.seconds), "tokens": answer.tokens, "stopped": answer.stopped}
        turn |= {"read": answer.new, "kept": answer.kept}
        self.turns.append(turn)
        who = "bridge" if self.conversation.bridged else "student alone"
        read = f"read {answer.new}, kept {answer.kept}"
        end = " · stopped" if answer.stopped else ""
        self.screen.note(f"{who} · {timings(answer.seconds, answer.tokens)} · {read}{end}")
        if answer.stopped and not self.interactive:
            raise KeyboardInterrupt

    def _show(self, piece: str) -> None:
        if not self.screen.json:  # then stdout is for the one document at the end
            self.screen.print(piece, end="")

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        match name, rest.split():
            case "/help", []:
                self.screen.note_lines([*(f"{command:<17} {what}" for command, what in HELP.items()), *_HINTS])
            case "/bridge", ["on" | "off" as state]:
                self._switch(state == "on")
            case "/compare", []:
                self._compare()
            case "/inspect", []:
                self._inspect()
            case "/set", []:
                self.screen.note_lines(f"{key:<17} {value}" for key, value in self.conversation.settings)
            case "/set", [key, value]:
                self.conversation.set(key, value)
                self.screen.note(f"{key} = {getattr(self.conversation.settings, key)}")
            case "/stats", []:
                self.screen.note(self._stats())
            case (("/save" | "/load"), [_, *_]):
                self._file(name, Path(rest.strip()).expanduser())
            case "/undo", []:
                self._undo()
            case "/reset", []:
                self.conversation.reset()
                self.screen.note("forgotten")
            case _:
                raise _unknown(name, text)

    def _switch(self, on: bool) -> None:
        if on and not self.has_bridge:
            raise ConfigError("there is no bridge to switch on", fix="start with helmas chat --bridge PATH")
        self.conversation.bridged = on
        self.screen.note(f"bridge {'on' if on else 'off'}")

    def _compare(self) -> None:
        answers = self.conversation.compare()
        if not answers:
            raise ConfigError("nothing to compare yet", fix="ask something first")
        if self.turns:  # none yet where the conversation was loaded
            self.turns[-1]["compare"] = answers
        for name, answer in answers.items():
            self._show(f"{name}: {answer}\n")

    def _inspect(self) -> None:
        document = self.conversation.inspect()
        if self.turns:
            self.turns[-1]["inspect"] = document
        if not self.screen.json:
            rows = [[number(row.get(key)) for key in _COLUMNS] for row in document["layers"]]
            self.screen.table(list(_COLUMNS.values()), rows)

    def _file(self, name: str, path: Path) -> None:
        if name == "/save":
            self.conversation.save(path)
            self.screen.note(f"saved to {path}")
        else:
            self.conversation.load(path)
            self.screen.note(f"going on from {path}, bridge {'on' if self.conversation.bridged else 'off'}")

    def _undo(self) -> None:
        question = self.conversation.undo()
        if question is None:
            raise ConfigError("nothing to take back", fix="ask something first")
        self.screen.note(f"taken back: {question}")

    def _stats(self) -> str:
        parts = {part for turn in self.turns for part in turn["seconds"]}
        seconds = {part: sum(turn["seconds"].get(part, 0.0) for turn in self.turns) for part in sorted(parts)}
        count, tokens = len(self.turns), self._total("tokens")
        held = " + ".join(f"{name} {size / 2**20:.1f}" for name, size in self.conversation.bytes().items())
        read = f"read {self._total('read')}, kept {self._total('kept')}"
        return f"{count} turn{'' if count == 1 else 's'} · {timings(seconds, tokens)} · {read} · caches {held} MiB"

    def _total(self, key: str) -> int:
        return sum(turn[key] for turn in self.turns)


def _unknown(name: str, text: str) -> ConfigError:
    usage = next((words for words in HELP if words.split()[0] == name), None)
    return ConfigError(f'cannot do "{text}"', fix=f"write {usage}" if usage else did_you_mean(name, COMMANDS))


def messages(lines: Iterable[str]) -> Iterator[str]:
    """Lines without their ends, each joined with the next where it ends in a backslash."""
    held: list[str] = []
    for line in lines:
        text = line.rstrip()
        held.append(text.removesuffix(MORE))
        if not text.endswith(MORE):
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def timings(seconds: Mapping[str, float], tokens: int) -> str:
    """prefill 0.12 s · generate 0.80 s · 21 tokens"""
    return " · ".join([*(f"{part} {value:.2f} s" for part, value in seconds.items()), f"{tokens} tokens"])
