"""Control caches: a batch equals its singles, seeds decide, and each takes away what it says."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helmas_core.bridges.registry import build_bridge
from helmas_core.config import CONTROLS, BridgeSection, Config
from helmas_core.data import relay
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task
from helmas_core.errors import ConfigError
from helmas_core.evaluation.arms import Arms, Batch, batches
from helmas_core.evaluation.controls import moment_matched, shuffle_keys
from helmas_core.evaluation.costs import Costs, _energy_meter
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.evaluation.exactness import exactness
from helmas_core.handoff.examples import Example, Thought, make_example
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.told import ids_of, told_to
from helmas_core.layering import load_config
from helmas_core.models.cache import capture
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent
from helmas_core.training.objective import Objective
from helmas_core.training.shuffled import deranged_sources
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.numerics


def _examples(pair: Pair, count: int = 3) -> list[Example]:
    task = get_task("relay")
    return [make_example(pair, task, item, render(task, item, "prompt")) for item in relay.items("train", count)]


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("arm", CONTROLS)
def test_a_batch_equals_its_singles(unequal: Pair, arm: str, mode: str) -> None:
    bridge = build_bridge(BridgeSection.model_validate({"mode": mode, "start": "random"}), unequal)
    arms, [batch] = Arms(unequal, bridge, 3), batches(_examples(unequal), 3)
    together = arms.run(arm, batch).tokens
    assert arms.ledger.seconds["student_decode"] > 0
    assert together == [
        arms.run(arm, Batch([e], [d])).tokens[0] for e, d in zip(batch.examples, batch.donors, strict=True)
    ]


def test_what_is_kept_and_what_is_lost(unequal: Pair) -> None:
    sources, student = [e.source for e in _examples(unequal)], unequal.student
    cache = capture(student.model, *pad_left(sources, unequal.pad))
    moved, again, other = (shuffle_keys(cache, student.rope, sources, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(moved.values, cache.values, strict=True))
    assert torch.equal(moved.keys[0], again.keys[0]) and not torch.equal(moved.keys[0], other.keys[0])
    before, after = (student.rope.unrotate(c).keys[1][0][:, c.mask[0]] for c in (cache, moved))
    distance = (before[0, :, None] - after[0, None]).abs().amax(-1)
    nearest = distance.argmin(0)  # every key is there, none at its own place
    assert distance.min(0).values.max() < 1e-4
    assert sorted(nearest.tolist()) == list(range(len(nearest))) and not (nearest == torch.arange(len(nearest))).any()
    noise = moment_matched(cache, student.rope, sources, 0).values[1][1][:, cache.mask[1]]
    real = cache.values[1][1][:, cache.mask[1]]
    assert torch.allclose(noise.mean((1, 2)), real.mean((1, 2)), atol=0.2 * float(real.std()))
    assert torch.allclose(noise.std((1, 2)), real.std((1, 2)), rtol=0.15)


def _config(*sets: str) -> Config:
    return load_config(["lab"], ["data.dataset=relay", "eval.batch=60", *sets])


def test_a_prefix_is_called_useless(lab_pair: Pair) -> None:
    section = BridgeSection.model_validate({"method": "prefix", "parameters": 20000})
    bridge = build_bridge(section, lab_pair)
    assert bridge.parameter_count() == pytest.approx(20000, rel=0.05)
    config = _config("bridge.method=prefix")
    examples = prepare(config, lab_pair, "validation", 60, 0, Silent())
    objective = Objective(lab_pair, bridge, config.train)
    bridge.fit([objective.states(examples)])
    optimiser = torch.optim.AdamW(bridge.parameters(), lr=3e-3)
    for _ in range(5):
        objective(examples[:16], {"ce": 1.0}, random.Random(0))[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    found = evaluate_examples(
        config, lab_pair, bridge, examples, ("student", "text", "bridge", "deranged", "own"), "validation", Silent()
    )
    assert found["verdict"]["level"] == "useless" and "useless" in found["verdict"]["text"]
    assert found["exactness"] == {"compared": 60, "differ": [], "ties": []}
    bridge_costs = found["costs"]["bridge"]
    assert bridge_costs["warm"]["p50"] < bridge_costs["cold"]["p50"] and bridge_costs["teacher_bytes"] > 0
    tokens = {(e.task.name, e.item.id): [5, 6] for e in examples}
    spoilt = tokens | {("relay", examples[3].item.id): [5, 7]}
    assert exactness(lab_pair, examples, spoilt, tokens)["differ"] == [examples[3].item.id]


def test_a_prefix_does_not_look(unequal: Pair) -> None:
    bridge = build_bridge(BridgeSection.model_validate({"method": "prefix", "parameters": 5000}), unequal)
    cache = capture(unequal.teacher.model, *pad_left([e.source for e in _examples(unequal)], unequal.pad))
    assert torch.equal(bridge(cache).keys[0], bridge(cache.map(torch.zeros_like)).keys[0])
    with pytest.raises(ConfigError, match='prefix cannot "fuse"'):
        build_bridge(BridgeSection.model_validate({"method": "prefix", "mode": "fuse", "parameters": 5000}), unequal)


def test_shuffled_training_reads_another_item(unequal: Pair) -> None:
    examples = _examples(unequal, 6)
    donors = deranged_sources(examples)
    assert all(len(ids_of(told_to(donor, 0))) == len(source) and donor != source for source, donor in donors.items())
    with pytest.raises(ConfigError, match="no other"):
        deranged_sources(examples[:1])


@pytest.mark.parametrize(("gap", "kind"), [(0.01, "ties"), (1.0, "differ")])
def test_equally_good_tokens_of_half_precision_are_a_tie(
    unequal: Pair, monkeypatch: pytest.MonkeyPatch, gap: float, kind: str
) -> None:
    [example], logits = _examples(unequal, 1), torch.zeros(1, 1, 512)
    logits[0, 0, [3, 6, 7]] = torch.tensor([40.0, 0.1, 0.1 + gap])  # small beside the largest, as is rounding
    monkeypatch.setattr("helmas_core.evaluation.exactness.forward", lambda *_: logits)
    key = (example.task.name, example.item.id)
    assert exactness(unequal, [example], {key: [5, 6]}, {key: [5, 7]})["differ"] == [example.item.id]  # fp32
    half = tiny_pair(unequal.teacher.model, tiny_model("qwen2", seed=9).bfloat16())
    assert exactness(half, [example], {key: [5, 6]}, {key: [5, 7]})[kind] == [example.item.id]


class _Card:
    """What a driver library looks like that counts energy, or refuses to."""

    class NVMLError(Exception):
        pass

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.total = refuses, 5000

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        if self.refuses:
            raise self.NVMLError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 - the library's name
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802 - the library's name
        assert handle == "GPU-7"
        return self.total


def test_energy_is_read_where_a_card_tells_and_none_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="7"))
    for refuses, joules in ((False, 5.0), (True, None)):
        monkeypatch.setitem(sys.modules, "pynvml", _Card(refuses))
        assert _energy_meter(gpu)() == joules
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert _energy_meter(gpu)() is None and _energy_meter(torch.device("cpu"))() is None


@pytest.mark.parametrize(("mode", "arm", "told"), [("fuse", "disabled", True), ("replace", "disabled", False)])
def test_only_an_arm_that_had_the_reasoning_pays_for_it(unequal: Pair, mode: str, arm: str, told: bool) -> None:
    bridge = build_bridge(BridgeSection.model_validate({"mode": mode, "start": "random"}), unequal)
    examples = [replace(e, thought=Thought("So.", 2, 3.0, False)) for e in _examples(unequal)]
    runner, costs = Arms(unequal, bridge, 2), Costs(arm)
    runner.run(arm, Batch(examples, examples))
    costs.add(runner.ledger, examples, None, None)
    assert costs.summary(timed=True)["seconds"]["reasoning"] == (3.0 if told else None)
