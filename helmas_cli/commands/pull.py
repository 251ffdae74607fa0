"""`helmas pull`: fetch a shared bridge from the hub or from a folder."""

from __future__ import annotations

from pathlib import Path

from helmas_cli.options import Common, Repo, Revision
from helmas_cli.ui import Screen, size


def pull(common: Common, repo: Repo, revision: Revision = None) -> int:
    """Fetch a shared bridge to --out, else runs/NAME. Nothing in it is executed, and only its own files are taken."""
    from helmas_cli.load import calm_libraries, place_of
    from helmas_core.runs import ROOT

    screen = Screen.of(common)
    calm_libraries(screen)
    place = place_of(repo, revision)
    out = common.out.expanduser() if common.out else ROOT / place.name
    if common.dry_run:
        return _finish(screen, place.address, out, {"dry_run": True})
    from helmas_core.sharing.folder import arriving

    with arriving(out) as staged:
        commit = place.fill(staged)
    return _finish(screen, place.address, out, {"commit": commit})


def _finish(screen: Screen, source: str, out: Path, outcome: dict[str, object]) -> int:
    from helmas_core.sharing.folder import sizes

    files = [] if "dry_run" in outcome else [{"name": name, "bytes": count} for name, count in sizes(out).items()]
    if screen.json:
        head = {"schema": 1, "command": "pull", "source": source, "folder": str(out)}
        screen.document({**head, "files": files, **outcome})
    elif "dry_run" in outcome:
        screen.print(f"{source} to {out}")
    else:
        screen.print(str(out))
        screen.note(f"{len(files)} files, {size(sum(sizes(out).values()))}; helmas chat --bridge {out}")
    return 0
