"""`helmas doctor`: is this pair bridgeable, and what will it cost?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helmas_cli.options import Common, flag_tree, resolve
from helmas_cli.ui import Screen


def doctor(common: Common) -> int:
    """Check a pair before any weights are read: problems, geometry, bridge size, KV bytes, memory."""
    screen = Screen.of(common)
    config = resolve(common, flag_tree(common, "data"))
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "doctor", config)
    from helmas_cli.load import calm_libraries

    calm_libraries(screen)
    from helmas_core.models.doctor import diagnose

    document = diagnose(config)
    if screen.json:
        screen.document(document)
    else:
        _show(screen, document)
    if common.out:
        from helmas_core.json_files import write_json

        write_json(common.out.expanduser() / "doctor.json", document)
    return 0 if document["ok"] else 1


def _show(screen: Screen, document: Mapping[str, Any]) -> None:
    screen.print("this pair can be bridged" if document["ok"] else "this pair cannot be bridged")
    for problem in document["problems"]:
        screen.print(f"- {problem['where']}: {problem['what']} — {problem['fix']}")
    facts = {key: value for key, value in document.items() if key not in ("schema", "command", "ok", "problems")}
    screen.pairs(dict(_flat(facts)))


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested figures as dotted names with readable values."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{key}.")
        else:
            rows.append((before + key, _readable(value)))
    return rows


def _readable(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 1e5 else f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
