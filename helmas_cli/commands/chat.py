"""`helmas chat`: talk to the student, with the teacher's cache handed over every turn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helmas_cli.options import Common, Handoff, MaybeBridge, flag_tree, resolve
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.config import Config


def chat(common: Common, bridge: MaybeBridge = None, handoff: Handoff = None) -> int:
    """Chat with the student over a bridge, or alone without one. Piped input: one turn per line."""
    from helmas_cli.load import open_bridge

    screen, flags = Screen.of(common), flag_tree(common, "eval", data__handoff=handoff)
    path, config = open_bridge(common, flags, bridge) if bridge else (None, resolve(common, flags))
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "chat", config, bridge=path and str(path))
    document = _talk(config, path, screen)
    if screen.json:
        screen.document(document)
    if common.out:
        from helmas_core.runs import write_json

        write_json(common.out.expanduser() / "chat.json", document)
    return 0


def _talk(config: Config, path: Path | None, screen: Screen) -> dict[str, Any]:
    from helmas_cli.load import check_machine, open_pair
    from helmas_cli.repl import Repl, typed_lines

    pair = open_pair(config, check_machine(config, screen), screen)
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.conversation import Conversation

    conversation = Conversation(config, pair, load_bridge(path, pair) if path else None)
    interactive = sys.stdin.isatty()
    if interactive:
        screen.note("/help lists the commands, Ctrl-D leaves")
    repl = Repl(conversation, screen, has_bridge=path is not None, interactive=interactive)
    turns = repl.run(typed_lines() if interactive else sys.stdin)
    return {"schema": 1, "command": "chat", "pair": pair.describe(), "bridge": path and str(path), "turns": turns}
