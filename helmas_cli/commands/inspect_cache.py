"""`helmas inspect-cache`: what the bridge makes of a teacher's cache, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli.options import Common, Handoff, MaybeBridge, flag_tree, resolve
from helmas_cli.report import number
from helmas_cli.ui import Screen

if TYPE_CHECKING:
    from helmas_core.config import Config

_COLUMNS = {
    "layer": "layer",
    "k_norm": "K norm",
    "k_norm_own": "own",
    "v_norm": "V norm",
    "v_norm_own": "own",
    "k_rank": "K rank",
    "v_rank": "V rank",
    "k_cosine": "K cos",
    "v_cosine": "V cos",
    "attention_cosine": "attn cos",
}
ReadText = Annotated[
    str | None, typer.Option("--text", metavar="TEXT", help="What the teacher reads; else a test item.")
]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Blend weights as a heat map.")]


def inspect_cache(
    common: Common, bridge: MaybeBridge = None, text: ReadText = None, png: Png = None, handoff: Handoff = None
) -> int:
    """Norms, effective ranks and cosines of the bridged cache against the student's own, and the blend weights."""
    from helmas_cli.load import open_bridge

    screen, flags = Screen.of(common), flag_tree(common, "eval", data__handoff=handoff)
    path, config = open_bridge(common, flags, bridge) if bridge else (None, resolve(common, flags))
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "inspect-cache", config, bridge=path and str(path))
    document = _inspect(config, path, text, screen)
    if screen.json:
        screen.document(document)
    else:
        _show(screen, document)
    _write(screen, document, common.out and common.out.expanduser(), png and png.expanduser())
    return 0


def _inspect(config: Config, path: Path | None, text: str | None, screen: Screen) -> dict[str, Any]:
    from helmas_cli.load import check_machine, open_pair

    pair = open_pair(config, check_machine(config, screen), screen)
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.evaluation.inspect import inspect_cache

    return inspect_cache(config, pair, load_bridge(path, pair) if path else None, text)


def _show(screen: Screen, document: Mapping[str, Any]) -> None:
    residual = document["rope_residual"]
    sides = ", ".join(f"{side} {value:.2g}" for side, value in residual.items())
    screen.print(f"{document['tokens']} tokens; RoPE residual: {sides}")
    columns = {
        key: head for key, head in _COLUMNS.items() if any(row.get(key) is not None for row in document["layers"])
    }
    rows = [[str(row["layer"]), *(number(row.get(key)) for key in list(columns)[1:])] for row in document["layers"]]
    screen.table(list(columns.values()), rows)
    for name, matrix in (document["blend"] or {}).items():
        screen.heat_map(matrix, f"{name.upper()} blend weights")


def _write(screen: Screen, document: Mapping[str, Any], out: Path | None, png: Path | None) -> None:
    if out:
        from helmas_core.runs import write_json

        write_json(out / "inspect.json", document)
        screen.note(f"wrote {out / 'inspect.json'}")
    for name, path in _pictures(document, out, png).items():
        from helmas_core.evaluation.figures import heat_map

        path.parent.mkdir(parents=True, exist_ok=True)
        heat_map(document["blend"][name], f"{name.upper()} blend weights", "teacher layer", "student layer", path)
        screen.note(f"wrote {path}")
    if png and not document["blend"]:
        screen.note(f"no {png}: this bridge has no blend weights")


def _pictures(document: Mapping[str, Any], out: Path | None, png: Path | None) -> dict[str, Path]:
    """The file of each blend matrix: FILE-k.png and FILE-v.png, or figures/blend-….png in the run folder."""
    base = png or (out and out / "figures" / "blend.png")
    names = list(document["blend"] or {})
    return {name: base.with_name(f"{base.stem}-{name}{base.suffix or '.png'}") for name in names} if base else {}
