"""Many prompts, read at the least cost: what they begin with once, long ones apart, and nothing is changed by it."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from helmas_core.models import prefix
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.inject import forward, generate
from helmas_core.models.pair import Pair
from helmas_core.models.prefix import cost_of_a_pass, read_shared, shared
from helmas_core.models.tokens import pad_left
from tests.tiny import tiny_model

pytestmark = pytest.mark.numerics
SHARED = [3 + i % 50 for i in range(40)]
PROMPTS = [[*SHARED, *rest] for rest in ([7], [9, 8, 7], [60, 61, 5, 2, 9])]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_shared_beginning_changes_nothing(family: str) -> None:
    model = tiny_model(family)
    cache, ids, mask = read_shared(model, PROMPTS, 0)
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
    read_shared(tiny_model("qwen2"), PROMPTS, 0)
    assert read == [(1, len(SHARED))]


@pytest.mark.parametrize(
    "prompts",
    [[PROMPTS[0]], [[5, *PROMPTS[0]], PROMPTS[1]], [[*SHARED, 1], [*SHARED, 2]]],
    ids=["alone", "other beginnings", "as long as a pass costs"],
)
def test_what_is_not_worth_it_is_read_whole(prompts: list[list[int]]) -> None:
    cache, ids, mask = read_shared(tiny_model("qwen2"), prompts, 0)
    assert cache is None
    assert [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)] == prompts


def test_a_prompt_that_begins_another_keeps_a_token() -> None:
    cache, ids, mask = read_shared(tiny_model("qwen2"), [SHARED, [*SHARED, 7, 8], [*SHARED, 7]], 0)
    assert cache is not None and cache.length == len(SHARED) - 1
    assert mask.sum(1).tolist() == [1, 3, 2]
    assert ids[0, -1] == SHARED[-1]


def test_it_pays_once_it_saves_more_than_a_pass() -> None:
    cost = cost_of_a_pass(tiny_model("qwen2"))
    assert len(SHARED) == cost
    for rows, length in ((2, 0), (3, cost)):
        assert shared([[*SHARED, row] for row in range(rows)], cost) == length


MANY = [[*SHARED, *range(5, 5 + length)] for length in (9, 2, 190, 3, 180)]


@pytest.mark.parametrize("hidden", [(), (0, 2, 4)], ids=["keys and values", "with hidden states"])
@pytest.mark.parametrize("prompts", [MANY, MANY[:2] + MANY[3:4], [SHARED, *MANY], [row[1:] for row in MANY[::2]]])
def test_many_are_read_as_all_at_once(unequal: Pair, hidden: tuple[int, ...], prompts: list[list[int]]) -> None:
    teacher = unequal.teacher
    made, ids = teacher.read_many(prompts, 0, hidden), pad_left(prompts, 0)
    whole = teacher.read(*ids, hidden)
    assert torch.equal(made.mask, whole.mask)
    assert made.ids is not None and torch.equal(made.ids * made.mask, ids[0])
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
    monkeypatch.setitem(prefix.COST, "cpu", 8192)
    shapes.clear()
    read(MANY, 0)
    assert shapes == [(5, len(SHARED) + 190)]
