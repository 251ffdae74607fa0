"""Losses: a gradient for every parameter, padding without effect, values that can be worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection, TrainConfig
from helmas_core.data import relay
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task
from helmas_core.errors import CacheError
from helmas_core.handoff.examples import Example, make_example
from helmas_core.models.adapter import output_projections
from helmas_core.models.cache import capture
from helmas_core.models.inject import forward
from helmas_core.models.pair import Pair
from helmas_core.models.record import attention_of, record_queries
from helmas_core.models.tokens import pad_left
from helmas_core.training import losses
from helmas_core.training.following import Following
from helmas_core.training.objective import Objective
from helmas_core.validation import validate
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
BRIDGES: list[dict[str, Any]] = [
    {"start": "random"},
    {"start": "random", "layer_blending": "blend", "mode": "fuse"},
    {"start": "random", "projector_input": "layer", "layer_blending": "attention"},
    {"start": "random", "projector_input": "neighbourhood"},
    {"projector_input": "neighbourhood", "rank": 8, "ridge": "auto"},
    {"start": "random", "projector_input": "layer", "rank": 8, "projector_depth": 1, "mode": "fuse"},
    {"start": "random", "rope_handling": "naive", "projector_depth": 3},
]


def relay_examples(pair: Pair, count: int = 4) -> list[Example]:
    task = get_task("relay")
    return [make_example(pair, task, item, render(task, item, "prompt")) for item in relay.items("train", count)]


@pytest.mark.parametrize("loss", ["attention", "cache_mse", "ce", "kl"])
@pytest.mark.parametrize("options", BRIDGES, ids=str)
def test_every_parameter_gets_a_gradient(unequal: Pair, options: dict[str, Any], loss: str) -> None:
    bridge = build_bridge(BridgeSection.model_validate(options), unequal)
    objective = Objective(unequal, bridge, validate(TrainConfig, {"continuation": 0.5}))
    examples = relay_examples(unequal)
    bridge.fit([objective.states(examples)])
    for parameter in bridge.parameters():  # a map that starts at zero passes no gradient back; give it one step's worth
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    total, terms = objective(examples, {loss: 1.0}, random.Random(0))
    total.backward()
    assert terms.keys() == {loss}
    for name, parameter in bridge.named_parameters():
        if loss == "cache_mse" and name == "gate":
            continue  # the standardised target is compared before the gate
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_models_get_none(unequal: Pair) -> None:
    bridge = build_bridge(BridgeSection(), unequal)
    objective = Objective(unequal, bridge, validate(TrainConfig, {}))
    objective(relay_examples(unequal), {"ce": 1.0, "attention": 1.0}, random.Random(0))[0].backward()
    models = (unequal.teacher.model, unequal.student.model)
    assert not any(p.requires_grad or p.grad is not None for m in models for p in m.parameters())


def test_padding_leaves_every_loss_unchanged(unequal: Pair) -> None:
    bridge = build_bridge(BridgeSection(), unequal)
    objective = Objective(unequal, bridge, validate(TrainConfig, {}))
    short, long = sorted(relay_examples(unequal, 12), key=lambda e: len(e.source))[::11]
    weights = {"attention": 1.0, "cache_mse": 1.0, "ce": 1.0, "kl": 1.0}
    alone = [objective([e], weights, random.Random(0))[1] for e in (short, long)]
    both = objective([short, long], weights, random.Random(0))[1]
    tokens = [len(e.source) for e in (short, long)]
    mse = sum(a["cache_mse"] * n for a, n in zip(alone, tokens, strict=True)) / sum(tokens)
    assert both["cache_mse"] == pytest.approx(mse, rel=1e-4)
    for name in ("ce", "kl"):
        scored = [len(e.target) for e in (short, long)]
        mean = sum(a[name] * n for a, n in zip(alone, scored, strict=True)) / sum(scored)
        assert both[name] == pytest.approx(mean, rel=1e-3)


def test_attention_and_kl_are_zero_for_the_students_own_cache(unequal: Pair) -> None:
    model = unequal.student.model
    own = capture(model, *pad_left([[5, 6, 7, 8], [9, 10]], 0))
    ids, mask = pad_left([[11, 12], [13]], 0)
    with record_queries(model) as recording:
        logits = forward(model, own, ids, mask)
    assert losses.attention_consistency(recording, own, own, mask.bool()).item() == 0.0
    shifted = own.map(lambda t: t + 0.5)
    assert losses.attention_consistency(recording, shifted, own, mask.bool()).item() > 1e-3
    assert losses.kl_divergence(logits, logits, ids).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.kl_divergence(logits * 0.5, logits, ids).item() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_queries_give_the_attention_that_the_model_computes(family: str) -> None:
    """With one following token, attention over the cache and that token is what the model's o_proj reads."""
    model = tiny_model(family)
    if family == "gpt_neo":
        with pytest.raises(CacheError, match=r"gpt_neo .* queries cannot be recorded — leave the loss"):
            record_queries(model).__enter__()
        return
    name, holders = output_projections(model)
    source = torch.randint(1, 512, (1, 12), generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    hooks = [
        getattr(holder, name).register_forward_hook(lambda _m, args, _o: seen.append(args[0])) for holder in holders
    ]
    cache = capture(model, source[:, :11], torch.ones(1, 11))
    seen.clear()
    before = attention_of(model)
    with record_queries(model) as recording:
        forward(model, cache, source[:, 11:], torch.ones(1, 1))
    for hook in hooks:
        hook.remove()
    assert attention_of(model) == before
    full = capture(model, source, torch.ones_like(source))
    for index, (query, scale, cap) in enumerate(zip(recording.queries, recording.scales, recording.caps, strict=True)):
        ours = losses.attention_output(query, full.keys[index], full.values[index], full.mask, scale, cap)
        torch.testing.assert_close(ours.transpose(1, 2).flatten(2), seen[index], rtol=1e-4, atol=1e-4)


def test_cache_mse_by_hand() -> None:
    ones, zeros = torch.ones(1, 2, 1, 3, 4), torch.zeros(1, 2, 1, 3, 4)
    mask = torch.tensor([[False, True, True]])
    assert losses.cache_mse((ones, 2 * ones), (zeros, zeros), mask).item() == pytest.approx(2.5)


def test_cross_entropy_scores_only_labelled_positions() -> None:
    logits = torch.zeros(1, 3, 10)
    logits[0, 1, 4] = 100.0
    labels = torch.tensor([[losses.IGNORE, 4, losses.IGNORE]])
    assert losses.cross_entropy(logits, labels).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.cross_entropy(logits, torch.tensor([[4, losses.IGNORE, losses.IGNORE]])).item() == pytest.approx(
        2.3026, abs=1e-3
    )


def test_every_row_counts_the_same_however_many_tokens_it_scores() -> None:
    logits, reference = torch.randn(2, 3, 3, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3], [losses.IGNORE, losses.IGNORE, 4], [losses.IGNORE] * 3])
    singles = [losses.cross_entropy(logits[[i]], labels[[i]]) for i in range(2)]
    torch.testing.assert_close(losses.cross_entropy(logits, labels), torch.stack(singles).mean())
    singles = [losses.kl_divergence(logits[[i]], reference[[i]], labels[[i]]) for i in range(2)]
    torch.testing.assert_close(losses.kl_divergence(logits, reference, labels), torch.stack(singles).mean())


@pytest.mark.parametrize(("loss", "wanted"), [("attention", True), ("kl", True), ("ce", False)])
def test_the_student_reads_the_text_only_for_a_loss_that_compares(
    unequal: Pair, loss: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(unequal, build_bridge(BridgeSection(), unequal), TrainConfig())
    asked: list[object] = []
    right = objective._reference
    monkeypatch.setattr(objective, "_reference", lambda *given: asked.append(given) or right(*given))
    objective(relay_examples(unequal), {loss: 1.0, "cache_mse": 1.0}, random.Random(0))
    assert bool(asked) == wanted


@pytest.mark.parametrize("losses_of", [{"ce": 1.0}, {"kl": 1.0}, {"ce": 1.0, "kl": 1.0}])
def test_short_and_long_rows_apart_give_the_losses_and_gradients_of_all_together(
    unequal: Pair, losses_of: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(unequal, build_bridge(BridgeSection(), unequal), TrainConfig(continuation=0.5))
    examples, found = relay_examples(unequal), []
    for groups in ([[0, 1, 2, 3]], [[2, 0], [1, 3]]):
        monkeypatch.setattr(Following, "by_length", lambda self, groups=groups: [torch.tensor(g) for g in groups])
        objective.bridge.zero_grad()
        total, _ = objective(examples, losses_of, random.Random(3))
        total.backward()
        found.append([total.detach(), *(p.grad for p in objective.bridge.parameters() if p.grad is not None)])
    assert len(found[0]) > 1
    for apart, whole in zip(*found, strict=True):
        torch.testing.assert_close(apart, whole, rtol=2e-4, atol=2e-6)


def test_rows_are_parted_where_padding_would_be_a_third_of_the_work() -> None:
    def following(*lengths: int) -> Following:
        ids, mask = pad_left([[7] * n for n in lengths], 0)
        labels, _ = pad_left([[losses.IGNORE] * (n - 1) + [7] for n in lengths], losses.IGNORE)
        return Following(ids, mask, labels, torch.tensor(lengths))

    mixed = following(9, 40, 8, 5)
    short, long = mixed.by_length()
    assert sorted(short.tolist()) == [0, 2, 3] and long.tolist() == [1]
    part = mixed.rows(short)
    assert part.ids.shape == (3, 9) and part.visible.tolist() == [mixed.visible[i] for i in short]
    assert part.columns.tolist() == [8] and mixed.columns.tolist() == [39]
    assert [sorted(g.tolist()) for g in following(9, 10, 8).by_length()] == [[0, 1, 2]]
    assert [g.tolist() for g in following(9).by_length()] == [[0]]
