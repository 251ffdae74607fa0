"""Many prompts, read at the least cost: what they begin with once, long ones apart, and nothing is changed by it."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from transformers import PreTrainedModel

from helmas_core.models import prefix
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.inject import forward, generate
from helmas_core.models.latent import Latent
from helmas_core.models.pair import Member, Pair
from helmas_core.models.prefix import common_length, cost_of_a_pass, read_shared
from helmas_core.models.tokens import pad_left
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
SHARED = [3 + i % 50 for i in range(40)]
PROMPTS = [[*SHARED, *rest] for rest in ([7], [9, 8, 7], [60, 61, 5, 2, 9])]


@pytest.fixture(autouse=True)
def _small_models_cost_as_little_as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prefix.COST, "cpu", (len(SHARED), 0))


def _shared(model: PreTrainedModel, prompts: list[list[int]]) -> tuple[KVCache | None, torch.Tensor, torch.Tensor]:
    return read_shared(model, prompts, 0, torch.device("cpu"))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_shared_beginning_changes_nothing(family: str) -> None:
    model = tiny_model(family)
    cache, ids, mask = _shared(model, PROMPTS)
    assert cache is not None and cache.length == len(SHARED) and ids.shape == (3, 5)
    whole, apart = pad_left(PROMPTS, 0), forward(model, cache, ids, mask)
    torch.testing.assert_close(apart[:, -1], forward(model, None, *whole)[:, -1], rtol=1e-4, atol=1e-5)
    assert generate(model, cache, ids, mask, 6).tokens == generate(model, None, *whole, 6).tokens


def test_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []

    def counted(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> KVCache:
        read.append(tuple(ids.shape))
        return capture(model, ids, mask)

    monkeypatch.setattr("helmas_core.models.prefix.capture", counted)
    _shared(tiny_model("qwen2"), PROMPTS)
    assert read == [(1, len(SHARED))]


@pytest.mark.parametrize(
    "prompts",
    [[PROMPTS[0]], [[5, *PROMPTS[0]], PROMPTS[1]], [[*SHARED, 1], [*SHARED, 2]]],
    ids=["alone", "other beginnings", "as long as a pass costs"],
)
def test_what_is_not_worth_it_is_read_whole(prompts: list[list[int]]) -> None:
    cache, ids, mask = _shared(tiny_model("qwen2"), prompts)
    assert cache is None
    assert [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)] == prompts


def test_a_prompt_that_begins_another_keeps_a_token() -> None:
    cache, ids, mask = _shared(tiny_model("qwen2"), [SHARED, [*SHARED, 7, 8], [*SHARED, 7]])
    assert cache is not None and cache.length == len(SHARED) - 1
    assert mask.sum(1).tolist() == [1, 3, 2]
    assert ids[0, -1] == SHARED[-1]


def test_it_pays_once_it_saves_more_than_a_pass() -> None:
    cost = cost_of_a_pass(tiny_model("qwen2"))
    assert len(SHARED) == cost
    for rows, length in ((2, 0), (3, cost)):
        assert common_length([[*SHARED, row] for row in range(rows)], cost) == length


@pytest.mark.parametrize(
    ("device", "layers", "width", "tokens"),
    [("cuda", 28, 1.54e9, 8182), ("cuda", 36, 8e9, 2025), ("cpu", 28, 1.54e9, 42), ("cpu", 8, 1.7e6, 511)],
)
def test_a_pass_costs_fewer_tokens_of_a_larger_model(
    device: str, layers: int, width: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model = MagicMock(device=torch.device(device), num_parameters=lambda: width)
    model.config.get_text_config.return_value.num_hidden_layers = layers
    assert cost_of_a_pass(model) == tokens


MANY = [[*SHARED, *range(5, 5 + length)] for length in (9, 2, 190, 3, 180)]


@pytest.mark.parametrize("hidden", [(), (0, 2, 4)], ids=["keys and values", "with hidden states"])
@pytest.mark.parametrize("prompts", [MANY, MANY[:2] + MANY[3:4], [SHARED, *MANY], [row[1:] for row in MANY[::2]]])
def test_many_are_read_as_all_at_once(unequal: Pair, hidden: tuple[int, ...], prompts: list[list[int]]) -> None:
    _assert_as_at_once(unequal.teacher, prompts, hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_reads_on_from_what_is_shared(unequal: Pair, family: str) -> None:
    model = tiny_model(family)
    _assert_as_at_once(replace(unequal.teacher, model=model), [row[:90] for row in MANY])


def test_latent_steps_come_after_each_and_not_in_what_is_shared(unequal: Pair) -> None:
    thinking = replace(unequal.teacher, latent=Latent(unequal.teacher.model, 2))
    _assert_as_at_once(thinking, MANY)


def _assert_as_at_once(teacher: Member, prompts: list[list[int]], hidden: tuple[int, ...] = ()) -> None:
    made, ids = teacher.read_many(prompts, 0, hidden), pad_left(prompts, 0)
    whole = teacher.read(*ids, hidden)
    assert torch.equal(made.mask, whole.mask)
    assert teacher.latent or (made.ids is not None and torch.equal(made.ids * made.mask, ids[0]))
    assert torch.equal(made.positions * made.mask, whole.positions * whole.mask)
    real = whole.mask[:, None, :, None]
    for ours, theirs in zip(
        made.keys + made.values + made.hidden, whole.keys + whole.values + whole.hidden, strict=True
    ):
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-4)


def test_their_beginning_is_read_once_and_long_ones_apart(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    read = unequal.teacher.read_many

    def counted(model: PreTrainedModel, ids: torch.Tensor, *given: object) -> KVCache:
        shapes.append(tuple(ids.shape))
        return capture(model, ids, *given)  # type: ignore[arg-type]

    monkeypatch.setattr("helmas_core.models.pair.capture", counted)
    read(MANY, 0)
    assert shapes == [(1, len(SHARED) + 1), (3, 8), (2, 189)]
    monkeypatch.setitem(prefix.COST, "cpu", (8192, 0))
    shapes.clear()
    read(MANY, 0)
    assert shapes == [(5, len(SHARED) + 190)]
