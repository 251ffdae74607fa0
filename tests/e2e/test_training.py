"""Training from end to end on tiny random pairs: it learns, logs, resumes bit for bit, and stops when asked."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from helmas_core.bridges.artefact import load_bridge, read_tensors
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.data.overlap import unpack_hashes
from helmas_core.errors import CheckpointError, ConfigError, DataError, TrainingError
from helmas_core.handoff.prepare import prepare
from helmas_core.layering import load_config
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent, Stopped
from helmas_core.runs import Run, create_run
from helmas_core.training import checkpoint
from helmas_core.training.loop import Trainer, parameter_groups
from helmas_core.training.objective import Objective
from helmas_core.training.refusals import refuse_overlap, refuse_test_split
from helmas_core.training.session import Session, hashes_of, train_bridge
from helmas_core.validation import validate
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.e2e


def _config(**train: Any) -> Config:
    stages = [
        {"name": "warm", "steps": 6, "losses": {"cache_mse": 1.0}},
        {"name": "functional", "steps": 6, "losses": {"attention": 1.0, "ce": 1.0, "kl": 0.5}, "learning_rate": 3e-4},
    ]
    defaults = {
        "stages": stages,
        "batch": 4,
        "calibration_items": 16,
        "eval_samples": 2,
        "checkpoint_every": 4,
        "log_every": 2,
    }
    return validate(
        Config,
        {
            "pair": {"teacher": "tiny:teacher", "student": "tiny:student"},
            "data": {"dataset": "relay,arithmetic", "handoff": "prompt", "limit": 20},
            "train": {**defaults, "continuation": 0.5, **train},
            "eval": {"max_new_tokens": 3},
        },
    )


class StopAfter(Silent):
    """Asks to stop once `step` steps are done."""

    def __init__(self, step: int) -> None:
        self.step, self.done = step, 0

    def update(self, done: int, **figures: float | str) -> None:
        self.done = done if "stage" in figures else 0

    def stop_requested(self) -> bool:
        return self.done >= self.step


def _train(
    config: Config, pair: Pair, path: Path, progress: Silent | None = None, resume: bool = False
) -> tuple[Run, dict[str, Any]]:
    run = create_run(path, config, resume=resume)
    return run, train_bridge(config, pair, run, progress or Silent(), resume)


def _trained_metrics(run: Run) -> list[dict[str, Any]]:
    kept = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in kept]


def test_a_run_leaves_everything_behind(unequal: Pair, tmp_path: Path) -> None:
    run, document = _train(_config(), unequal, tmp_path / "run")
    assert document["steps"] == 12
    assert document["losses"].keys() == {"loss", "attention", "ce", "kl"}
    assert document["eval"]["arms"].keys() == {"student", "text", "bridge", "deranged"}
    assert Path(document["bridge"]) == run.bridge
    load_bridge(run.bridge, unequal)
    events = [line["event"] for line in _trained_metrics(run)]
    assert events == ["start", *["train"] * 6, "validation"]
    assert _trained_metrics(run)[-1].keys() >= {"student", "text", "bridge", "deranged", *document["losses"]}
    assert [p.name for p in sorted(run.checkpoints.iterdir())] == ["best.safetensors", "step-0000008", "step-0000012"]


class Reading(Silent):
    """Asks to stop once a model has read something."""

    stop = False

    def update(self, done: int, **figures: float | str) -> None:
        self.stop = done > 0

    def stop_requested(self) -> bool:
        return self.stop


def test_reading_stops_when_asked_and_keeps_what_it_read(unequal: Pair, tmp_path: Path) -> None:
    config = _config(store=tmp_path / "store", eval_samples=0)
    with pytest.raises(Stopped):
        _train(config, unequal, tmp_path / "run", Reading())
    assert any((tmp_path / "store" / "states").iterdir())
    _, document = _train(config, unequal, tmp_path / "run", resume=True)
    assert document["steps"] == 12


def test_losses_of_what_is_held_out_are_those_of_the_stage_and_always_alike(unequal: Pair) -> None:
    config, bridge = _config(), build_bridge(_config().bridge, unequal)
    examples = prepare(config, unequal, "validation", 6, 0, Silent())
    trainer = Trainer(Objective(unequal, bridge, config.train), examples, config.train)
    first, last = trainer.held_out(examples, 1), trainer.held_out(examples, 12)
    assert (first.keys(), last.keys()) == ({"loss", "cache_mse"}, {"loss", "attention", "ce", "kl"})
    assert trainer.held_out(examples, 12) == last and bridge.training
    assert first["loss"] == pytest.approx(first["cache_mse"]) and trainer.held_out(examples, 13) == {}
    with torch.no_grad():
        next(bridge.parameters()).mul_(2.0)
    assert trainer.held_out(examples, 1) != first


def test_without_memory_for_the_losses_of_a_validation_its_scores_stay(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Trainer, "_means", full)
    run, document = _train(_config(), unequal, tmp_path / "run")
    assert document["eval"]["arms"].keys() == {"student", "text", "bridge", "deranged"}
    assert "loss" not in _trained_metrics(run)[-1] and (run.checkpoints / "best.safetensors").exists()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    model = tiny_model("llama")
    stages = [{"name": "warm", "steps": 40, "losses": {"cache_mse": 1.0}, "learning_rate": 1e-2}]
    config = _config(stages=stages, batch=8, eval_samples=0, log_every=1)
    options = {"start": "random", "layer_blending": "skip", "projector_depth": 1}
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    run, _ = _train(config, tiny_pair(model, model), tmp_path / "run")
    losses = [line["loss"] for line in _trained_metrics(run) if line["event"] == "train"]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.parametrize("stop", [3, 5, 10])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(unequal: Pair, tmp_path: Path, stop: int) -> None:
    whole, _ = _train(_config(), unequal, tmp_path / "whole")
    _, first = _train(_config(), unequal, tmp_path / "cut", StopAfter(stop))
    assert first["steps"] == stop and first["eval"] is None
    cut, document = _train(_config(), unequal, tmp_path / "cut", resume=True)
    assert document["steps"] == 12
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert _trained_metrics(cut) == _trained_metrics(whole)


class Scrambled(StopAfter):
    """Leaves every library's random state somewhere else after each step."""

    def update(self, done: int, **figures: float | str) -> None:
        super().update(done, **figures)
        seed = random.SystemRandom().getrandbits(31)
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)


@pytest.mark.parametrize("options", [{}, {"method": "kava", "mlp_ratio": 0.1}], ids=str)  # dropout
def test_no_random_state_needs_to_be_saved(unequal: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    config = _config(eval_every=4, stages=[{"name": "answers", "steps": 9, "losses": {"ce": 1.0}}])
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    whole, _ = _train(config, unequal, tmp_path / "whole")
    _train(config, unequal, tmp_path / "cut", Scrambled(5))
    cut, _ = _train(config, unequal, tmp_path / "cut", Scrambled(100), resume=True)
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert _trained_metrics(cut) == _trained_metrics(whole)


def test_a_stage_begins_with_moments_of_its_own(unequal: Pair, tmp_path: Path) -> None:
    """By what Adam kept of a loss with tiny gradients, the first steps of another one would be leaps."""
    run, _ = _train(_config(checkpoint_every=1), unequal, tmp_path / "run", StopAfter(8))
    counts = [
        {
            int(value)
            for name, value in read_tensors(path / "optimiser.safetensors")[0].items()
            if name.endswith(".step")
        }
        for path in sorted(run.checkpoints.glob("step-*"))
    ]
    assert counts == [{1}, {2}]  # the seventh and eighth step are the second stage's first two


def test_a_run_without_a_checkpoint_begins_again(unequal: Pair, tmp_path: Path) -> None:
    class Killed(Silent):
        def update(self, done: int, **figures: float | str) -> None:
            if done == 3 and "stage" in figures:
                raise KeyboardInterrupt

    config = _config(eval_samples=0, log_every=1)
    whole, _ = _train(config, unequal, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(config, unequal, tmp_path / "cut", Killed())
    cut, _ = _train(config, unequal, tmp_path / "cut", resume=True)
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert _trained_metrics(cut) == _trained_metrics(whole)


def test_a_broken_checkpoint_costs_the_steps_since_the_one_before(unequal: Pair, tmp_path: Path) -> None:
    whole, _ = _train(_config(), unequal, tmp_path / "whole")
    cut, _ = _train(_config(), unequal, tmp_path / "cut", StopAfter(8))
    (cut.checkpoints / "step-0000008/optimiser.safetensors").write_bytes(b"cut short")
    progress = Interrupted()
    cut, document = _train(_config(eval_samples=2), unequal, tmp_path / "cut", progress, resume=True)
    warning, *rest = progress.notes
    assert "step-0000008 is not whole (optimiser.safetensors: not as written)" in warning
    assert "going on from step-0000004" in rest
    assert cut.bridge.read_bytes() == whole.bridge.read_bytes()
    assert document["steps"] == 12


def test_other_training_items_are_refused(unequal: Pair, tmp_path: Path) -> None:
    run, _ = _train(_config(), unequal, tmp_path / "cut", StopAfter(5))
    before = run.metrics.read_bytes()
    config = _config()
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": 19})})
    with pytest.raises(DataError, match="not those that this run began with"):
        train_bridge(config, unequal, run, Silent(), resume=True)
    assert run.metrics.read_bytes() == before


def test_the_bridge_that_validated_best_is_kept(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.4, 0.6, 0.6, 0.5, 0.6, 0.5])
    arms = ("student", "text", "bridge", "deranged")

    def scored(*_: object) -> dict[str, Any]:
        score = next(scores)
        return {"n": 4, "items": [], "arms": {arm: {"accuracy": score} for arm in arms}}

    monkeypatch.setattr("helmas_core.training.validation.evaluate_examples", scored)
    run, document = _train(config := _config(eval_every=3, checkpoint_every=3), unequal, tmp_path / "run")
    assert (document["best"]["step"], document["best"]["bridge"]) == (6, 0.6)
    kept, metadata = read_tensors(run.checkpoints / "best.safetensors")
    assert (metadata["training"]["steps"], metadata["training"]["validation"]["bridge"]) == (6, 0.6)
    assert not torch.equal(kept["blend.logits"], read_tensors(run.bridge)[0]["blend.logits"])
    load_bridge(run.checkpoints / "best.safetensors", unequal)
    _, resumed = _train(config, unequal, tmp_path / "run", resume=True)  # as good as step 6 is not better
    assert resumed["best"]["step"] == 6


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked(unequal: Pair, tmp_path: Path, keep: int) -> None:
    run, _ = _train(_config(checkpoint_every=2, keep_checkpoints=keep, eval_samples=0), unequal, tmp_path / "run")
    assert [path.name for path in checkpoint.steps(run.checkpoints)] == [
        f"step-{step:07d}" for step in (8, 10, 12)[-keep:]
    ]


METHODS: list[dict[str, Any]] = [
    {"method": "kava", "mlp_ratio": 0.1, "student": "lora"},  # dropout
    {"method": "c2c", "hidden": 16},  # drawn gates, and a temperature that follows the steps
    {"method": "modules", "bottleneck": 8, "student": "full"},
]


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_what_a_method_draws_follows_from_the_step(unequal: Pair, tmp_path: Path, options: dict[str, Any]) -> None:
    stages = [{"name": "answers", "steps": 6, "losses": {"ce": 1.0}}]
    config = _config(stages=stages, eval_samples=0, student_learning_rate=1e-4)
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    before = fingerprint(unequal.student.model)
    whole, document = _train(config, unequal, tmp_path / "whole")
    _train(config, unequal, tmp_path / "cut", StopAfter(3))
    cut, _ = _train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert fingerprint(unequal.student.model) == before
    assert ("student" in options) == any(name.startswith("student_") for name in document)


def test_a_closed_form_is_fitted_saved_and_validated_without_steps(unequal: Pair, tmp_path: Path) -> None:
    config = _config(calibration_items=20)
    options = {"method": "ridge", "neighbours": 1, "max_ratio": 1.0}
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    run, document = _train(config, unequal, tmp_path / "run")
    assert document["steps"] == 0 and document["losses"] == {} and document["eval"]["arms"]["bridge"]["n"] == 4
    assert [line["event"] for line in _trained_metrics(run)] == ["start", "validation"]
    assert document["parameters"] == load_bridge(run.bridge, unequal).parameter_count() > 0


def test_the_student_learns_at_its_own_rate(unequal: Pair) -> None:
    section = BridgeSection.model_validate({"method": "kava", "mlp_ratio": 0.1, "student_lora": 2})
    bridge, train = build_bridge(section, unequal), validate(TrainConfig, {"student_learning_rate": 5e-5})
    own, student = parameter_groups(bridge, train)
    assert own["share"] == 1.0 and student["share"] == pytest.approx(0.05)
    assert len(own["params"]) + len(student["params"]) == len(list(bridge.parameters()))
    assert [*own["params"], *student["params"]] == list(bridge.parameters())  # checkpoints count them in this order


def test_the_students_lora_trains_and_resumes_with_the_bridge(unequal: Pair, tmp_path: Path) -> None:
    config, before = _config(), fingerprint(unequal.student.model)
    config = config.model_copy(update={"bridge": config.bridge.model_copy(update={"student_lora": 4})})
    whole, document = _train(config, unequal, tmp_path / "whole")
    _train(config, unequal, tmp_path / "cut", StopAfter(10))
    cut, _ = _train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert _trained_metrics(cut)[-1] == _trained_metrics(whole)[-1]
    lora = {name: tensor for name, tensor in theirs.items() if name.startswith("student_lora.")}
    assert len(lora) == 6 and all(tensor.any() for tensor in lora.values())
    assert document["student_lora_parameters"] == sum(map(torch.numel, lora.values()))
    assert document["eval"]["bridge"]["parameters"] == document["parameters"]
    assert fingerprint(unequal.student.model) == before


def _mixed(dataset: str = "relay", **mix: float) -> Config:
    config = _config()
    return config.model_copy(update={"data": config.data.model_copy(update={"dataset": dataset, "mix": mix})})


def test_a_mixed_run_resumes_bit_for_bit_and_says_what_it_drew(unequal: Pair, tmp_path: Path) -> None:
    config = _mixed(relay=3.0, arithmetic=1.0)
    progress = Interrupted()
    whole, _ = _train(config, unequal, tmp_path / "whole", progress)
    assert "mix: relay 75.0% of 20 items, arithmetic 25.0% of 20 items" in progress.notes
    _train(config, unequal, tmp_path / "cut", StopAfter(5))
    cut, _ = _train(config, unequal, tmp_path / "cut", resume=True)
    (ours, document), (theirs, _) = read_tensors(cut.bridge), read_tensors(whole.bridge)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert document["training"]["dataset"] == "relay,arithmetic"
    assert document["training"]["mix"] == {"relay": 0.75, "arithmetic": 0.25}


def test_the_start_is_fitted_on_the_mix_and_validation_is_not_drawn_from_it(unequal: Pair, tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", config := _mixed("arithmetic", relay=3.0, arithmetic=1.0))
    session = Session(config, unequal, run, Silent())
    examples = session._examples("train")
    fitted = session._calibration(examples, session._mix(examples))
    assert Counter(e.task.name for e in fitted) == {"relay": 12, "arithmetic": 4}
    assert {e.task.name for e in session._examples("validation")} == {"arithmetic"}
    spread = session._calibration(examples, None)
    assert {e.task.name for e in spread} == {"relay", "arithmetic"}
    assert len({e.source for e in spread}) == len(spread) == 16


def test_text_in_the_mix_serves_every_loss_and_is_never_validated(unequal: Pair, tmp_path: Path) -> None:
    (folder := tmp_path / "texts").mkdir()
    for index in range(6):
        (folder / f"{index}.txt").write_text(f"The {index} boats came home late. " * 12)
    source = f"text:{folder}"
    _, document = _train(_mixed("relay", **{source: 3.0, "relay": 1.0}), unequal, tmp_path / "run")
    assert document["eval"]["dataset"] == "relay"
    assert all(math.isfinite(value) for value in document["losses"].values())
    assert document["losses"].keys() == {"loss", "attention", "ce", "kl"}
    alone = _mixed(source, **{source: 1.0})
    with pytest.raises(DataError, match=r"no accuracy"):
        _train(alone, unequal, tmp_path / "refused")
    unscored = alone.model_copy(update={"train": alone.train.model_copy(update={"eval_samples": 0})})
    assert _train(unscored, unequal, tmp_path / "alone")[1]["steps"] == 12


class Interrupted(Silent):
    """Asks to stop, or stops at once, when the first batch of the last validation is done."""

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.stop, self.notes = at_once, False, list[str]()
        self.begun: list[tuple[str, int]] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.begun.append((name, done))

    def update(self, done: int, **figures: float | str) -> None:
        self.stop = "arm" in figures
        if self.stop and self.at_once:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop_requested(self) -> bool:
        return self.stop


@pytest.mark.parametrize("at_once", [False, True])
def test_an_interrupted_last_validation_costs_only_the_scores(unequal: Pair, tmp_path: Path, at_once: bool) -> None:
    progress = Interrupted(at_once)
    run, document = _train(_config(), unequal, tmp_path / "run", progress)
    assert (document["steps"], document["eval"]) == (12, None)
    assert "training is complete and the bridge saved" in progress.notes[-1]
    load_bridge(run.bridge, unequal)
    _, resumed = _train(_config(), unequal, tmp_path / "run", again := Interrupted(), resume=True)
    assert again.begun[-2:] == [("train", 12), ("evaluate", 0)]
    assert resumed["steps"] == 12


def test_a_validation_that_is_interrupted_midway_is_done_first_later(unequal: Pair, tmp_path: Path) -> None:
    class Held(Interrupted):
        def update(self, done: int, **figures: float | str) -> None:
            self.stop = self.stop or "arm" in figures

    config = _config(eval_every=3)
    whole, _ = _train(config, unequal, tmp_path / "whole")
    run, document = _train(config, unequal, tmp_path / "cut", Held())
    assert (document["steps"], document["eval"]) == (3, None)
    _train(config, unequal, tmp_path / "cut", resume=True)
    assert _trained_metrics(run) == _trained_metrics(whole)
    assert run.bridge.read_bytes() == whole.bridge.read_bytes()


def test_the_seed_decides(unequal: Pair, tmp_path: Path) -> None:
    first, _ = _train(_config(eval_samples=0), unequal, tmp_path / "a")
    second, _ = _train(_config(eval_samples=0, seed=1), unequal, tmp_path / "b")
    ours, theirs = read_tensors(first.bridge)[0], read_tensors(second.bridge)[0]
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_accumulation_equals_a_larger_batch(unequal: Pair, tmp_path: Path) -> None:
    stages = [{"name": "functional", "steps": 3, "losses": {"ce": 1.0}}]
    small = {"stages": stages, "eval_samples": 0, "continuation": 0.0, "log_every": 1}
    losses = []
    for name, sizes in (("whole", {"batch": 4}), ("parts", {"batch": 2, "accumulate": 2})):
        config = _config(**small, **sizes)
        config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": "relay"})})
        run, _ = _train(config, unequal, tmp_path / name)
        losses.append([line["loss"] for line in _trained_metrics(run) if line["event"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_budget_for_states_changes_nothing_but_time(unequal: Pair, tmp_path: Path) -> None:
    kept, _ = _train(_config(eval_samples=0), unequal, tmp_path / "a")
    again, _ = _train(_config(eval_samples=0, state_gib=0.0), unequal, tmp_path / "b")
    ours, theirs = (read_tensors(run.bridge)[0]["blend.logits"] for run in (kept, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_bf16_autocast_trains_fp32_parameters(unequal: Pair, tmp_path: Path) -> None:
    _train(_config(eval_samples=0), unequal, tmp_path / "before")  # accelerate would keep this run's precision
    run, document = _train(_config(amp="bf16", eval_samples=0), unequal, tmp_path / "run")
    assert all(t.dtype == torch.float32 for t in read_tensors(run.bridge)[0].values())
    assert document["losses"]["loss"] > 0


def test_the_test_split_is_refused_unless_asked_for_by_name(unequal: Pair, tmp_path: Path) -> None:
    config = _config()
    config = config.model_copy(update={"data": config.data.model_copy(update={"split": "test"})})
    with pytest.raises(ConfigError, match="allow_test_split"):
        _train(config, unequal, tmp_path / "run")


def test_a_split_that_holds_the_test_items_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("")
    config = load_config(["lab"], [f"data.dataset=jsonl:{tmp_path / 'own.jsonl'}", "data.split=all"])
    with pytest.raises(ConfigError, match="holds test items"):
        refuse_test_split(config)


def test_shared_items_are_refused(unequal: Pair) -> None:
    from tests.numerics.test_losses import relay_examples

    examples = relay_examples(unequal, 4)
    refuse_overlap(examples[:2], examples[2:])
    with pytest.raises(DataError, match="1 validation items"):
        refuse_overlap(examples[:3], examples[2:])


def test_a_loss_that_is_not_finite_stops_the_run(unequal: Pair, tmp_path: Path) -> None:
    config = _config(
        stages=[{"name": "warm", "steps": 60, "losses": {"cache_mse": 1.0}, "learning_rate": 1e30}], clip=1e30
    )
    with pytest.raises(TrainingError, match="lower the learning rate"):
        _train(config, unequal, tmp_path / "run")


def test_a_run_can_go_on_from_another_bridge(unequal: Pair, tmp_path: Path) -> None:
    first, _ = _train(_config(eval_samples=0), unequal, tmp_path / "a")
    still = {"name": "still", "steps": 1, "losses": {"ce": 1.0}, "learning_rate": 1e-12}
    second, _ = _train(_config(eval_samples=0, init=first.bridge, stages=[still]), unequal, tmp_path / "b")
    ours, theirs = (read_tensors(run.bridge)[0] for run in (first, second))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-9) for name in ours)
    whole, _ = _train(config := _config(eval_samples=0, init=first.bridge), unequal, tmp_path / "whole")
    _train(config, unequal, tmp_path / "cut", StopAfter(8))
    first.bridge.rename(moved := tmp_path / "moved.safetensors")
    cut, _ = _train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = (read_tensors(run.bridge)[0] for run in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    elsewhere = _config(eval_samples=0, init=moved, stages=[still])
    elsewhere = elsewhere.model_copy(update={"data": elsewhere.data.model_copy(update={"dataset": "arithmetic"})})
    third, _ = _train(elsewhere, unequal, tmp_path / "third")
    assert unpack_hashes(hashes_of(moved)) <= unpack_hashes(hashes_of(third.bridge))  # relay is not forgotten
    other = tiny_pair(unequal.student.model, unequal.student.model)
    with pytest.raises(CheckpointError, match="another pair"):
        _train(_config(init=moved), other, tmp_path / "c")
    with pytest.raises(CheckpointError, match="no such file"):
        _train(_config(init=tmp_path / "none"), unequal, tmp_path / "d")
