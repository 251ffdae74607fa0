"""What evaluating costs: batched against one by one, all arms at once against each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    bench = Bench(pair, items)
    times = in_turn(
        lambda: bench.run(("bridge",), batch=1), lambda: bench.run(("bridge",), batch=32), pair.device, repeats
    )
    yield Ratio(f"evaluation of {items} items", "one by one", "batches of 32", *times, 3.0)


def arms_at_once(pair: Pair, repeats: int, dataset: str, items: int = 32) -> Iterator[Ratio]:
    bench = Bench(pair, items, dataset)

    def apart() -> None:
        for arm in ARMS:
            bench.run((arm,), batch=16)

    times = in_turn(lambda: bench.run(ARMS, batch=16, reuse=True), apart, pair.device, repeats)
    yield Ratio(
        f"evaluation of five arms, {dataset}", "at once, eval.reuse", "each on its own", *times, 0.6, ceiling=True
    )
