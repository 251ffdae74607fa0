"""What the store saves, as ratios measured in one run: `python bench/store.py --profile lab --items 320`.

The unit is reading all sources with both models, an epoch's cost without memory. Prints one JSON document; seconds are
medians, `cold` the one time that the store is filled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from helmas_core.handoff.packing import Form
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.shelf import Ids, Shelf
from helmas_core.handoff.states import States
from helmas_core.handoff.store import Store
from helmas_core.layering import load_config
from helmas_core.models.hardware import clock, resolve_hardware
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent


def epoch(pair: Pair, sources: Sequence[Ids], batch: int, store: Store | None, form: Form, fill: bool) -> float:
    """Seconds in which both models' states of all sources come by, batch after batch."""
    begin = clock(pair.device)
    for member in (pair.teacher, pair.student):
        states = States(member, pair.pad, 0.0, None if store is None else Shelf(store, pair, member, form))
        if fill:
            states.fill(sources, batch)
        for first in range(0, len(sources), batch):
            states.read(sources[first : first + batch])
    return clock(pair.device) - begin


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--items", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = load_config(options.profile, options.set)
    pair = load_pair(config, resolve_hardware(config))
    examples = prepare(config, pair, "train", options.items, 0, Silent())
    sources, batch = sorted({e.source for e in examples}, key=len), config.train.batch

    def median(store: Store | None, form: Form) -> float:
        return statistics.median(epoch(pair, sources, batch, store, form, False) for _ in range(options.repeats))

    plain = median(None, "model")
    found: dict[str, dict[str, float]] = {}
    for form in ("model", "bf16", "fp8"):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder), 1000.0)
            seconds = {"cold": epoch(pair, sources, batch, store, form, True), "warm": median(store, form)}
            ratios = {name: round(value / plain, 3) for name, value in seconds.items()}
            found[form] = {**ratios, "bytes_per_token": round(store.bytes() / sum(map(len, sources)))}
    facts = {"sources": len(sources), "tokens": sum(map(len, sources)), "seconds to read them": round(plain, 3)}
    print(json.dumps({**facts, "ratio to reading": found}, indent=2))


if __name__ == "__main__":
    main()
