"""Injection: going on from a cache equals having read the text, batched, padded, in any family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from helmas_core.errors import CacheError
from helmas_core.models import inject
from helmas_core.models.backends import attention_of
from helmas_core.models.cache import KVCache, capture, read_layers
from helmas_core.models.loading import freeze
from helmas_core.models.tokens import pad_left
from tests.tiny import FAMILIES, tiny_model

pytestmark = pytest.mark.numerics
SOURCES = [list(range(5, 5 + n)) for n in (12, 7, 19, 3)]
QUERIES = [list(range(200, 200 + n)) for n in (4, 6, 1, 5)]


def _whole(model: PreTrainedModel, count: int = 6) -> inject.Generation:
    texts = [s + q for s, q in zip(SOURCES, QUERIES, strict=True)]
    return inject.generate(model, None, *pad_left(texts, 0), count)


@pytest.mark.parametrize("family", FAMILIES)
def test_own_cache_injected_equals_reading_the_text(family: str) -> None:
    model = tiny_model(family)
    cache = capture(model, *pad_left(SOURCES, 0))
    assert inject.generate(model, cache, *pad_left(QUERIES, 0), 6).tokens == _whole(model).tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_four_equals_four_singles(family: str) -> None:
    model = tiny_model(family)
    cache = capture(model, *pad_left(SOURCES, 0))
    together = inject.forward(model, cache, *pad_left(QUERIES, 0))
    for row, (source, query) in enumerate(zip(SOURCES, QUERIES, strict=True)):
        alone = inject.forward(model, capture(model, *pad_left([source], 0)), *pad_left([query], 0))
        torch.testing.assert_close(together[row : row + 1, -len(query) :], alone, rtol=1e-4, atol=1e-4)


def test_more_padding_changes_nothing() -> None:
    model = tiny_model("qwen2")
    ids, mask = pad_left(SOURCES[:1], 0)
    wide_ids, wide_mask = (torch.cat((torch.zeros(1, 9, dtype=torch.long), t), 1) for t in (ids, mask))
    narrow, wide = capture(model, ids, mask), capture(model, wide_ids, wide_mask)
    query = pad_left(QUERIES[:1], 0)
    torch.testing.assert_close(
        inject.forward(model, wide, *query), inject.forward(model, narrow, *query), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(wide.row(0).positions, narrow.positions)


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_the_whole_text(family: str) -> None:
    model = tiny_model(family)
    after = [[[7], [8, 9, 10]], [[11, 12]], [[13], [14], [15, 16, 17, 18]], [[19, 20], [21, 22, 23], [24]]]
    after[0].append(inject.generate(model, None, *pad_left([SOURCES[0] + QUERIES[0]], 0), 3).tokens[0])
    cache = capture(model, *pad_left(SOURCES, 0))
    found = inject.score(model, cache, *pad_left(QUERIES, 0), after)
    assert found[0][-1][1]
    for row, (source, query) in enumerate(zip(SOURCES, QUERIES, strict=True)):
        for (likelihood, greedy), continuation in zip(found[row], after[row], strict=True):
            ids = torch.tensor([source + query + continuation])
            shares = model(ids).logits[0, -len(continuation) - 1 : -1].log_softmax(-1)
            targets = torch.tensor(continuation)
            assert likelihood == pytest.approx(shares.gather(1, targets[:, None]).sum().item(), abs=1e-3)
            assert greedy == bool((shares.argmax(1) == targets).all())
    assert inject.score(model, None, *pad_left(QUERIES, 0), after)[1][0][0] != found[1][0][0]


def test_the_mask_covers_cache_and_new_tokens() -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES, 0))
    ids, mask = pad_left(QUERIES, 0)
    assert inject.attention_mask(cache, mask).shape[1] == cache.length + ids.shape[1]
    assert inject.new_positions(cache, mask)[:, -1].tolist() == [
        len(s) + len(q) - 1 for s, q in zip(SOURCES, QUERIES, strict=True)
    ]


def test_masked_tokens_equal_removed_ones() -> None:
    model = tiny_model()
    ids, mask = pad_left(SOURCES[:1], 0)
    kept = capture(model, ids, mask).keep_first(torch.tensor([8]))
    removed = capture(model, ids[:, :8], mask[:, :8])
    query = pad_left(QUERIES[:1], 0)
    torch.testing.assert_close(
        inject.forward(model, kept, *query), inject.forward(model, removed, *query), rtol=1e-4, atol=1e-5
    )


def test_generating_leaves_the_cache_as_it_was() -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES, 0))
    first, second = (inject.generate(model, cache, *pad_left(QUERIES, 0), 5) for _ in range(2))
    assert first.tokens == second.tokens
    assert cache.keys[0].shape[2] == max(map(len, SOURCES))


def test_a_cache_is_handed_on_without_a_copy_and_nothing_writes_to_it() -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES, 0))
    before = [t.clone() for t in cache.keys + cache.values]
    for ours, theirs in zip((cache.keys, cache.values), read_layers(cache.to_transformers()), strict=True):
        assert all(one is other for one, other in zip(ours, theirs, strict=True))
    inject.generate(model, cache, *pad_left(QUERIES, 0), 5)
    inject.score(model, cache, *pad_left(QUERIES, 0), [[[3, 4], [5]]] * len(SOURCES))
    capture(model, *pad_left(QUERIES, 0), past=cache)
    assert all(torch.equal(now, then) for now, then in zip(cache.keys + cache.values, before, strict=True))


def test_generation_equals_repeated_full_forwards() -> None:
    model, row = tiny_model("qwen3"), SOURCES[0] + QUERIES[0]
    for _ in range(6):
        row = [*row, int(model(torch.tensor([row])).logits[0, -1].argmax())]
    assert _whole(model).tokens[0] == row[-6:]


@pytest.mark.parametrize("tokens", [1, 3])
def test_activation_checkpointing_is_refused(tokens: int) -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES[:1], 0))
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()
    with pytest.raises(CacheError, match="checkpointing"):
        inject.forward(model, cache, *pad_left([QUERIES[0][:tokens]], 0))


def test_no_token_sees_the_future() -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES[:1], 0))
    ids, mask = pad_left(QUERIES[:1], 0)
    changed = ids.clone()
    changed[0, 2] = 300
    before, after = inject.forward(model, cache, ids, mask), inject.forward(model, cache, changed, mask)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


def test_a_sliding_layer_keeps_all_its_tokens() -> None:
    model = tiny_model("gemma3", layers=6, sliding_window=4)
    cache = capture(model, *pad_left(SOURCES[2:3], 0))
    assert {keys.shape[2] for keys in cache.keys} == {19}


def test_layers_come_in_order() -> None:
    model = tiny_model("llama", layers=4)
    for index, layer in enumerate(model.model.layers):
        torch.nn.init.zeros_(layer.self_attn.v_proj.weight)
        layer.self_attn.v_proj.register_forward_hook(lambda _m, _i, out, index=index: torch.full_like(out, index))
    cache = capture(model, *pad_left(SOURCES[:1], 0))
    assert [values.unique().item() for values in cache.values] == [0, 1, 2, 3]


def test_an_end_token_and_a_stop_end_a_row_and_only_that_row() -> None:
    model = tiny_model()
    free = _whole(model)
    ended = free.tokens[1][2]
    cut = inject.generate(
        model, None, *pad_left([s + q for s, q in zip(SOURCES, QUERIES, strict=True)], 0), 6, ends=[ended]
    )
    assert cut.tokens[1] == free.tokens[1][: free.tokens[1].index(ended)]
    assert not cut.truncated[1]
    assert all(len(row) == 6 for row, was in zip(cut.tokens, cut.truncated, strict=True) if was)


def test_only_allowed_tokens_are_taken() -> None:
    model = tiny_model()
    allowed = [(7, 9), (11,), (13, 14), (15, 16)]
    texts = [s + q for s, q in zip(SOURCES, QUERIES, strict=True)]
    picked = inject.generate(model, None, *pad_left(texts, 0), 1, allowed=allowed)
    assert all(row[0] in choices for row, choices in zip(picked.tokens, allowed, strict=True))


def test_joined_rows_equal_the_batch() -> None:
    model = tiny_model()
    cache = capture(model, *pad_left(SOURCES, 0))
    again = KVCache.join([cache.row(i) for i in range(4)])
    query = pad_left(QUERIES, 0)
    torch.testing.assert_close(
        inject.forward(model, again, *query), inject.forward(model, cache, *query), rtol=1e-4, atol=1e-4
    )


def test_keys_without_rope_are_not_injected() -> None:
    from dataclasses import replace

    model = tiny_model()
    cache = replace(capture(model, *pad_left(SOURCES[:1], 0)), rotated=False)
    with pytest.raises(CacheError, match="RoPE"):
        inject.forward(model, cache, *pad_left(QUERIES[:1], 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_reads_one_position_in_one_piece(family: str) -> None:
    """A slice that is not contiguous costs a hundred times the product itself with frozen weights on a CPU."""
    model = tiny_model(family)
    seen: list[tuple[tuple[int, ...], bool]] = []
    head: Any = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: seen.append((tuple(given[0].shape[:2]), given[0].is_contiguous())))
    inject.generate(model, None, *pad_left([[3, 4, 5, 6], [7, 8]], 0), 2)
    assert seen == [((2, 1), True)] * 2


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral", "phi3"])
def test_a_window_counts_tokens_and_no_padding(family: str) -> None:
    """Sources are longer than the window, and queries padded: what lies between them must not push anything out."""
    model = freeze("tiny", tiny_model(family, layers=4, sliding_window=8)).model
    assert model.training is False
    cache = capture(model, *pad_left(SOURCES, 0))
    assert inject.generate(model, cache, *pad_left(QUERIES, 0), 6).tokens == _whole(model).tokens
    together = inject.forward(model, cache, *pad_left(QUERIES, 0))
    for row, (source, query) in enumerate(zip(SOURCES, QUERIES, strict=True)):
        alone = model(torch.tensor([source + query])).logits[0, -len(query) :]
        torch.testing.assert_close(together[row, -len(query) :], alone, rtol=1e-4, atol=1e-4)


def test_a_family_without_sdpa_runs_on_eager() -> None:
    assert attention_of(tiny_model("gemma2")) == attention_of(tiny_model("gpt_neo")) == "eager"
    assert attention_of(tiny_model("gpt2")) == "sdpa"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_learned_positions_end_with_a_reason(family: str) -> None:
    model = tiny_model(family, max_position_embeddings=24)
    cache, query = capture(model, *pad_left(SOURCES, 0)), pad_left([[3] * 5] * 4, 0)  # 19 + 5 in the longest row
    inject.forward(model, cache, *query)
    with pytest.raises(CacheError, match=r"has learned 24 positions, and 25 are needed — lower data\.max_source"):
        inject.generate(model, cache, *query, 2)
    if family == "gpt2":  # does not count padding
        assert len(inject.generate(model, cache.rows(torch.tensor([3])), query[0][:1], query[1][:1], 3).tokens[0]) == 3
