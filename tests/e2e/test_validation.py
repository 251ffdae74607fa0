"""Validation while training: what it tells, keeps, and leaves to do when it is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helmas_core.bridges.artefact import load_bridge, read_tensors
from helmas_core.bridges.registry import build_bridge
from helmas_core.handoff.prepare import prepare
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.training.loop import Trainer
from helmas_core.training.objective import Objective
from tests.e2e.sessions import Interrupted, config_of, train, trained_metrics

pytestmark = pytest.mark.e2e


def test_losses_of_what_is_held_out_are_those_of_the_stage_and_always_alike(unequal: Pair) -> None:
    config, bridge = config_of(), build_bridge(config_of().bridge, unequal)
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
    run, document = train(config_of(), unequal, tmp_path / "run")
    assert document["eval"]["arms"].keys() == {"student", "text", "bridge", "deranged"}
    assert "loss" not in trained_metrics(run)[-1] and (run.checkpoints / "best.safetensors").exists()


def test_the_bridge_that_validated_best_is_kept(unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.4, 0.6, 0.6, 0.5, 0.6, 0.5])
    arms = ("student", "text", "bridge", "deranged")

    def scored(*_: object) -> dict[str, Any]:
        score = next(scores)
        return {"n": 4, "items": [], "arms": {arm: {"accuracy": score} for arm in arms}}

    monkeypatch.setattr("helmas_core.training.validation.evaluate_examples", scored)
    run, document = train(config := config_of(eval_every=3, checkpoint_every=3), unequal, tmp_path / "run")
    assert (document["best"]["step"], document["best"]["bridge"]) == (6, 0.6)
    kept, metadata = read_tensors(run.checkpoints / "best.safetensors")
    assert (metadata["training"]["steps"], metadata["training"]["validation"]["bridge"]) == (6, 0.6)
    assert not torch.equal(kept["blend.logits"], read_tensors(run.bridge)[0]["blend.logits"])
    load_bridge(run.checkpoints / "best.safetensors", unequal)
    _, resumed = train(config, unequal, tmp_path / "run", resume=True)  # as good as step 6 is not better
    assert resumed["best"]["step"] == 6


@pytest.mark.parametrize("at_once", [False, True])
def test_an_interrupted_last_validation_costs_only_the_scores(unequal: Pair, tmp_path: Path, at_once: bool) -> None:
    progress = Interrupted(at_once)
    run, document = train(config_of(), unequal, tmp_path / "run", progress)
    assert (document["steps"], document["eval"]) == (12, None)
    assert "training is complete and the bridge saved" in progress.notes[-1]
    load_bridge(run.bridge, unequal)
    _, resumed = train(config_of(), unequal, tmp_path / "run", again := Interrupted(), resume=True)
    assert again.begun[-2:] == [("train", 12), ("evaluate", 0)]
    assert resumed["steps"] == 12


def test_a_validation_that_is_interrupted_midway_is_done_first_later(unequal: Pair, tmp_path: Path) -> None:
    class Held(Interrupted):
        def update(self, done: int, **figures: float | str) -> None:
            self.stop = self.stop or "arm" in figures

    config = config_of(eval_every=3)
    whole, _ = train(config, unequal, tmp_path / "whole")
    run, document = train(config, unequal, tmp_path / "cut", Held())
    assert (document["steps"], document["eval"]) == (3, None)
    train(config, unequal, tmp_path / "cut", resume=True)
    assert trained_metrics(run) == trained_metrics(whole)
    assert run.bridge.read_bytes() == whole.bridge.read_bytes()
