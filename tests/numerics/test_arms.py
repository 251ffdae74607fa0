"""Arms: a batch equals its singles in every one, `own` equals `text`, and nobody gets his own cache as `deranged`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.registry import build_bridge
from helmas_core.config import ARMS, BridgeSection, Config
from helmas_core.data.item import Item
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task
from helmas_core.evaluation import evaluate as evaluation
from helmas_core.evaluation.arms import Arms, Batch, batches
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.examples import Example, make_example
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.told import ids_of, told_to
from helmas_core.layering import load_config
from helmas_core.models import prefix
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.progress import Silent

pytestmark = pytest.mark.numerics


def _examples(pair: Pair, dataset: str, count: int) -> list[Example]:
    config = load_config(["lab"], [f"data.dataset={dataset}"])
    return prepare(config, pair, "validation", count, 0, Silent())


def _arms(pair: Pair, mode: str) -> Arms:
    bridge = build_bridge(BridgeSection.model_validate({"mode": mode, "projector_input": "layer"}), pair)
    read = pad_left([e.source for e in _examples(pair, "relay", 16)], pair.pad)
    bridge.fit([(capture(pair.teacher.model, *read), capture(pair.student.model, *read))])
    return Arms(pair, bridge, 6)


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("dataset", ["relay", "arithmetic"])
@pytest.mark.parametrize("arm", ARMS)
def test_a_batch_of_four_equals_four_singles(lab_pair: Pair, arm: str, dataset: str, mode: str) -> None:
    arms, [batch] = _arms(lab_pair, mode), batches(_examples(lab_pair, dataset, 4), 4)
    assert len({len(e.source) for e in batch.examples}) > 1 or dataset == "arithmetic"
    together = arms.run(arm, batch)
    alone = [arms.run(arm, Batch([e], [d])).tokens[0] for e, d in zip(batch.examples, batch.donors, strict=True)]
    assert together.tokens == alone


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("arm", ARMS)
def test_so_does_one_whose_beginning_is_read_once(
    lab_pair: Pair, arm: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whose sources of unlike length are read apart, as large models read them."""
    arms, [batch] = _arms(lab_pair, mode), batches([_opening(e) for e in _examples(lab_pair, "relay", 4)], 4)
    alone = [arms.run(arm, Batch([e], [d])).tokens[0] for e, d in zip(batch.examples, batch.donors, strict=True)]
    started: list[int] = []
    repeat = prefix._repeated
    monkeypatch.setattr(prefix, "_repeated", lambda one, rows: started.append(one.length) or repeat(one, rows))
    monkeypatch.setitem(prefix.COST, "cpu", (0, 0))
    assert arms.run(arm, batch).tokens == alone
    assert started and min(started) >= len(OPENING)


OPENING = (7, 8, 9, 10, 11)


def _opening(example: Example) -> Example:
    opened = {name: (*OPENING, *getattr(example, name)) for name in ("source", "alone")}
    return replace(example, **opened)


@pytest.mark.parametrize("dataset", ["relay", "arithmetic"])
def test_own_equals_text_token_for_token(lab_pair: Pair, dataset: str) -> None:
    config = load_config(["lab"], [f"data.dataset={dataset}", "eval.batch=7"])
    found = evaluate_examples(
        config, lab_pair, None, _examples(lab_pair, dataset, 30), ("text", "own"), "validation", Silent()
    )
    assert found["agreement"] == {"own-text": 1.0}
    assert found["contrasts"]["own-text"]["delta"] == 0.0


def test_a_spoilt_injection_shows_in_the_own_arm(lab_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that `own` = `text` can fail: hide the first half of the cache."""
    from helmas_core.models import inject

    right = inject.attention_mask

    def half(cache: KVCache | None, mask: torch.Tensor) -> torch.Tensor:
        made = right(cache, mask)
        made[:, : 0 if cache is None else cache.length // 2] = 0
        return made

    monkeypatch.setattr(inject, "attention_mask", half)
    config = load_config(["lab"])
    examples = _examples(lab_pair, "relay", 30)
    found = evaluate_examples(config, lab_pair, None, examples, ("text", "own"), "validation", Silent())
    assert found["agreement"]["own-text"] < 1.0


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_donors_are_others_of_like_length(lab_pair: Pair, count: int) -> None:
    examples = _examples(lab_pair, "relay", count)
    pairs = [(e, d) for batch in batches(examples, 3) for e, d in zip(batch.examples, batch.donors, strict=True)]
    assert len(pairs) == count
    assert all(e.item.id != d.item.id for e, d in pairs)
    lengths = sorted(len(e.source) for e in examples)
    assert max(abs(len(e.source) - len(d.source)) for e, d in pairs) <= lengths[-1] - lengths[0]


def test_tasks_do_not_share_a_batch(lab_pair: Pair) -> None:
    mixed = _examples(lab_pair, "relay,arithmetic", 5)
    assert all(len({e.task.name for e in batch.examples}) == 1 for batch in batches(mixed, 4))


def test_fused_donors_have_the_items_own_length(lab_pair: Pair) -> None:
    arms, [batch] = _arms(lab_pair, "fuse"), batches(_examples(lab_pair, "relay", 4), 4)
    foreign = arms._foreign(batch)
    assert [len(ids_of(told_to(one, 0))) for one in foreign] == [len(e.source) for e in batch.examples]
    assert all(ids != e.source for ids, e in zip(foreign, batch.examples, strict=True))


def test_the_report_has_its_promised_keys(lab_pair: Pair) -> None:
    bridge = build_bridge(BridgeSection(), lab_pair)
    with torch.no_grad():
        config: Config = load_config(["lab"], ["data.dataset=arithmetic", "eval.limit=12"])
        examples = _examples(lab_pair, "arithmetic", 12)
        found = evaluate_examples(config, lab_pair, bridge, examples, ARMS, "validation", Silent())
    assert {
        "schema",
        "command",
        "dataset",
        "split",
        "n",
        "pair",
        "bridge",
        "arms",
        "contrasts",
        "manifest",
    } <= found.keys()
    assert found["arms"].keys() == set(ARMS)
    for arm in found["arms"].values():
        assert arm.keys() == {
            "accuracy", "ci", "n", "unparsed", "truncated", "seconds_p50", "seconds_p95", "tokens_per_second"
        }  # fmt: skip
        assert arm["n"] == 12
        assert arm["ci"][0] <= arm["accuracy"] <= arm["ci"][1]
    assert {"bridge-student", "bridge-deranged", "bridge-text"} <= found["contrasts"].keys()


def test_a_gpu_is_warmed_up(lab_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []
    monkeypatch.setattr(Arms, "run", lambda self, arm, batch: ran.append((arm, self.max_new_tokens)))
    [batch] = batches(_examples(lab_pair, "relay", 2), 2)
    evaluation.warm_up(lab_pair, None, ("student", "text"), batch)
    assert ran == []
    on_gpu = replace(lab_pair, hardware=replace(lab_pair.hardware, device=torch.device("cuda")))
    evaluation.warm_up(on_gpu, None, ("student", "text"), batch)
    assert ran == [("student", 2), ("text", 2)]


def test_timing_begins_after_the_warm_up(lab_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(evaluation, "warm_up", lambda *_: order.append("warm-up"))
    monkeypatch.setattr(evaluation, "clock", lambda _: order.append("clock") or 0.0)
    config, examples = load_config(["lab"]), _examples(lab_pair, "relay", 2)
    evaluate_examples(config, lab_pair, None, examples, ("student",), "validation", Silent())
    assert order == ["warm-up", "clock", "clock"]


def test_sources_that_are_read_once_give_the_same_answers_without_times(lab_pair: Pair, tmp_path: Path) -> None:
    sets = ["eval.batch=5", f"train.store={tmp_path}"]
    plain, once = (load_config(["lab"], [*sets, f"eval.reuse={value}"]) for value in ("false", "true"))
    examples, bridge = _examples(lab_pair, "relay", 12), _arms(lab_pair, "replace").bridge
    passes = [
        _counted(lab_pair, lambda c=c: evaluate_examples(c, lab_pair, bridge, examples, ARMS, "validation", Silent()))
        for c in (plain, once, once)
    ]
    (apart, every), (shared, first), (again, second) = passes
    assert all(apart["arms"][arm]["accuracy"] == shared["arms"][arm]["accuracy"] for arm in ARMS)
    assert shared["arms"] == again["arms"] and shared["manifest"]["reuse"]
    assert apart["arms"]["bridge"]["seconds_p50"] > 0 and shared["arms"]["bridge"]["seconds_p50"] is None
    assert every == 9 and first == 3 and second == 0  # three batches, each read once for all arms


@pytest.mark.parametrize("kept", ["bf16", "fp8"])
def test_an_arm_that_must_be_exact_is_not_read_from_a_store_that_rounds(
    lab_pair: Pair, tmp_path: Path, kept: str
) -> None:
    sets = ["eval.reuse=true", f"train.store={tmp_path}", f"train.store_dtype={kept}"]
    config, examples = load_config(["lab"], sets), _examples(lab_pair, "relay", 12)
    bridge = _arms(lab_pair, "replace").bridge
    for _ in range(2):  # with an empty store, and with a full one
        found = evaluate_examples(config, lab_pair, bridge, examples, ARMS, "validation", Silent())
        assert found["exactness"] == {"compared": 12, "differ": [], "ties": []}
    assert any(tmp_path.rglob("*.safetensors"))


def _counted(pair: Pair, evaluate: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """What `evaluate` returns, and how many sources' batches the teacher read for it."""
    prefills = 0

    def count(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        nonlocal prefills
        prefills += kwargs["past_key_values"].get_seq_length() == 0

    handle = pair.teacher.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return evaluate(), prefills
    finally:
        handle.remove()


def _told(private: str, answer: str) -> Item:
    return Item(f"{private}{answer}", "Which?", answer, private=private)


def test_a_donor_may_have_the_same_answer(lab_pair: Pair) -> None:
    task, told = get_task("relay"), [("Ada has 47.", "47"), ("Bob has 47.", "47"), ("Cornelius has 9 hats.", "9")]
    made = [make_example(lab_pair, task, item, render(task, item, "prompt")) for item in (_told(*t) for t in told)]
    [batch] = batches(made, 3)
    donors = {e.item.private: d.item.private for e, d in zip(batch.examples, batch.donors, strict=True)}
    assert donors["Ada has 47."] == "Bob has 47."


def test_a_source_that_only_goes_on_is_no_donor(lab_pair: Pair) -> None:
    task, told = get_task("relay"), [("Ada has 47.", "47"), ("Ada has 47. Bob", "3"), ("Cy has the larger hat.", "9")]
    made = [make_example(lab_pair, task, item, render(task, item, "prompt")) for item in (_told(*t) for t in told)]
    donors = {
        e.item.private: d.item.private for b in batches(made, 3) for e, d in zip(b.examples, b.donors, strict=True)
    }
    assert donors["Ada has 47."] == "Cy has the larger hat."


def test_data_sets_whose_items_share_ids_are_counted_apart(lab_pair: Pair, tmp_path: Path) -> None:
    names = [f"jsonl:{tmp_path / part / 'own.jsonl'}" for part in "ab"]
    for name in names:
        path = Path(name.removeprefix("jsonl:"))
        path.parent.mkdir()
        rows = [{"prompt": f"What is {i} in {path.parent.name}?", "answer": str(i)} for i in range(20)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(["lab"], [f"data.dataset={','.join(names)}", "data.handoff=prompt"])
    examples = prepare(config, lab_pair, "all", 6, 0, Silent())
    found = evaluate_examples(config, lab_pair, None, examples, ("text",), "all", Silent())
    assert found["n"] == found["arms"]["text"]["n"] == 12
    assert found["arms"]["text"]["truncated"] <= 1
