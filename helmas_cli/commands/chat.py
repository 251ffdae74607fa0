"""`helmas chat`: talk to the student, with the teacher's cache handed over every turn."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli.options import Common, Handoff, MaybeBridge, flag_tree, resolve
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.config import Config

LINE = 2**20  # most characters of a piped line
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="What both models are told first.")]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One question, one answer, no talk.")]
History = Annotated[bool, typer.Option("--history/--no-history", help="Keep typed lines for the next time.")]


def chat(
    common: Common,
    bridge: MaybeBridge = None,
    handoff: Handoff = None,
    system: System = "",
    prompt: Prompt = None,
    history: History = True,
) -> int:
    """Chat with the student over a bridge, or alone without one. Piped input: one turn per line; /help lists more."""
    from helmas_cli.load import open_bridge
    from helmas_core.errors import ConfigError

    if prompt is not None and not prompt.strip():
        raise ConfigError("nothing is asked", where="--prompt", fix="give a question")
    screen, flags = Screen.of(common), flag_tree(common, "eval", data__handoff=handoff)
    path, config = open_bridge(common, flags, bridge) if bridge else (None, resolve(common, flags))
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "chat", config, bridge=path and str(path))
    interactive = prompt is None and sys.stdin.isatty()
    lines = [f" {_whole(prompt)}"] if prompt is not None else _typed(history, screen) if interactive else _piped()
    repl, facts = _open(config, path, system, screen, interactive)
    try:
        repl.run(lines)
    finally:  # an error or Ctrl-C leaves what was said
        _finish({**facts, "turns": repl.turns}, common, screen)
    return 0


def _open(config: Config, path: Path | None, system: str, screen: Screen, interactive: bool) -> Any:
    from helmas_cli.load import check_machine, open_pair
    from helmas_cli.repl import Repl

    pair = open_pair(config, check_machine(config, screen), screen)
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.conversation import Conversation

    conversation = Conversation(config, pair, load_bridge(path, pair) if path else None, screen.note)
    conversation.system = _whole(system).strip()
    if interactive:
        screen.note("/help lists the commands, Ctrl-D leaves")
    facts = {"schema": 1, "command": "chat", "pair": pair.describe(), "bridge": path and str(path)}
    return Repl(conversation, screen, has_bridge=path is not None, interactive=interactive), facts


def _typed(history: bool, screen: Screen) -> Iterable[str]:
    from helmas_cli.terminal import open_history, typed_lines

    return typed_lines(open_history(history, screen.note))


def _piped() -> Iterator[str]:
    """Standard input line by line, whatever bytes it holds; DataError for a line that does not end."""
    from helmas_core.errors import DataError

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while line := sys.stdin.readline(LINE + 1):
        if len(line) > LINE:
            raise DataError(f"a line of more than {LINE:,} characters", where="stdin", fix="ask for less at once")
        yield line


def _whole(text: str) -> str:
    """What was given as an argument, of which bytes that are no UTF-8 are half characters, as text."""
    return text.encode("utf-8", "replace").decode()


def _finish(document: dict[str, Any], common: Common, screen: Screen) -> None:
    if screen.json:
        screen.document(document)
    if common.out:
        from helmas_core.json_files import write_json

        write_json(common.out.expanduser() / "chat.json", document)
