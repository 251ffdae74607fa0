"""A teacher with a tokenizer of its own: its states come to the student's tokens, and nothing else changes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.artefact import load_bridge
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import ARMS, CONTROLS, BridgeSection, Config, TrainConfig
from helmas_core.conversation import Conversation
from helmas_core.data.item import Item
from helmas_core.data.prompts import Handoff, Prompt, render
from helmas_core.data.tasks import get_task
from helmas_core.errors import CheckpointError, ConfigError, PairError
from helmas_core.evaluation.arms import Arms, Batch, batches
from helmas_core.evaluation.baseline import baseline
from helmas_core.evaluation.diagnose import diagnose
from helmas_core.evaluation.evaluate import evaluate, evaluate_examples
from helmas_core.evaluation.inspect import inspect_cache
from helmas_core.handoff.examples import Example, make_example
from helmas_core.handoff.prepare import check_alignment, prepare
from helmas_core.handoff.states import States, both_states
from helmas_core.handoff.store import Store
from helmas_core.handoff.told import Aligned, fit, ids_of, over_student, told_to
from helmas_core.layering import load_config
from helmas_core.models.cache import KVCache
from helmas_core.models.latent import Latent
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import encode_start, offsets
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.following import choose
from helmas_core.training.objective import Objective
from helmas_core.training.session import train_bridge
from helmas_core.turns import shared_spans
from helmas_core.validation import validate
from tests.foreign import foreign_pair
from tests.tiny import unequal_pair

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module", params=[(True, False), (False, True)], ids=["chat", "swapped"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return foreign_pair(*request.param)


TASK = get_task("gsm8k")


def _item(i: int) -> Item:
    why = f"{i} plus {i * i} is {i + i * i}: so naïve 👋🏽 people say {'it is so ' * i}.\nThat is all of it, 你好."
    return Item(f"sum-{i}", f"What is {i} + {i * i}?", str(i + i * i), reasoning=why)


def _prompts(pair: Pair, item: Item, handoff: Handoff = "reasoning") -> list[Prompt]:
    """The student's and the teacher's."""
    return [render(TASK, item, handoff, view.template) for view in (pair, pair.as_teacher)]


def _examples(pair: Pair, count: int = 5, handoff: Handoff = "reasoning") -> list[Example]:
    items = list(map(_item, range(3, 3 + count)))
    both = [_prompts(pair, item, handoff) for item in items]
    return [make_example(pair, TASK, item, own, told=told) for item, (own, told) in zip(items, both, strict=True)]


def _bridge(pair: Pair, **section: Any) -> Bridge:
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection.model_validate({"projector_input": "layer", **section}), pair)
    bridge.fit([_read(pair, _examples(pair), bridge)])
    return bridge.eval()


def _read(pair: Pair, examples: list[Example], bridge: Bridge) -> tuple[KVCache, KVCache]:
    teacher = States(pair.teacher, pair.as_teacher.pad, hidden=bridge.hidden)
    own = States(pair.student, pair.pad).read([e.source for e in examples])
    return teacher.read([told_to(e.told, 0) for e in examples]), own


def test_each_model_reads_its_own_ids_and_template(pair: Pair) -> None:
    for example in _examples(pair):
        theirs = example.as_teacher
        assert theirs.source != example.source and theirs.target != example.target
        assert len(example.told.places) == len(example.source)  # type: ignore[union-attr]
        for view, prompt, side in zip(
            (pair, pair.as_teacher), _prompts(pair, example.item), (example, theirs), strict=True
        ):
            assert list(side.source) == encode_start(view.tokenizer, prompt.source, view.template)


def test_the_state_is_the_teachers_at_the_aligned_tokens(pair: Pair) -> None:
    """Row by row, against the teacher's own cache: keys without its RoPE, at the student's positions."""
    examples = _examples(pair)
    state, own = _read(pair, examples, _bridge(pair))
    assert not state.rotated and state.ids is None
    assert torch.equal(state.mask, own.mask) and torch.equal(state.positions, own.positions)
    for row, example in enumerate(examples):
        alone = pair.teacher.rope.unrotate(States(pair.teacher, 0).read([example.as_teacher.source]))
        begin, places = state.length - len(example.source), list(example.told.places)  # type: ignore[union-attr]
        for ours, theirs in zip((*state.keys, *state.values), (*alone.keys, *alone.values), strict=True):
            torch.testing.assert_close(ours[row, :, begin:], theirs[0, :, places], rtol=1e-4, atol=1e-4)


def test_alike_tokens_give_the_very_cache_that_they_would_without_aligning() -> None:
    pair = unequal_pair()
    ids = tuple(range(5, 25))
    state = States(pair.teacher, 0).read([ids])
    aligned = over_student(state, pair.teacher, [Aligned(ids, tuple(range(len(ids))))])
    for options in ({}, {"rope_handling": "naive"}):
        bridge = build_bridge(BridgeSection.model_validate({"projector_input": "layer", **options}), pair)
        with torch.no_grad():
            for one, other in zip(bridge(state).keys, bridge(aligned).keys, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("arm", [*ARMS, *CONTROLS])
def test_a_batch_equals_its_singles(pair: Pair, arm: str, mode: str) -> None:
    arms, [batch] = Arms(pair, _bridge(pair, mode=mode), 5), batches(_examples(pair, 4), 4)
    together = arms.run(arm, batch)
    alone = [arms.run(arm, Batch([e], [d])).tokens[0] for e, d in zip(batch.examples, batch.donors, strict=True)]
    assert together.tokens == alone


@pytest.mark.parametrize("reuse", [False, True])
def test_own_equals_text_and_every_arm_answers(pair: Pair, reuse: bool, tmp_path: Path) -> None:
    sets = ["eval.batch=3", "eval.max_new_tokens=4", f"eval.reuse={str(reuse).lower()}", f"train.store={tmp_path}"]
    config, bridge = load_config(["lab"], sets), _bridge(pair)
    found = evaluate_examples(config, pair, bridge, _examples(pair, 6), ARMS, "test", Silent())
    assert found["agreement"] == {"own-text": 1.0} and found["arms"].keys() == set(ARMS)
    assert found["alignment"]["tokens"] > 0 and found["pair"]["teacher_tokenizer"] == pair.codec.hash  # type: ignore[union-attr]


def test_the_teacher_answers_in_its_own_tokenizer(pair: Pair, tmp_path: Path) -> None:
    """As if it were alone, whether its states were kept or not."""
    config = load_config(
        ["lab"], ["eval.batch=3", "eval.max_new_tokens=4", "eval.reuse=true", f"train.store={tmp_path}"]
    )
    examples = _examples(pair, 4)
    found = evaluate_examples(config, pair, None, examples, ("teacher",), "test", Silent())
    alone = evaluate_examples(
        load_config(["lab"], ["eval.max_new_tokens=4"]),
        pair.as_teacher,
        None,
        [e.as_teacher for e in examples],
        ("teacher",),
        "test",
        Silent(),
    )
    answers = [[item["arms"]["teacher"]["text"] for item in one["items"]] for one in (found, alone)]
    assert answers[0] == answers[1] and any(answers[0])


def test_the_store_keeps_what_the_teacher_read(pair: Pair, tmp_path: Path) -> None:
    config, examples = TrainConfig(state_gib=0), _examples(pair)
    teacher, _ = both_states(pair, config, Store(tmp_path, 1.0))
    teacher.fill([e.told for e in examples], 2)
    other = replace(pair.as_teacher, codec=None)  # a pair of another student finds them
    again, _ = both_states(other, config, Store(tmp_path, 1.0))
    assert again.known([e.as_teacher.source for e in examples]) == len(examples)
    assert teacher.known([e.told for e in examples]) == len(examples)
    kept, fresh = teacher.read([e.told for e in examples]), _read(pair, examples, _bridge(pair))[0]
    for one, two in zip(kept.keys, fresh.keys, strict=True):
        torch.testing.assert_close(one * kept.mask[:, None, :, None], two * fresh.mask[:, None, :, None])


def test_no_continuation_is_told_of_what_it_is_to_say(pair: Pair) -> None:
    """Of question and reasoning the teacher has heard no character that the student has not read."""
    for example in _examples(pair):
        prompts, read = _prompts(pair, example.item), (example.source, example.as_teacher.source)
        views = (pair, pair.as_teacher)
        own, theirs = (offsets(v.tokenizer, p.source, len(i)) for v, p, i in zip(views, prompts, read, strict=True))
        for cut in example.cuts:
            heard = max(end for _, end in theirs[: example.told.places[cut - 1] + 1])  # type: ignore[union-attr]
            for part in (example.item.question, example.item.reasoning):
                begins = [prompt.source.index(part) for prompt in prompts]
                assert min(heard - begins[1], len(part)) <= max(0, own[cut][0] - begins[0])
        assert len(example.cuts) < len(range(8, len(example.source) - 7))  # some places must not be cut


def test_a_continuation_is_learnt_from_what_the_teacher_read_before_it(pair: Pair) -> None:
    bridge, [example] = _bridge(pair), _examples(pair, 1)
    objective = Objective(pair, bridge, TrainConfig(continuation=1.0, continuation_tokens=4))
    cut = int(choose([example], objective.config, random.Random(1), pair.pad, pair.device).visible[0])
    told = example.told
    assert isinstance(told, Aligned)
    seen = told.places[cut - 1] + 1
    later = tuple((id + 7) % 200 for id in told.ids[seen:])
    other = replace(example, teachers=replace(example.as_teacher, source=told.ids[:seen] + later))
    losses = [objective([e], {"ce": 1.0}, random.Random(1))[1] for e in (example, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("length", [3, 20, 90, 200])
def test_what_is_told_is_cut_and_repeated_by_the_students_tokens(pair: Pair, length: int) -> None:
    [example] = _examples(pair, 1)
    made = fit(example.told, length)
    assert isinstance(made, Aligned) and len(made.places) == length
    assert made.places == tuple(sorted(made.places)) and made.places[-1] == len(made.ids) - 1
    assert (example.as_teacher.source * 9)[: len(made.ids)] == made.ids


def test_latent_steps_follow_as_they_are(pair: Pair) -> None:
    thinking = replace(pair, teacher=replace(pair.teacher, latent=Latent(pair.teacher.model, 3)))
    examples = _examples(pair, 3, "latent")
    state, own = _read(thinking, examples, _bridge(pair))
    assert state.length == own.length + 3
    assert torch.equal(state.mask.sum(1), own.mask.sum(1) + 3)
    for row, example in enumerate(examples):
        raw = thinking.teacher.rope.unrotate(States(thinking.teacher, 0).read([example.as_teacher.source]))
        torch.testing.assert_close(state.values[1][row, :, -3:], raw.values[1][0, :, -3:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state.keys[1][row, :, -3:], raw.keys[1][0, :, -3:], rtol=1e-4, atol=1e-4)


ROWS = [
    ("kava", "replace"),
    ("ridge", "replace"),
    ("c2c", "fuse"),
    ("h2c", "fuse"),
    ("modules", "fuse"),
    ("modules", "replace"),
]


@pytest.mark.parametrize(("method", "mode"), ROWS)
def test_every_method_takes_it(pair: Pair, method: str, mode: str) -> None:
    more = {"max_ratio": 1e9} if method == "ridge" else {}
    torch.manual_seed(0)
    bridge = build_bridge(BridgeSection.model_validate({"method": method, "mode": mode, **more}), pair)
    bridge.fit([_read(pair, _examples(pair), bridge)])
    arms, [batch] = Arms(pair, bridge.eval(), 3), batches(_examples(pair, 3), 3)
    assert all(arms.run("bridge", batch).tokens)


def _config(**train: Any) -> Config:
    stages = [
        {"name": "warm", "steps": 2, "losses": {"cache_mse": 1.0}},
        {"name": "functional", "steps": 4, "losses": {"attention": 1.0, "ce": 1.0, "kl": 0.5}},
    ]
    few = {"stages": stages, "batch": 3, "calibration_items": 12, "eval_samples": 3, "checkpoint_every": 2}
    return validate(
        Config,
        {
            "pair": {"teacher": "tiny:teacher", "student": "tiny:student", "min_alignment": 0.2},
            "data": {"dataset": "relay", "handoff": "prompt", "limit": 12},
            "train": {**few, "continuation": 0.5, **train},
            "eval": {"max_new_tokens": 3, "limit": 4},
        },
    )


@pytest.mark.parametrize("more", [{}, {"shuffled": True}])
def test_a_bridge_is_trained_saved_loaded_evaluated_and_inspected(
    pair: Pair, tmp_path: Path, more: dict[str, Any]
) -> None:
    config = _config(**more)
    document = train_bridge(config, pair, create_run(tmp_path / "run", config), Silent())
    assert document["steps"] == 6 and document["eval"]["arms"].keys() >= {"bridge", "deranged"}
    bridge = load_bridge(Path(document["bridge"]), pair)
    found = evaluate(config, pair, bridge, Silent())
    assert set(found["alignment"]) == {"tokens", "exact", "split", "merged"}
    assert found["alignment"]["exact"] + found["alignment"]["split"] + found["alignment"]["merged"] == pytest.approx(
        1, abs=2e-4
    )
    with pytest.raises(CheckpointError, match="another teacher tokenizer"):
        load_bridge(Path(document["bridge"]), replace(pair, codec=None))
    assert diagnose(config, pair, bridge, Silent(), 2)["layers"][0]["k_cosine"] is not None
    for text in ("Mark is a copy-editor. He edits naïve sentences 👋🏽 each week for two publishers.", None):
        shown = inspect_cache(config, pair, bridge, text)
        lengths = {len(mass) for mass in shown["token_mass"].values()}
        assert lengths == {shown["tokens"]} and shown["positions"]


def test_both_models_are_measured_alone(pair: Pair) -> None:
    found = baseline(_config(), pair, Silent())
    assert found["arms"]["teacher"]["n"] == found["arms"]["student"]["n"] == 4


def test_too_few_alike_tokens_are_refused(pair: Pair) -> None:
    config = _config()
    examples = prepare(config, pair, "test", 4, 0, Silent())
    with pytest.raises(PairError, match="agree on"):
        check_alignment(examples, 1.0)
    check_alignment(examples, 0.0)


@pytest.mark.parametrize(("mode", "handoff"), [("replace", "prompt"), ("fuse", "prompt"), ("replace", "reasoning")])
def test_a_talk_says_what_it_says_from_scratch(pair: Pair, mode: str, handoff: str) -> None:
    sets = ["eval.baseline_tokens=4", "data.reasoning_tokens=6", f"data.handoff={handoff}", "data.reasoning=generate"]
    config, bridge = load_config(["lab"], sets), _bridge(pair, mode=mode)
    talk = Conversation(config, pair, bridge)
    talk.system = "Be brief." if pair.template else ""
    for question in ("Kolor is 821. Who sits in 821?", "And the naïve 👋🏽? Who is it?", "user", "Who sits in 147?"):
        fresh = Conversation(config, pair, bridge)
        fresh.turns, fresh.system = list(talk.turns), talk.system
        expected, turn = fresh.ask(question), talk.ask(question)
        assert (turn.text, turn.tokens, turn.reasoning) == (expected.text, expected.tokens, expected.reasoning)
        assert turn.new + turn.kept == expected.new + expected.kept
        assert talk.handed is not None and fresh.handed is not None
        for one, two in zip(talk.handed.state.keys, fresh.handed.state.keys, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
        assert turn.new < expected.new or talk.thinks or len(talk.turns) == 1  # what the teacher had read was kept
    assert talk.compare().keys() == {"student", "bridge", "teacher"}


def test_what_is_said_in_a_talk_is_found_in_both_templates() -> None:
    first, second = "<user>Who?<bot>hi<user>user", "You are a user.[user] Who? [bot] hi [user] user"
    spans = shared_spans(first, second, ["", "Who?", "hi", "rewritten by one template", "user"])
    for text, found in zip((first, second), spans, strict=True):
        assert [text[begin:end] for begin, end in found] == ["Who?", "hi", "user"] and found[-1][1] == len(text)
    assert shared_spans("same", "same", []) == ([(0, 4)], [(0, 4)])


def test_one_template_alone_is_refused_in_a_talk() -> None:
    pair = replace(foreign_pair(), template=None)
    with pytest.raises(ConfigError, match="only one of the models has a chat template"):
        Conversation(load_config(["lab"]), pair, _bridge(pair)).ask("Kolor is 821. Who sits in 821?")


def test_ids_of() -> None:
    assert ids_of((1, 2)) == (1, 2) == ids_of(Aligned((1, 2), (0, 0, 1)))
