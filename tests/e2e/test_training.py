"""Training from end to end on tiny random pairs: it learns, logs, resumes bit for bit, and stops when asked."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from helmas_core.bridges.artefact import load_bridge, read_tensors
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, Config, TrainConfig
from helmas_core.data.overlap import unpack_hashes
from helmas_core.errors import CheckpointError, ConfigError, DataError, TrainingError
from helmas_core.layering import load_config
from helmas_core.models.loading import fingerprint
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.loop import parameter_groups
from helmas_core.training.refusals import refuse_overlap, refuse_test_split
from helmas_core.training.session import Session, hashes_of
from helmas_core.validation import validate
from tests.e2e.sessions import Interrupted, StopAfter, config_of, train, trained_metrics
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.e2e


def test_a_run_leaves_everything_behind(unequal: Pair, tmp_path: Path) -> None:
    run, document = train(config_of(), unequal, tmp_path / "run")
    assert document["steps"] == 12
    assert document["losses"].keys() == {"loss", "attention", "ce", "kl"}
    assert document["eval"]["arms"].keys() == {"student", "text", "bridge", "deranged"}
    assert Path(document["bridge"]) == run.bridge
    load_bridge(run.bridge, unequal)
    events = [line["event"] for line in trained_metrics(run)]
    assert events == ["start", *["train"] * 6, "validation"]
    assert trained_metrics(run)[-1].keys() >= {"student", "text", "bridge", "deranged", *document["losses"]}
    assert [p.name for p in sorted(run.checkpoints.iterdir())] == ["best.safetensors", "step-0000008", "step-0000012"]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    model = tiny_model("llama")
    stages = [{"name": "warm", "steps": 40, "losses": {"cache_mse": 1.0}, "learning_rate": 1e-2}]
    config = config_of(stages=stages, batch=8, eval_samples=0, log_every=1)
    options = {"start": "random", "layer_blending": "skip", "projector_depth": 1}
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    run, _ = train(config, tiny_pair(model, model), tmp_path / "run")
    losses = [line["loss"] for line in trained_metrics(run) if line["event"] == "train"]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_a_stage_begins_with_moments_of_its_own(unequal: Pair, tmp_path: Path) -> None:
    """By what Adam kept of a loss with tiny gradients, the first steps of another one would be leaps."""
    run, _ = train(config_of(checkpoint_every=1), unequal, tmp_path / "run", StopAfter(8))
    counts = [
        {
            int(value)
            for name, value in read_tensors(path / "optimiser.safetensors")[0].items()
            if name.endswith(".step")
        }
        for path in sorted(run.checkpoints.glob("step-*"))
    ]
    assert counts == [{1}, {2}]  # the seventh and eighth step are the second stage's first two


def test_a_closed_form_is_fitted_saved_and_validated_without_steps(unequal: Pair, tmp_path: Path) -> None:
    config = config_of(calibration_items=20)
    options = {"method": "ridge", "neighbours": 1, "max_ratio": 1.0}
    config = config.model_copy(update={"bridge": config.bridge.model_validate(options)})
    run, document = train(config, unequal, tmp_path / "run")
    assert document["steps"] == 0 and document["losses"] == {} and document["eval"]["arms"]["bridge"]["n"] == 4
    assert [line["event"] for line in trained_metrics(run)] == ["start", "validation"]
    assert document["parameters"] == load_bridge(run.bridge, unequal).parameter_count() > 0


def test_the_student_learns_at_its_own_rate(unequal: Pair) -> None:
    section = BridgeSection.model_validate({"method": "kava", "mlp_ratio": 0.1, "student_lora": 2})
    bridge, train = build_bridge(section, unequal), validate(TrainConfig, {"student_learning_rate": 5e-5})
    own, student = parameter_groups(bridge, train)
    assert own["share"] == 1.0 and student["share"] == pytest.approx(0.05)
    assert len(own["params"]) + len(student["params"]) == len(list(bridge.parameters()))
    assert [*own["params"], *student["params"]] == list(bridge.parameters())  # checkpoints count them in this order


def test_the_students_lora_trains_and_resumes_with_the_bridge(unequal: Pair, tmp_path: Path) -> None:
    config, before = config_of(), fingerprint(unequal.student.model)
    config = config.model_copy(update={"bridge": config.bridge.model_copy(update={"student_lora": 4})})
    whole, document = train(config, unequal, tmp_path / "whole")
    train(config, unequal, tmp_path / "cut", StopAfter(10))
    cut, _ = train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = read_tensors(cut.bridge)[0], read_tensors(whole.bridge)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert trained_metrics(cut)[-1] == trained_metrics(whole)[-1]
    lora = {name: tensor for name, tensor in theirs.items() if name.startswith("student_lora.")}
    assert len(lora) == 6 and all(tensor.any() for tensor in lora.values())
    assert document["student_lora_parameters"] == sum(map(torch.numel, lora.values()))
    assert document["eval"]["bridge"]["parameters"] == document["parameters"]
    assert fingerprint(unequal.student.model) == before


def _mixed(dataset: str = "relay", **mix: float) -> Config:
    config = config_of()
    return config.model_copy(update={"data": config.data.model_copy(update={"dataset": dataset, "mix": mix})})


def test_a_mixed_run_resumes_bit_for_bit_and_says_what_it_drew(unequal: Pair, tmp_path: Path) -> None:
    config = _mixed(relay=3.0, arithmetic=1.0)
    progress = Interrupted()
    whole, _ = train(config, unequal, tmp_path / "whole", progress)
    assert "mix: relay 75.0% of 20 items, arithmetic 25.0% of 20 items" in progress.notes
    train(config, unequal, tmp_path / "cut", StopAfter(5))
    cut, _ = train(config, unequal, tmp_path / "cut", resume=True)
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
    _, document = train(_mixed("relay", **{source: 3.0, "relay": 1.0}), unequal, tmp_path / "run")
    assert document["eval"]["dataset"] == "relay"
    assert all(math.isfinite(value) for value in document["losses"].values())
    assert document["losses"].keys() == {"loss", "attention", "ce", "kl"}
    alone = _mixed(source, **{source: 1.0})
    with pytest.raises(DataError, match=r"no accuracy"):
        train(alone, unequal, tmp_path / "refused")
    unscored = alone.model_copy(update={"train": alone.train.model_copy(update={"eval_samples": 0})})
    assert train(unscored, unequal, tmp_path / "alone")[1]["steps"] == 12


def test_the_seed_decides(unequal: Pair, tmp_path: Path) -> None:
    first, _ = train(config_of(eval_samples=0), unequal, tmp_path / "a")
    second, _ = train(config_of(eval_samples=0, seed=1), unequal, tmp_path / "b")
    ours, theirs = read_tensors(first.bridge)[0], read_tensors(second.bridge)[0]
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_accumulation_equals_a_larger_batch(unequal: Pair, tmp_path: Path) -> None:
    stages = [{"name": "functional", "steps": 3, "losses": {"ce": 1.0}}]
    small = {"stages": stages, "eval_samples": 0, "continuation": 0.0, "log_every": 1}
    losses = []
    for name, sizes in (("whole", {"batch": 4}), ("parts", {"batch": 2, "accumulate": 2})):
        config = config_of(**small, **sizes)
        config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": "relay"})})
        run, _ = train(config, unequal, tmp_path / name)
        losses.append([line["loss"] for line in trained_metrics(run) if line["event"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_budget_for_states_changes_nothing_but_time(unequal: Pair, tmp_path: Path) -> None:
    kept, _ = train(config_of(eval_samples=0), unequal, tmp_path / "a")
    again, _ = train(config_of(eval_samples=0, state_gib=0.0), unequal, tmp_path / "b")
    ours, theirs = (read_tensors(run.bridge)[0]["blend.logits"] for run in (kept, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_bf16_autocast_trains_fp32_parameters(unequal: Pair, tmp_path: Path) -> None:
    train(config_of(eval_samples=0), unequal, tmp_path / "before")  # accelerate would keep this run's precision
    run, document = train(config_of(amp="bf16", eval_samples=0), unequal, tmp_path / "run")
    assert all(t.dtype == torch.float32 for t in read_tensors(run.bridge)[0].values())
    assert document["losses"]["loss"] > 0


def test_the_test_split_is_refused_unless_asked_for_by_name(unequal: Pair, tmp_path: Path) -> None:
    config = config_of()
    config = config.model_copy(update={"data": config.data.model_copy(update={"split": "test"})})
    with pytest.raises(ConfigError, match="allow_test_split"):
        train(config, unequal, tmp_path / "run")


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
    config = config_of(
        stages=[{"name": "warm", "steps": 60, "losses": {"cache_mse": 1.0}, "learning_rate": 1e30}], clip=1e30
    )
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(config, unequal, tmp_path / "run")


def test_a_run_can_go_on_from_another_bridge(unequal: Pair, tmp_path: Path) -> None:
    first, _ = train(config_of(eval_samples=0), unequal, tmp_path / "a")
    still = {"name": "still", "steps": 1, "losses": {"ce": 1.0}, "learning_rate": 1e-12}
    second, _ = train(config_of(eval_samples=0, init=first.bridge, stages=[still]), unequal, tmp_path / "b")
    ours, theirs = (read_tensors(run.bridge)[0] for run in (first, second))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-9) for name in ours)
    whole, _ = train(config := config_of(eval_samples=0, init=first.bridge), unequal, tmp_path / "whole")
    train(config, unequal, tmp_path / "cut", StopAfter(8))
    first.bridge.rename(moved := tmp_path / "moved.safetensors")
    cut, _ = train(config, unequal, tmp_path / "cut", resume=True)
    ours, theirs = (read_tensors(run.bridge)[0] for run in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    elsewhere = config_of(eval_samples=0, init=moved, stages=[still])
    elsewhere = elsewhere.model_copy(update={"data": elsewhere.data.model_copy(update={"dataset": "arithmetic"})})
    third, _ = train(elsewhere, unequal, tmp_path / "third")
    assert unpack_hashes(hashes_of(moved)) <= unpack_hashes(hashes_of(third.bridge))  # relay is not forgotten
    other = tiny_pair(unequal.student.model, unequal.student.model)
    with pytest.raises(CheckpointError, match="another pair"):
        train(config_of(init=moved), other, tmp_path / "c")
    with pytest.raises(CheckpointError, match="no such file"):
        train(config_of(init=tmp_path / "none"), unequal, tmp_path / "d")
