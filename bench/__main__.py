"""`python -m bench`: measure every ratio, write bench/results/NAME.{json,md}, and compare with what stands there.

python -m bench                                   the lab pair, a few minutes
python -m bench --teacher DIR --student DIR       another pair; NAME is --name, or the pair's
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import evaluation, gpu, handoff, harness, start, training
from bench.measure import Ratio, machine
from helmas_core.errors import HelmasError
from helmas_core.layering import load_config
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair

RESULTS = Path(__file__).parent / "results"


def measures(pair: Pair, repeats: int, curve: bool, dataset: str) -> dict[str, Callable[[], Iterator[Ratio]]]:
    few = max(1, repeats // 3)
    return {
        "handoff": lambda: handoff.against_prefill(pair, repeats, curve),
        "floor": lambda: handoff.against_floor(pair, repeats, curve),
        "answer": lambda: handoff.answer_time(pair, few),
        "step": lambda: training.step_over_passes(pair, repeats),
        "epoch": lambda: training.epoch_with_filled_store(pair, few),
        "batched": lambda: evaluation.batched(pair, few),
        "arms": lambda: evaluation.arms_at_once(pair, few, dataset),
        "harness": lambda: harness.against_harness(pair, few, dataset),
        "decode": lambda: gpu.decoding(pair, repeats),
        "mfu": lambda: gpu.utilisation(pair, repeats, dataset),
        "mfu-compiled": lambda: gpu.utilisation(pair, repeats, dataset, compiled=True),
        "start": lambda: start.command_line(repeats),
        "lab": lambda: start.lab_training(),
    }


def table(ratios: Sequence[Ratio], before: dict[str, Any]) -> list[str]:
    lines = ["| measure | ratio | spread | before | goal | met |", "|---|---|---|---|---|---|"]
    for ratio in ratios:
        old = before.get(ratio.name)
        goal = "" if ratio.goal is None else f"{'≤' if ratio.ceiling else '≥'} {ratio.goal:g}"
        met = {None: "", True: "yes", False: "**no**"}[ratio.met]
        cells = (
            f"{ratio.name}: {ratio.above} ÷ {ratio.below}{f' ({ratio.note})' if ratio.note else ''}",
            f"{ratio.median:.2f}",
            f"{min(ratio.repeats):.2f} – {max(ratio.repeats):.2f}",
            "" if old is None else f"{old:.2f}",
            goal,
            met,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write(name: str, where: dict[str, Any], ratios: Sequence[Ratio]) -> str:
    """Keep the figures, those of other measures as they stood; returns the table, each beside what it was before."""
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text())["ratios"] if path.exists() else []
    kept = {r["name"]: Ratio.read(r) for r in old} | {r.name: r for r in ratios}
    lines = table([*kept.values()], {r["name"]: r["ratio"] for r in old})
    RESULTS.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"schema": 1, **where, "ratios": [r.document() for r in kept.values()]}, indent=1) + "\n"
    )
    described = ", ".join(f"{key} {value}" for key, value in where.items())
    text = "\n".join([f"# {name}", "", described, "", *lines, ""])
    path.with_suffix(".md").write_text(text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios of speed, measured in one run.")
    parser.add_argument("--teacher", default="lab:teacher")
    parser.add_argument("--student", default="lab:student")
    parser.add_argument("--name", default="lab", help="file under bench/results")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--only",
        default="",
        help="comma-separated: handoff floor answer step epoch batched arms harness decode mfu mfu-compiled start lab",
    )
    parser.add_argument("--curve", action="store_true", help="hand-off at 64, 512 and 2,048 tokens, batch 1 and 8")
    parser.add_argument("--dataset", default="relay", help="what all arms, lm-eval's backend and we are asked")
    given = parser.parse_args()
    lab = given.teacher.startswith("lab:")
    sets = [f"pair.teacher={given.teacher}", f"pair.student={given.student}", f"hardware.device={given.device}"]
    try:
        config = load_config(["lab" if lab else "cpu"], sets)
        pair = load_pair(config, resolve_hardware(config))
    except HelmasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = measures(pair, given.repeats, given.curve, given.dataset)
    elsewhere = () if lab else ("start", "lab")
    elsewhere = elsewhere if pair.device.type == "cuda" else (*elsewhere, "decode", "mfu", "mfu-compiled")
    chosen = [name for name in given.only.split(",") if name] or [n for n in known if n not in elsewhere]
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown measure {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    ratios: list[Ratio] = []
    for name in chosen:
        for ratio in known[name]():
            print(f"{ratio.name}: {ratio.median:.2f}", file=sys.stderr, flush=True)
            ratios.append(ratio)
    names = " → ".join(Path(name).name for name in (given.teacher, given.student))  # without this machine's folders
    where = {"pair": names, "dtype": str(pair.student.model.dtype)}
    print(write(given.name, {**where, **machine(pair.device), "date": datetime.now(UTC).date().isoformat()}, ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
