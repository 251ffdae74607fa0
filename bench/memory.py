"""What the host's memory does: over a long chat, and in a training against what `helmas doctor` plans for it.

`python -m bench.memory chat` and `python -m bench.memory train`, on the lab pair.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from helmas_core.bridges.registry import build_bridge
from helmas_core.conversation import Conversation
from helmas_core.layering import load_config
from helmas_core.models.doctor import diagnose
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.loop import memory_gib
from helmas_core.training.session import train_bridge

MIB = 2**20
SAID = "Seat numbers: Kara 412, Tona {}, Lami 205. Answer: Tona"


def resident() -> float:
    """MiB of this process that lie in memory now."""
    return psutil.Process().memory_info().rss / MIB


def chat(pair: Pair, turns: int, reset_every: int | None) -> list[tuple[float, float]]:
    """(resident, held by the talk's caches) in MiB after every turn."""
    config = load_config(["lab"], ["eval.max_new_tokens=4"])
    torch.manual_seed(0)
    talk, found = Conversation(config, pair, build_bridge(config.bridge, pair)), list[tuple[float, float]]()
    for turn in range(turns):
        if reset_every and turn % reset_every == 0:
            talk.reset()
        talk.ask(SAID.format(100 + turn))
        gc.collect()
        found.append((resident(), sum(talk.bytes().values()) / MIB))
    return found


def told(name: str, found: Sequence[tuple[float, float]], part: int = 50) -> str:
    """The first and the last turns; the growth that the caches do not explain should be none."""
    (first, held), (last, kept) = (
        (statistics.mean(column) for column in zip(*rows, strict=True)) for rows in (found[:part], found[-part:])
    )
    growth = (last - first) - (kept - held)
    return (
        f"{name}: resident {first:.0f} MiB over the first {part} turns, {last:.0f} over the last; caches {held:.1f} "
        f"and {kept:.1f}; beyond them {growth:+.1f} MiB in {len(found)} turns"
    )


def train(pair: Pair, loaded: float) -> str:
    config = load_config(["lab"], ["train.steps=20", "train.eval_samples=10", "data.limit=200"])
    plan = diagnose(config)["needed_gib"]["host"]
    with tempfile.TemporaryDirectory() as folder:
        train_bridge(config, pair, create_run(Path(folder) / "run", config), Silent())
    peak = memory_gib(pair.device)
    return f"train: planned {plan:.3f} GiB; peak {peak:.3f} GiB, of which {loaded / 1024:.3f} before the models"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("what", choices=["chat", "train"])
    parser.add_argument("--turns", type=int, default=500)
    given = parser.parse_args()
    config = load_config(["lab"])
    hardware = resolve_hardware(config)
    loaded = resident()
    pair = load_pair(config, hardware)
    if given.what == "train":
        print(train(pair, loaded))
        return
    print(told("a talk begun anew every 10 turns", chat(pair, given.turns, 10)), flush=True)
    print(told("one talk", chat(pair, given.turns, None)))


if __name__ == "__main__":
    main()
