"""An `inspect-cache` document as one HTML file. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helmas_core.evaluation import figures as draw
from helmas_core.json_files import write_text
from helmas_core.report import tables
from helmas_core.report.document import Picture, diagnostic_pictures
from helmas_core.report.html import render

Found = Mapping[str, Any]
_SIDES = {"teacher": "The teacher's cache", "own": "The student's own cache", "bridged": "The bridged cache"}


def inspection(found: Found, against: str = "") -> str:
    """The whole page; `against` names what the cache was compared with."""
    return render(
        "inspect.html",
        found=found,
        facts=_facts(found),
        tokens={_SIDES[name]: _shaded(found, mass) for name, mass in found["token_mass"].items()},
        pictures=list(_pictures(found)),
        heads=_heads(found),
        sides={_SIDES[name]: tables.layers_table(rows) for name, rows in found["sides"].items()},
        against=against,
    )


def write_page(found: Found, path: Path, against: str = "") -> Path:
    write_text(path, inspection(found, against))
    return path


def write_figures(found: Found, path: Path) -> list[Path]:
    """Each figure in a file of its own beside `path`: NAME-k.png, NAME-v.png (blend weights), NAME-rank.png …"""
    made = []
    for picture in _pictures(found):
        name = picture.name.removesuffix("-inspect").removeprefix("blend-")
        made.append(path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}"))
        draw.save(picture.figure, made[-1])
    return made


def _facts(found: Found) -> dict[str, str]:
    residual = ", ".join(f"{side} {value:.2g}" for side, value in found["rope_residual"].items())
    known = {
        "item": found.get("item"),
        "tokens": str(found["tokens"]),
        "query": found["query"],
        "RoPE residual": residual,
    }
    return {**tables.facts(found), **{name: value for name, value in known.items() if value}}


def _shaded(found: Found, masses: list[float]) -> list[tuple[str, str, str]]:
    """(token, its share of the largest mass, the mass in per cent); nothing where positions are not tokens."""
    if len(masses) != len(found["tokens_read"]):
        return []
    top = max(masses, default=0.0) or 1.0
    return [(w, f"{m / top:.3f}", f"{100 * m:.2f} %") for w, m in zip(found["tokens_read"], masses, strict=True)]


def _heads(found: Found) -> tables.Table:
    rows = [(row["layer"], head) for row in found["layers"] for head in row["heads"]]
    keys = ("k_cosine", "v_cosine", "attention_cosine", "k_rms_ratio", "v_rms_ratio")
    head = ["layer.head", "K cosine", "V cosine", "attention output cosine", "K RMS ratio", "V RMS ratio"]
    return head, [[f"{at}.{one['head']}", *(tables.number(one.get(key)) for key in keys)] for at, one in rows]


def _pictures(found: Found) -> Iterator[Picture]:
    shown = found["sides"].get("bridged")
    mass = [row["query_heads"] for row in shown] if shown else None
    yield from diagnostic_pictures({**found, "mass": mass}, "inspect")
    if found["layers"] and found["layers"][0]["heads"] and found["layers"][0]["heads"][0].get("k_cosine") is not None:
        for key, words in (("k_cosine", "Key"), ("v_cosine", "Value")):
            matrix = [[head[key] for head in row["heads"]] for row in found["layers"]]
            figure = draw.matrix_figure(matrix, f"{words} cosine to own", "KV head", "student layer", 1.0)
            yield Picture(f"{key}-inspect", f"{words} cosine to the student's own cache, by layer and KV head.", figure)
