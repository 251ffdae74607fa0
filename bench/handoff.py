"""The hand-off itself: the teacher's cache is there, the student's is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import Ratio, in_turn, peak
from helmas_core.bridges.base import Bridge
from helmas_core.bridges.registry import build_bridge
from helmas_core.config import BridgeSection
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.inject import generate
from helmas_core.models.pair import Pair

KINDS: dict[str, tuple[dict[str, Any], float]] = {
    "head-wise": ({"start": "random"}, 30.0),
    "wide": ({"start": "random", "projector_input": "neighbourhood"}, 7.0),
}
CURVE = [(batch, tokens) for batch in (1, 8) for tokens in (64, 512, 2048)]


def tokens_of(pair: Pair, batch: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Any tokens will do: what they say changes no time."""
    top = min(pair.teacher.geometry.vocab_size, pair.student.geometry.vocab_size)
    ids = torch.randint(1, top, (batch, length), generator=torch.Generator().manual_seed(seed)).to(pair.device)
    return ids, torch.ones_like(ids)


@torch.no_grad()
def hand_over(bridge: Bridge, state: KVCache, pair: Pair) -> object:
    """All that lies between the teacher's cache and a cache that the student goes on from."""
    return bridge(state).to(pair.device, pair.student.model.dtype).to_transformers()


def against_prefill(pair: Pair, repeats: int, curve: bool) -> Iterator[Ratio]:
    """The student's own prefill over the hand-off of the same tokens."""
    for kind, (options, goal) in KINDS.items():
        bridge = build_bridge(BridgeSection.model_validate(options), pair).eval()
        for batch, length in CURVE if curve else [(1, 512)]:
            ids, mask = tokens_of(pair, batch, length)
            state = capture(pair.teacher.model, ids, mask)
            times = in_turn(
                lambda ids=ids, mask=mask: capture(pair.student.model, ids, mask),
                lambda state=state, bridge=bridge: hand_over(bridge, state, pair),
                pair.device,
                repeats,
            )
            name = f"{kind} hand-off, {batch} × {length} tokens"
            yield Ratio(
                name, "student's own prefill", "hand-off", *times, goal if (batch, length) == (1, 512) else None
            )


def against_floor(pair: Pair, repeats: int, curve: bool) -> Iterator[Ratio]:
    """The hand-off over what its arithmetic, or its traffic, would take at this machine's best."""
    best = peak(pair.device, pair.student.model.dtype)
    for kind, (options, _) in KINDS.items():
        bridge = build_bridge(BridgeSection.model_validate(options), pair).eval()
        for batch, length in CURVE if curve else [(1, 512)]:
            state = capture(pair.teacher.model, *tokens_of(pair, batch, length))
            work = lambda state=state, bridge=bridge: hand_over(bridge, state, pair)  # noqa: E731 - timed twice over
            times, _ = in_turn(work, lambda: None, pair.device, repeats)
            bound = [floor(bridge, state, *best)] * repeats
            name = f"{kind} hand-off over its floor, {batch} × {length} tokens"
            goal = 3.0 if (batch, length) == (1, 512) else None
            yield Ratio(name, "hand-off", "floor", times, bound, goal, ceiling=True)


@torch.no_grad()
def floor(bridge: Bridge, state: KVCache, flops: float, bandwidth: float) -> float:
    """Seconds: the longer of the matrix products at `flops` FLOP/s and the traffic at `bandwidth` bytes/s."""
    with FlopCounterMode(display=False) as counted:
        bridge(state)
    return max(counted.get_total_flops() / flops, traffic(bridge, state) / bandwidth)


def traffic(bridge: Bridge, state: KVCache) -> int:
    """Bytes that must move at least: weights and the teacher's cache in, the student's cache out."""
    weights = sum(p.numel() * p.element_size() for p in bridge.parameters())
    student = bridge.student_geometry
    out = 2 * student.layers * student.kv_heads * student.head_dim * state.batch * state.length
    return weights + state.bytes + out * state.keys[0].element_size()


def answer_time(pair: Pair, repeats: int, length: int = 128, thoughts: int = 64) -> Iterator[Ratio]:
    """A text relay (the teacher writes `thoughts` tokens, the student reads them) over a hand-off of the prompt."""
    bridge = build_bridge(BridgeSection.model_validate(KINDS["wide"][0]), pair).eval()
    ids, mask = tokens_of(pair, 1, length)
    cue, cue_mask = tokens_of(pair, 1, 4, seed=1)

    def relay() -> None:
        written = generate(pair.teacher.model, None, ids, mask, thoughts).tokens[0]
        text = torch.cat([ids, torch.tensor([written], device=ids.device), cue], 1)
        generate(pair.student.model, None, text, torch.ones_like(text), 1)

    def handed() -> None:
        with torch.no_grad():
            cache = bridge(capture(pair.teacher.model, ids, mask))
        generate(pair.student.model, cache, cue, cue_mask, 1)

    times = in_turn(relay, handed, pair.device, repeats)
    yield Ratio("answer time", f"text relay, {thoughts} tokens written", "prompt hand-off, cold", *times, 5.0)
