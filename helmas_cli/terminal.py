"""Lines typed at a terminal: history, completion, messages of several lines. Imported only when someone types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output

from helmas_cli.repl import COMMANDS, FILES, MORE
from helmas_core.plain import harmless
from helmas_core.transcript import KEYS

_WORDS = [*COMMANDS, "/bridge on", "/bridge off", *(f"/set {key} " for key in KEYS)]


class DiscreetHistory(FileHistory):
    """Lines in a file, but for those that begin with a space."""

    def append_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().append_string(string)


class Completions(Completer):
    """Commands, their words, and paths after the commands that take a file."""

    def __init__(self) -> None:
        self.words, self.paths = WordCompleter(_WORDS, sentence=True), PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        name, space, rest = document.text_before_cursor.partition(" ")
        if name in FILES and space:
            found = self.paths.get_completions(Document(rest), complete_event)
            return (one for one in found if all(map(harmless, one.text)))  # a file's name would be typed as it is
        return self.words.get_completions(document, complete_event)


def history_file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("helmas") / "chat-history"


def open_history(wanted: bool, note: Callable[[str], None]) -> History:
    """The history of this and earlier conversations, in a file that only its owner reads; else of this one."""
    path = history_file()
    if not wanted:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            return DiscreetHistory(str(path))
    except OSError as error:
        note(f"no history: {path}: {error.strerror}")
        return InMemoryHistory()


def typed_lines(history: History) -> Iterator[str]:
    """Messages typed at a terminal; Ctrl-D ends them, Ctrl-C clears one."""
    # The prompt goes to stderr: stdout carries answers only.
    output = create_output(sys.stderr)
    session: PromptSession[str] = PromptSession(completer=Completions(), output=output, history=history)
    while True:
        try:
            yield _message(session.prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _message(prompt: Callable[[str], str]) -> str:
    """One message: lines as long as they end in a backslash."""
    lines = [prompt("> ")]
    while lines[-1].rstrip().endswith(MORE):
        lines[-1] = lines[-1].rstrip().removesuffix(MORE)
        lines.append(prompt("… "))
    return "\n".join(lines)
