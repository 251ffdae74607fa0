"""The tables of a report, as text cells: the same in Markdown and HTML. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from helmas_core.runs import flat
from helmas_core.sides import described

Record = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]  # header and rows
_LAYERS = {
    "layer": "layer",
    "k_cosine": "K cosine",
    "v_cosine": "V cosine",
    "attention_cosine": "attention output cosine",
    "k_rms_ratio": "K RMS ratio",
    "v_rms_ratio": "V RMS ratio",
    "k_norm": "K norm",
    "v_norm": "V norm",
    "k_rank": "K rank",
    "k_rank_own": "K rank, own",
    "v_rank": "V rank",
    "v_rank_own": "V rank, own",
    "mass": "attention on the span",
    "mass_own": "the same, own cache",
}


def number(value: Any, sign: str = "") -> str:
    """.983, 1.250, 38.2, 1,234; counts as they are; – for what is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if isinstance(value, int):
        return f"{value:{sign},}"
    places = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{sign},.{places}f}")


def spread(row: Record, sign: str = "") -> str:
    """A figure's interval, [.971, .997]."""
    low, high = row.get("ci") or (None, None)
    return f"[{number(low, sign)}, {number(high, sign)}]"


def arms_table(report: Record) -> Table:
    keys = ("n", "unparsed", "truncated", "seconds_p50", "seconds_p95", "tokens_per_second")
    head = ["arm", "accuracy", "95 %", "n", "unparsed", "cut off", "s p50", "s p95", "tokens/s"]
    rows = [
        [name, number(arm["accuracy"]), spread(arm), *(number(arm.get(key)) for key in keys)]
        for name, arm in report["arms"].items()
    ]
    return head, rows


def contrasts_table(report: Record) -> Table:
    rows = [
        [name, number(row.get("delta"), "+"), spread(row, "+"), chance(row.get("p"))]
        for name, row in (report.get("contrasts") or {}).items()
    ]
    return ["contrast", "difference", "95 %", "p"], rows


def chance(value: Any) -> str:
    """A p value; tiny ones are below what a table shows."""
    return "< .001" if isinstance(value, float) and value < 0.0005 else number(value)


def category_table(groups: Sequence[tuple[str, int, Mapping[str, float]]]) -> Table:
    arms = list(groups[0][2]) if groups else []
    return ["category", "n", *arms], [[name, str(n), *(number(s.get(a)) for a in arms)] for name, n, s in groups]


def layers_table(layers: Sequence[Record]) -> Table:
    """The columns that any row has a figure for."""
    known = {key: head for key, head in _LAYERS.items() if any(row.get(key) is not None for row in layers)}
    return list(known.values()), [[number(row.get(key)) for key in known] for row in layers]


def costs_table(costs: Record | None) -> Table:
    """Whatever a cost ledger holds: a row per arm, a column per figure that any has, nested names joined by dots."""
    rows = {arm: flat(parts) for arm, parts in (costs or {}).items() if isinstance(parts, Mapping)}
    names = list(dict.fromkeys(name for row in rows.values() for name, value in row.items() if value is not None))
    head = ["arm", *(name.replace("_", " ") for name in names)]
    return head, [[arm, *(number(row.get(name)) for name in names)] for arm, row in rows.items()]


def verdict_of(report: Record) -> str:
    """The evaluation's own words, if it has any."""
    found = report.get("verdict")
    return str(found.get("text") or "") if isinstance(found, Mapping) else str(found or "")


def facts(report: Record) -> dict[str, str]:
    """Who was measured, and how."""
    pair, bridge, manifest = (report.get(key) or {} for key in ("pair", "bridge", "manifest"))
    sides = {side.replace("_", " "): _member(model) for side, model in described(pair).items()}
    made = f"{bridge['method']}, {bridge.get('mode')}" if bridge.get("method") else None
    parameters = {key.replace("_", " "): n for key, n in bridge.items() if key.endswith("parameters")}
    wanted = ("seed", "batch", "handoff", "reasoning", "cut_last_step", "reuse")
    how = {key.replace("_", " "): manifest.get(key) for key in wanted}
    versions = manifest.get("versions") or {}
    software = ", ".join(f"{name} {versions[name]}" for name in ("helmas", "torch", "transformers") if name in versions)
    harness = report.get("harness") or {}
    counted = ", ".join(sorted(set((harness.get("metrics") or {}).values())))
    task = {"lm-eval": harness.get("lm_eval"), "counted by": counted}
    found = {name: report.get(name) or {} for name in ("alignment", "overlap")}
    shown = {name: str(value) for name, value in flat(found).items()}
    rows = {**sides, "bridge": made, **parameters, **how, **shown, **task, "software": software}
    return {
        name: number(value) if not isinstance(value, str) else value
        for name, value in rows.items()
        if value not in (None, "")
    }


def _member(side: Record) -> str:
    shape = f"{side.get('layers')} layers, {side.get('kv_heads')} KV heads of {side.get('head_dim')}"
    return f"{side.get('id')} ({shape}, {number(side.get('parameters'))} parameters)"
