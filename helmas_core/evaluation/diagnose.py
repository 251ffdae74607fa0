"""The figures of `inspect-cache` for a report: by layer, means over the first items of the split that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.evaluation.inspect import Subject, compare, make_caches, matrices, sides_of
from helmas_core.handoff.prepare import prepare
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress

ITEMS = 4


@torch.no_grad()
def diagnose(config: Config, pair: Pair, bridge: Bridge, progress: Progress, count: int = ITEMS) -> dict[str, Any]:
    """{n, layers, heads, mass, blend, gate}: means over up to `count` items. `layers` are rows as in `inspect-cache`,
    `heads` [Ls][Hs] rows likewise, `mass` [Ls][Hq] the share of the student's attention on what was injected."""
    examples = prepare(config, pair, config.eval.split, count, config.train.seed, progress)[:count]
    progress.start("diagnose", len(examples))
    rows, masses = [], []
    for done, example in enumerate(examples, 1):
        subject = Subject.of(example)
        caches = make_caches(pair, bridge, subject)
        sides = sides_of(pair, bridge, caches, subject)
        rows.append(compare(pair, bridge, caches, subject, sides))
        masses.append([layer["query_heads"] for layer in sides["bridged"]["layers"]])
        progress.update(done)
    progress.finish()
    layers = [mean_row(layer) for layer in zip(*rows, strict=True)]
    heads = [
        [mean_row(head) for head in zip(*(r["heads"] for r in layer), strict=True)] for layer in zip(*rows, strict=True)
    ]
    mass = torch.tensor(masses).mean(0).tolist()
    return {"n": len(examples), "layers": layers, "heads": heads, "mass": mass, **matrices(bridge)}


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every figure, None where one is missing; the numbers of layer and head stay as they are."""
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    return {name: rows[0][name] if name in ("layer", "head") else _mean([row[name] for row in rows]) for name in names}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if len(known) == len(values) else None
