"""Prompts that begin alike: read once, and the same answers as when each is read by itself."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from helmas_core.models.cache import KVCache, capture
from helmas_core.models.inject import forward, generate
from helmas_core.models.prefix import WORTH, read_shared
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
    "prompts", [[PROMPTS[0]], [[5, *PROMPTS[0]], PROMPTS[1]], [[*SHARED[: WORTH - 1], 1], [*SHARED[: WORTH - 1], 2]]]
)
def test_what_is_not_worth_it_is_read_whole(prompts: list[list[int]]) -> None:
    cache, ids, mask = read_shared(tiny_model("qwen2"), prompts, 0)
    assert cache is None
    assert [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)] == prompts


def test_a_prompt_that_begins_another_keeps_a_token() -> None:
    cache, ids, mask = read_shared(tiny_model("qwen2"), [SHARED, [*SHARED, 7, 8]], 0)
    assert cache is not None and cache.length == len(SHARED) - 1
    assert mask.sum(1).tolist() == [1, 3]
    assert ids[0, -1] == SHARED[-1]
