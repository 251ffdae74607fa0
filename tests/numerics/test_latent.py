"""Latent steps: the same numbers by a second route, batched, stored apart, seen after a hand-off and only then."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from helmas_core.bridges.registry import build_bridge, check_method
from helmas_core.config import BridgeSection, TrainConfig
from helmas_core.errors import ConfigError
from helmas_core.handoff.shelf import Shelf
from helmas_core.handoff.states import States
from helmas_core.handoff.store import Store
from helmas_core.layering import load_config
from helmas_core.models.cache import capture
from helmas_core.models.latent import Latent, aligning
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import pad_left
from helmas_core.training.objective import Objective
from helmas_core.validation import validate
from tests.numerics.test_losses import relay_examples
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
SOURCES = [tuple(range(5, 5 + n)) for n in (12, 7, 19, 3)]


@torch.no_grad()
def _by_hand(model: PreTrainedModel, source: tuple[int, ...], latent: Latent) -> torch.Tensor:
    """The whole sequence anew at every step, without a cache; returns the last hidden states, [1, T + S, E]."""
    inputs = model.get_input_embeddings()(torch.tensor([source]))
    for _ in range(latent.steps):
        states = model.base_model(inputs_embeds=inputs).last_hidden_state
        inputs = torch.cat((inputs, latent.inputs(states[:, -1:])), 1)
    return model.base_model(inputs_embeds=inputs).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_the_whole_sequence_read_anew(family: str) -> None:
    model = tiny_model(family)
    latent = Latent(model, 4)
    state = latent.read(*pad_left(SOURCES, 0), (1, 3))
    assert state.length == 23 and [h.shape for h in state.hidden] == [(4, 1, 23, 64)] * 2
    assert state.next_positions().tolist() == [len(source) + 4 for source in SOURCES]
    for index, source in enumerate(SOURCES):
        known = _by_hand(model, source, latent)
        torch.testing.assert_close(state.row(index).hidden[-1][:, 0], known, rtol=1e-3, atol=1e-3)
    plain = capture(model, *pad_left(SOURCES, 0))
    assert all(torch.equal(a, b) for a, b in zip(state.first(19).keys, plain.keys, strict=True))


def test_a_state_that_speaks_for_a_word_becomes_that_words_input() -> None:
    tied = tiny_model("qwen2", tie_word_embeddings=True)
    weight, length = aligning(tied)
    torch.testing.assert_close(weight, torch.eye(64), rtol=0, atol=0.01)
    words: Any = tied.get_input_embeddings().weight
    made = Latent(tied, 1).inputs(3 * words[7][None, None])
    assert made.norm().item() == pytest.approx(length.item(), rel=1e-4)
    assert torch.cosine_similarity(made[0, 0], words[7], dim=0).item() > 0.999


def test_steps_are_stored_apart(unequal: Pair, tmp_path: Path) -> None:
    store, thinking = Store(tmp_path, 1.0), replace(unequal.teacher, latent=Latent(unequal.teacher.model, 2))
    plain = States(unequal.teacher, 0, 0, Shelf(store, unequal, unequal.teacher, "model"))
    thought = States(thinking, 0, 0, Shelf(store, unequal, thinking, "model"))
    plain.fill(SOURCES, 4)
    assert thought.known(SOURCES) == 0
    thought.fill(SOURCES, 4)
    assert thought.known(SOURCES) == plain.known(SOURCES) == 4
    assert thought.read(SOURCES).length == plain.read(SOURCES).length + 2


def test_an_answer_sees_the_steps_and_a_continuation_does_not(unequal: Pair) -> None:
    thinking = replace(unequal, teacher=replace(unequal.teacher, latent=Latent(unequal.teacher.model, 3)))
    bridge = build_bridge(BridgeSection.model_validate({"start": "random"}), unequal)
    for continuation in (0.0, 1.0):
        train = validate(TrainConfig, {"continuation": continuation})
        terms = [
            Objective(pair, bridge, train)(relay_examples(unequal), {"ce": 1.0, "cache_mse": 1.0}, random.Random(0))[1]
            for pair in (unequal, thinking)
        ]
        assert terms[0]["cache_mse"] == pytest.approx(terms[1]["cache_mse"], rel=1e-5)
        assert (terms[0]["ce"] == pytest.approx(terms[1]["ce"], rel=1e-5)) == (continuation == 1.0)


def test_who_fuses_token_by_token_has_no_use_for_them() -> None:
    train = load_config(["lab"], ["train.stages=[{name='a', steps=1, losses={ce=1.0}}]"]).train
    with pytest.raises(ConfigError, match=r"data\.handoff: c2c fuses token by token"):
        check_method(BridgeSection.model_validate({"method": "c2c"}), train, "latent")
    for method in ("helmas", "h2c"):
        check_method(BridgeSection.model_validate({"method": method}), train, "latent")
