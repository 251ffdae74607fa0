"""What evaluating costs: batched against one by one, all arms at once against each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from bench.measure import Ratio, in_turn
from bench.training import WIDE, settings
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import Config
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.prepare import prepare
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.training.objective import Objective

ARMS = ("student", "teacher", "text", "bridge", "deranged")


class Bench:
    """One bridge, fitted on the items that it is measured on: what it knows does not matter here."""

    def __init__(self, pair: Pair, items: int, dataset: str = "relay") -> None:
        self.pair, self.config = pair, settings(pair, dataset=dataset, state_gib=4.0)  # what eval.reuse may keep
        self.examples = prepare(self.config, pair, "test", items, 0, Silent())
        self.bridge = build_bridge(WIDE, pair)
        objective = Objective(pair, self.bridge, self.config.train)
        self.bridge.fit([objective.states(self.examples[:8])])
        self.bridge.eval()

    def run(self, arms: Sequence[str], **options: Any) -> dict[str, Any]:
        config = self._with(max_new_tokens=8, **options)
        return evaluate_examples(config, self.pair, self.bridge, self.examples, arms, "test", Silent())

    def _with(self, **options: Any) -> Config:
        return self.config.model_copy(update={"eval": self.config.eval.model_copy(update=options)})


def batched(pair: Pair, repeats: int, items: int = 64) -> Iterator[Ratio]:
    """The bridge alone, where reading is most of the work, and all arms, which share what was read."""
    bench = Bench(pair, items)
    for arms, name in ((("bridge",), "the bridge alone"), (ARMS, "five arms, eval.reuse")):
        single, many = (partial(bench.run, arms, batch=size, reuse=len(arms) > 1) for size in (1, 32))
        alike, total = agreeing(single()["items"], many()["items"])
        times = in_turn(single, many, pair.device, repeats, warm=0)
        note = f"{alike} of {total} answers alike"
        yield Ratio(f"evaluation of {items} items, {name}", "one by one", "batches of 32", *times, 3.0, note=note)


def agreeing(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many answers of the same arms to the same items are the same text, and of how many."""
    texts = [
        {(item["id"], arm): said["text"] for item in items for arm, said in item["arms"].items()}
        for items in (one, other)
    ]
    return sum(text == texts[1][key] for key, text in texts[0].items()), len(texts[0])


def arms_at_once(pair: Pair, repeats: int, dataset: str, items: int = 32) -> Iterator[Ratio]:
    bench = Bench(pair, items, dataset)

    def apart() -> None:
        for arm in ARMS:
            bench.run((arm,), batch=16)

    times = in_turn(lambda: bench.run(ARMS, batch=16, reuse=True), apart, pair.device, repeats)
    yield Ratio(
        f"evaluation of five arms, {dataset}", "at once, eval.reuse", "each on its own", *times, 0.6, ceiling=True
    )
