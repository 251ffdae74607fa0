"""`helmas inspect-cache`: what the bridge makes of a teacher's cache, layer by layer and position by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helmas_cli import completion
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
    "mass": "attn mass",
    "mass_own": "own",
}
_POSITION_COLUMNS = ("position", "token", "attention", "nearest own tokens", "lens, last layer")
ReadText = Annotated[
    str | None, typer.Option("--prompt", "--text", metavar="TEXT", help="What the teacher reads; else a test item.")
]
Item = Annotated[str | None, typer.Option("--item", metavar="ID", help="An item of --dataset, by its id.")]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="OTHER",
        help="Compare with another bridge, or another item's cache.",
        autocompletion=completion.bridges,
    ),
]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Figures, as FILE-k.png and so on.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="One page with everything in it.")]


def inspect_cache(
    common: Common,
    bridge: MaybeBridge = None,
    text: ReadText = None,
    item: Item = None,
    against: Against = None,
    png: Png = None,
    html: Html = None,
    handoff: Handoff = None,
) -> int:
    """The teacher's, the student's own and the bridged cache side by side: by layer, head and position."""
    from helmas_cli.load import open_bridge

    screen, flags = Screen.of(common), flag_tree(common, "eval", data__handoff=handoff)
    path, config = open_bridge(common, flags, bridge) if bridge else (None, resolve(common, flags))
    _check(text, item, against, path)
    if common.dry_run:
        from helmas_cli.plan import show_plan

        return show_plan(screen, "inspect-cache", config, bridge=path and str(path))
    document = _inspect(config, path, Asked(text, item, _bridge_or_item(against, screen)), screen)
    if screen.json:
        screen.document(document)
    else:
        _show(screen, document)
    _write(screen, document, common.out, png, html, against or "")
    return 0


@dataclass(frozen=True)
class Asked:
    """What to look at, and what with: a bridge's file or an item's id."""

    text: str | None
    item: str | None
    against: Path | str | None


def _check(text: str | None, item: str | None, against: str | None, bridge: Path | None) -> None:
    from helmas_core.errors import ConfigError

    if text is not None and item is not None:
        raise ConfigError("a text and an item exclude each other", where="--prompt", fix="give one of them")
    if against is not None and bridge is None:
        raise ConfigError("a comparison needs a bridge", where="--against", fix="give --bridge PATH")


def _bridge_or_item(against: str | None, screen: Screen) -> Path | str | None:
    """The bridge's file where `against` is one, or is named like one; else an item's id."""
    from helmas_cli.load import bridge_file
    from helmas_core.sharing.address import shared_bridge

    if against is None:
        return None
    path = Path(against).expanduser()
    named = path.exists() or path.suffix == ".safetensors" or shared_bridge(against) is not None
    return bridge_file(against, screen) if named else against


def _inspect(config: Config, path: Path | None, asked: Asked, screen: Screen) -> dict[str, Any]:
    from helmas_cli.load import check_machine, open_pair

    pair = open_pair(config, check_machine(config, screen), screen)
    from helmas_core.bridges.artefact import load_bridge
    from helmas_core.evaluation.inspect import inspect_cache

    bridge = load_bridge(path, pair) if path else None
    against = load_bridge(asked.against, pair) if isinstance(asked.against, Path) else asked.against
    return inspect_cache(config, pair, bridge, asked.text, asked.item, against)


def _show(screen: Screen, document: Mapping[str, Any]) -> None:
    residual = document["rope_residual"]
    sides = ", ".join(f"{side} {value:.2g}" for side, value in residual.items())
    screen.print(f"{document['tokens']} tokens; RoPE residual: {sides}")
    _layers(screen, document["layers"])
    if document.get("positions"):
        rows = map(_position, document["positions"])
        screen.table(_POSITION_COLUMNS, rows, "the positions that get the most attention", left=True)
    if document.get("against"):
        _layers(screen, document["against"]["layers"], "beside the other cache")
    for note in document.get("notes", []):
        screen.note(note)
    for name, matrix in (document["blend"] or {}).items():
        screen.heat_map(matrix, f"{name.upper()} blend weights")
    for name, rows in document.get("teachers", {}).items():
        head = ["layer", *(f"teacher {place}" for place in range(1, len(rows[0]) + 1))]
        cells = [[str(layer), *map(number, shares)] for layer, shares in enumerate(rows)]
        screen.table(head, cells, f"{name.upper()} gates")


def _layers(screen: Screen, layers: Sequence[Mapping[str, Any]], title: str = "") -> None:
    known = {key: head for key, head in _COLUMNS.items() if any(row.get(key) is not None for row in layers)}
    rows = [[str(row["layer"]), *(number(row.get(key)) for key in list(known)[1:])] for row in layers]
    screen.table(list(known.values()), rows, title)


def _position(row: Mapping[str, Any]) -> list[str]:
    """Its token, the share of attention, the likest tokens, and what its value says in the last layer."""
    near = ", ".join(f"{_quoted(one['token'])} {number(one['cosine'])}" for one in row["nearest"])
    said = " ".join(map(_quoted, row["lens"][-1])) if row["lens"] else ""
    return [str(row["position"]), _quoted(row["token"]), f"{100 * row['mass']:.1f} %", near, said]


def _quoted(token: str) -> str:
    return repr(token)[1:-1] if token.strip() else repr(token)


def _write(
    screen: Screen, document: Mapping[str, Any], out: Path | None, png: Path | None, html: Path | None, against: str
) -> None:
    """inspect.json, inspect.html and figures/ in the run folder, and the files asked for by name."""
    if not (out or png or html):
        return
    from helmas_core.json_files import write_json
    from helmas_core.report.inspection import write_figures, write_page
    from helmas_core.runs import check_links

    made: list[Path] = []
    if out:
        out = out.expanduser()
        check_links(out)
        write_json(out / "inspect.json", document)
        made += [out / "inspect.json", write_page(document, out / "inspect.html", against)]
        made += write_figures(document, out / "figures" / "inspect.png")
    if html:
        made.append(write_page(document, html.expanduser(), against))
    if png:
        made += write_figures(document, png.expanduser())
        if not document["blend"]:
            screen.note(f"no blend weights in {png}: this bridge has none")
    for path in made:
        screen.note(f"wrote {path}")
