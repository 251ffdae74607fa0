"""Let a frozen student go on from an injected cache: forward for training, generate for answers, score for likelihoods.

One place builds masks and positions. New tokens are padded on the left; the mask always covers cache and new
tokens together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helmas_core.errors import CacheError
from helmas_core.models.backends import open_backend
from helmas_core.models.cache import KVCache, TransformersCache, empty_cache, positions_of, read_layers
from helmas_core.models.geometry import learned_positions
from helmas_core.models.tokens import pad_left


@dataclass
class Generation:
    """New token ids per row, without the ending; `truncated` rows ran out of `max_new_tokens`."""

    tokens: list[list[int]]
    truncated: list[bool] = field(default_factory=list)


def attention_mask(cache: KVCache | None, mask: Tensor) -> Tensor:
    """[B, past + new], 1 on what may be attended."""
    return (mask.bool() if cache is None else torch.cat((cache.mask, mask.bool()), 1)).long()


def new_positions(cache: KVCache | None, mask: Tensor) -> Tensor:
    """[B, new]: positions that go on from each row's own end of the cache."""
    start = 0 if cache is None else cache.next_positions()[:, None]
    return positions_of(mask) + start


def refuse_checkpointing(model: PreTrainedModel) -> None:
    """Under activation checkpointing transformers drops the cache layer by layer, for one token silently."""
    if any(getattr(m, "gradient_checkpointing", False) and m.training for m in model.modules()):
        raise CacheError(
            "activation checkpointing on the student discards the injected cache",
            fix="switch it off, or call student.eval()",
        )


def forward(
    student: PreTrainedModel, cache: KVCache | None, ids: Tensor, mask: Tensor, columns: Tensor | None = None
) -> Tensor:
    """Logits [B, new, V] of `ids` [B, new] after `cache`, or of some `columns` only; gradients reach the cache."""
    columns = torch.arange(ids.shape[1], device=ids.device) if columns is None else columns
    return _step(
        student, _filled(student, cache), ids, attention_mask(cache, mask), new_positions(cache, mask), columns
    )


def _filled(student: PreTrainedModel, cache: KVCache | None) -> TransformersCache:
    refuse_checkpointing(student)
    return empty_cache() if cache is None else cache.on(student).to_transformers()


def _step(
    model: PreTrainedModel, filled: TransformersCache, ids: Tensor, mask: Tensor, positions: Tensor, columns: Tensor
) -> Tensor:
    """Logits on the ids' device, whichever the model computes on."""
    _check_room(model, mask, positions)
    out = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=filled,
        use_cache=True,
        # as a tensor: the slice of an integer is not contiguous, and torch multiplies that with a frozen head row by
        # row, each row with a copy of the head (15 s in place of 40 ms for 32 rows and 152,000 words on a CPU)
        logits_to_keep=columns.to(model.device),
    )
    return out.logits.to(ids.device)


def _check_room(model: PreTrainedModel, mask: Tensor, positions: Tensor) -> None:
    """CacheError where a family with learned positions has none left; one with attention of its own counts padding."""
    if (limit := learned_positions(model.config)) is None:
        return
    needed = int(positions.max()) + 1 if open_backend(model.config) else mask.shape[1]
    if needed > limit:
        what = f"{model.config.model_type} has learned {limit} positions, and {needed} are needed"
        raise CacheError(what, fix="lower data.max_source_tokens or eval.max_new_tokens")


def greedy(logits: Tensor) -> Tensor:
    """The likeliest id of each row: [B, V] → [B, 1]."""
    return logits.argmax(-1, keepdim=True)


def sampler(temperature: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Draws ids [B, 1] from the softmax of logits / `temperature`, alike on every device; greedy at 0."""
    if temperature == 0:
        return greedy
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        shares = (logits.float().cpu() / temperature).softmax(-1)
        return torch.multinomial(shares, 1, generator=generator).to(logits.device)

    return draw


@torch.no_grad()
def generate(
    student: PreTrainedModel,
    cache: KVCache | None,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    *,
    ends: Sequence[int] = (),
    finished: Callable[[list[int]], bool] = lambda _: False,
    allowed: Sequence[Sequence[int]] | None = None,
    on_token: Callable[[int, int], None] = lambda _row, _token: None,
    on_prefill: Callable[[], None] = lambda: None,
    choose: Callable[[Tensor], Tensor] = greedy,
) -> Generation:
    """Decoding after `cache`, batched, greedy unless `choose` does otherwise; `cache` itself is left as it was.

    A row ends at a token in `ends`, or when `finished(its new tokens)` says so. `allowed[row]`, if given, are the
    only token ids that the row may take. `on_token(row, id)` sees every new token; `on_prefill()` is called
    once, when all of `ids` is read and the first token is known.
    """
    filled, seen = _filled(student, cache), attention_mask(cache, mask)
    positions = new_positions(cache, mask)
    rows: list[list[int]] = [[] for _ in range(len(ids))]
    open_rows = set(range(len(ids)))
    for step in range(max_new_tokens):
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        logits = _step(student, filled, ids, seen, positions, last)[:, -1].float()
        ids = choose(_within(logits, allowed))
        if step == 0:
            on_prefill()
        for row, token in enumerate(ids[:, 0].tolist()):
            if row in open_rows and _take(rows[row], token, ends, finished):
                open_rows.discard(row)
            elif row in open_rows:
                on_token(row, token)
        if not open_rows:
            break
        positions = positions[:, -1:] + 1
        seen = torch.cat((seen, seen.new_ones(len(ids), 1)), 1)
    return Generation(rows, [row in open_rows for row in range(len(rows))])


def _within(logits: Tensor, allowed: Sequence[Sequence[int]] | None) -> Tensor:
    """Logits with all ids out of reach that a row may not take."""
    if allowed is None:
        return logits
    barred = torch.full_like(logits, float("-inf"))
    for row, ids in enumerate(allowed):
        barred[row, list(ids)] = 0.0
    return logits + barred


def _take(row: list[int], token: int, ends: Sequence[int], finished: Callable[[list[int]], bool]) -> bool:
    """Append `token` unless it ends the row; True when the row is done."""
    if token in ends:
        return True
    row.append(token)
    return finished(row)


@torch.no_grad()
def score(
    student: PreTrainedModel,
    cache: KVCache | None,
    ids: Tensor,
    mask: Tensor,
    continuations: Sequence[Sequence[Sequence[int]]],
) -> list[list[tuple[float, bool]]]:
    """(log-likelihood, whether greedy decoding would write it) of each row's `continuations` after `cache` and `ids`.

    A continuation has one token or more. What they all follow is read once for each row; `cache` is left as it was.
    """
    filled, seen, positions = _filled(student, cache), attention_mask(cache, mask), new_positions(cache, mask)
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    begun = _step(student, filled, ids, seen, positions, last)[:, -1].float().log_softmax(-1)
    best = begun.argmax(-1).tolist()
    found = [[(float(begun[row, c[0]]), c[0] == best[row]) for c in some] for row, some in enumerate(continuations)]
    longer = [(row, place) for row, some in enumerate(continuations) for place, c in enumerate(some) if len(c) > 1]
    places = positions if cache is None else torch.cat((cache.positions, positions), 1)
    read = KVCache(*read_layers(filled), seen.bool(), places)
    for begin in range(0, len(longer), len(ids)):
        some = longer[begin : begin + len(ids)]
        rows = torch.tensor([row for row, _ in some], device=ids.device)
        rests = _score_rests(student, read.rows(rows), [continuations[row][place] for row, place in some])
        for (row, place), (rest, greedy) in zip(some, rests, strict=True):
            start, likeliest = found[row][place]
            found[row][place] = start + rest, likeliest and greedy
    return found


def _score_rests(
    student: PreTrainedModel, read: KVCache, continuations: Sequence[Sequence[int]]
) -> list[tuple[float, bool]]:
    """The same for all but the first token of a continuation of each row of `read`."""
    pad, device = continuations[0][0], read.mask.device
    ids, mask = pad_left([c[:-1] for c in continuations], pad, device)
    targets, _ = pad_left([c[1:] for c in continuations], pad, device)
    logits = forward(student, read, ids, mask).float().log_softmax(-1)
    each = logits.gather(-1, targets[..., None])[..., 0].masked_fill(mask == 0, 0.0)
    greedy = ((logits.argmax(-1) == targets) | (mask == 0)).all(1)
    return list(zip(each.sum(1).tolist(), greedy.tolist(), strict=True))
