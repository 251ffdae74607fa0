"""What the hand-off costs, as ratios measured in one run: `python bench/handoff.py --bridge runs/demo`.

The unit is the student reading the same source itself. Prints one JSON document; seconds are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from helmas_core.bridges.artefact import load_bridge, read_metadata
from helmas_core.config import load_config
from helmas_core.handoff.prepare import prepare
from helmas_core.models.cache import capture
from helmas_core.models.hardware import clock, resolve_hardware
from helmas_core.models.pair import load_pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent


def median_seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats):
        begin = clock(device)
        work()
        times.append(clock(device) - begin)
    return statistics.median(times)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bridge", type=Path, required=True, help="a run folder or a bridge.safetensors")
    parser.add_argument("--profile", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    path = options.bridge / "bridge.safetensors" if options.bridge.is_dir() else options.bridge
    config = load_config(options.profile, options.set, base=read_metadata(path)["config"])
    pair = load_pair(config, resolve_hardware(config))
    bridge = load_bridge(path, pair)
    source = list(prepare(config, pair, "validation", 2, 0, Silent())[0].source)
    inputs = pad_left([source], pair.pad, pair.device)
    state, own = (capture(member.model, *inputs) for member in (pair.teacher, pair.student))
    work: dict[str, Callable[[], object]] = {
        "student prefill": lambda: capture(pair.student.model, *inputs),
        "teacher prefill": lambda: capture(pair.teacher.model, *inputs),
        "bridge": lambda: bridge(state, own),
    }
    seconds = {name: median_seconds(run, options.repeats, pair.device) for name, run in work.items()}
    ratios = {name: round(value / seconds["student prefill"], 3) for name, value in seconds.items()}
    print(json.dumps({"tokens": len(source), "seconds": seconds, "ratio to student prefill": ratios}, indent=2))


if __name__ == "__main__":
    main()
