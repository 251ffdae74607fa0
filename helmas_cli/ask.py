"""Questions to the person at the terminal."""

from __future__ import annotations

import sys

from helmas_cli.ui import printable


def check_someone(where: str) -> None:
    """ConfigError off a terminal, where there is nobody to ask."""
    from helmas_core.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("nobody to ask", where=where, fix="give --yes")


def agreed(question: str, where: str) -> bool:
    """What a person answers; anything but yes is no."""
    check_someone(where)
    sys.stderr.write(f"{printable(question)} [y/N] ")  # typer's own question leaves a blank on stdout
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
