"""The help of every command, as a terminal of eighty columns shows it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from unittest.mock import patch

import typer
from typer.core import TyperGroup

from helmas_cli.app import app, main

PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}


def command_names() -> list[str]:
    """Every command as it is typed, those of groups too."""
    return list(_names(typer.main.get_command(app)))


def _names(group: object, before: str = "") -> Iterator[str]:
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _names(command, f"{before}{name} ")
        else:
            yield before + name


def help_of(command: str) -> str:
    """What `helmas COMMAND --help` prints, without the blanks at the ends of lines."""
    shown = io.StringIO()
    with patch.dict(os.environ, PLAIN), redirect_stdout(shown):
        main([*command.split(), "--help"])
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines()).strip("\n")


def commands() -> str:
    return "\n\n".join(f"## helmas {name}\n```text\n{help_of(name)}\n```" for name in command_names())
