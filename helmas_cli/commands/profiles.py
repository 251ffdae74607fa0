"""`helmas profiles`: the shipped configurations, and what a configuration comes to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from helmas_cli import completion
from helmas_cli.examples import examples
from helmas_cli.options import Common, flag_tree, resolve, with_common
from helmas_cli.ui import Screen

app = typer.Typer(help="List the profiles, or show what one comes to.")
Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Name or file; else --profile, else the default.",
        show_default=False,
        autocompletion=completion.profiles,
    ),
]


@app.command("list", epilog=examples("profiles list"))
@with_common
def list_profiles(common: Common) -> int:
    """The shipped profiles, each with its pair."""
    from helmas_core.layering import DEFAULT_PROFILE, find_profile, profile_names, read_toml

    screen = Screen.of(common)
    rows = []
    for name in profile_names()[: common.limit]:
        path = find_profile(name)
        named = read_toml(path).get("pair", {})  # a method's profile names none: it goes over a pair's
        pair = {"teacher": named.get("teacher"), "student": named.get("student")}
        rows.append({"name": name, **pair, "default": name == DEFAULT_PROFILE, "about": about(path), "path": str(path)})
    if screen.json:
        screen.document({"schema": 1, "command": "profiles list", "profiles": rows})
        return 0
    names = [row["name"] + (" (default)" if row["default"] else "") for row in rows]
    pairs = [(row["teacher"] or "any", row["student"] or "any") for row in rows]
    table = [[name, *pair, row["about"]] for name, pair, row in zip(names, pairs, rows, strict=True)]
    screen.table(("profile", "teacher", "student", "about"), table, left=True)
    return 0


def about(path: Path) -> str:
    """The first comment line of a profile."""
    from helmas_core.foreign import PROFILE, read_text

    first = read_text(path, PROFILE).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


@app.command("show", epilog=examples("profiles show"))
@with_common
def show_profile(common: Common, name: Name = None) -> int:
    """Every key of the configuration that the profiles, --set and flags come to, as TOML."""
    from dataclasses import replace

    screen = Screen.of(common)
    if name:
        common = replace(common, profile=[name, *common.profile])
    config = resolve(common, flag_tree(common, "data")).model_dump(mode="json")
    if screen.json:
        screen.document(config)
    else:
        screen.print(to_toml(config), end="")
    if common.out:
        from helmas_core.json_files import write_text

        write_text(common.out.expanduser() / "profile.toml", to_toml(config))
    return 0


def to_toml(tree: Mapping[str, Any], name: str = "") -> str:
    """`tree` as TOML: plain keys first, then tables; None has no spelling there and is left out."""
    plain = [(key, value) for key, value in tree.items() if value is not None and not isinstance(value, Mapping)]
    text = f"[{name}]\n" if name and plain else ""
    text += "".join(f"{_key(key)} = {_value(value)}\n" for key, value in plain)
    tables = [
        to_toml(value, f"{name}.{_key(key)}" if name else _key(key))
        for key, value in tree.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join(filter(None, [text, *tables]))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
