"""The `modules` bridge: cross-attention layers in the student that look at what the teacher thinks of each token.

After LLM Modules (arXiv 2502.08213): the teacher's last hidden states, projected and adapted to the student's width,
are keys and values; the student asks, and a gate mixes what it finds into its own states: g · found + (1 − g) · x.
The published code has no causal mask in there; here a token sees the states of its own position and before.
Shapes: B batch, T source tokens, N tokens of one pass, E hidden size; t teacher, s student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.standard import needed
from helmas_core.config import Section
from helmas_core.errors import CacheError, ConfigError
from helmas_core.models.cache import KVCache, read
from helmas_core.models.geometry import Geometry
from helmas_core.models.layers import after_layers, output_head


class ModulesOptions(Section):
    layers: Literal[1, 2, 4] = Field(default=2, description="cross-attention layers in the student")
    gate: Literal["learned", "fixed"] = Field(
        default="learned", description="learned for each channel, or fixed at one half"
    )
    heads: Annotated[int, Field(ge=1)] = Field(
        default=8, description="attention heads; fewer where they do not divide the width"
    )
    bottleneck: Annotated[int, Field(ge=1)] = Field(default=256, description="width inside the adapter")
    output_head: bool = Field(default=False, description="train a new output head that starts as the student's own")


class ModulesBridge(Bridge):
    """No cache is translated: what the student keeps is its own, and the teacher's states are at hand while it goes on.

    "fuse": the student reads the source itself, and its layers ask the teacher's states while it reads, each token
    those up to its own position. "replace": it reads none of it, begins at position 0 with nothing in its cache, and
    asks all of the states.
    """

    Options = ModulesOptions
    options: ModulesOptions
    modes = ("fuse", "replace")
    losses = frozenset({"ce", "kl"})
    summable = False
    stays_open = True

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: ModulesOptions) -> None:
        super().__init__(teacher, student, mode, options)
        self.hidden = (teacher.layers,)
        width = student.hidden_size
        self.project = nn.Linear(teacher.hidden_size, width)
        narrow, wide = nn.Linear(width, options.bottleneck), nn.Linear(options.bottleneck, width)
        self.adapter = nn.Sequential(narrow, nn.GELU(), wide)
        self.places = places(student.layers, options.layers)
        self.attentions = nn.ModuleList(CrossAttention(width, options) for _ in self.places)
        words = student.vocab_size  # it reads what it writes, and knows no others
        self.head = OutputHead(width, words, bias=False) if options.output_head else None

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        """The student's cache of the source, read with the teacher's states at hand; all hidden in mode "replace"."""
        if self.mode == "replace":
            return self._nothing(state)
        own = needed(own)
        if own.ids is None:
            raise CacheError("the student's own cache does not say what was read", fix="pass one that was captured")
        with self.adapted(state):
            return read(self.student, own.ids, own.mask)

    def _nothing(self, state: KVCache) -> KVCache:
        """As long as `state`, and out of attention's sight."""
        student = self.student_geometry
        shape = (state.batch, student.layers, student.kv_heads, state.length, student.head_dim)
        zeros = torch.zeros(shape, device=state.mask.device)
        return KVCache.unstack(zeros, zeros, torch.zeros_like(state.mask), state.positions, rotated=True)

    @contextmanager
    def adapted(self, state: KVCache) -> Iterator[None]:
        told = self.project(state.hidden[0][:, 0].float())
        told = told + self.adapter(told)
        seen = state if self.mode == "fuse" else replace(state, positions=torch.zeros_like(state.positions))
        placed = zip(self.places, self.attentions, strict=True)
        changes = {place: partial(ask, told=told, mask=seen.mask, at=seen.positions) for place, ask in placed}
        with ExitStack() as stack:
            stack.enter_context(super().adapted(state))
            stack.enter_context(after_layers(self.student, changes))
            if self.head is not None:
                stack.enter_context(output_head(self.student, self.head))
            yield

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:  # noqa: ARG002 - nothing is fitted
        """A new output head starts as the student's own, word by word."""
        if self.head is None:
            return {"start": "random"}
        known: Tensor = self.student.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]
        count = min(len(known), len(self.head.weight))
        self.head.weight[:count] = known[:count]
        return {"start": "random", "output_head": count}


def places(layers: int, count: int) -> list[int]:
    """The student layers after which its states are changed: evenly spread, the last one always among them."""
    if count > layers:
        raise ConfigError(f"the student has only {layers} layers", where="bridge.layers", fix="lower it")
    return [(index + 1) * layers // count - 1 for index in range(count)]


class OutputHead(nn.Linear):
    """Words in fp32 whatever the student computes in."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


class CrossAttention(nn.Module):
    """One cross-attention layer with its gate, which is nearly shut at the start where it is learned."""

    def __init__(self, width: int, options: ModulesOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, math.gcd(options.heads, width), batch_first=True)
        self.gate = nn.Linear(width, width) if options.gate == "learned" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, states: Tensor, positions: Tensor, *, told: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """states [B, N, Es] at `positions` [B, N]; told [B, T, Es] with its mask and positions `at`, [B, T] each."""
        x = self.norm(states.float())
        hidden = ~(mask[:, None] & (at[:, None] <= positions[..., None]))  # [B, N, T]
        barred = hidden.repeat_interleave(self.attention.num_heads, 0)
        found, _ = self.attention(x, told, told, attn_mask=barred, need_weights=False)
        gate = 0.5 if self.gate is None else self.gate(x).sigmoid()
        return (gate * found + (1 - gate) * states.float()).to(states.dtype)
