"""The `prefix` control: a trained prefix in the bridge's place, which never looks at what the teacher keeps.

Prefix tuning with a reparameterisation (Li and Liang 2021, https://arxiv.org/abs/2101.00190): slot embeddings, tanh,
one linear map to all layers' keys and values. What it reaches is what a bridge could reach without carrying content.
Of the source it knows the length alone, as any cache tells it: slot i stands at position i, and they come round again.
Shapes: B batch, L layers, H KV heads, T tokens, D head dim, P slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.fit import Statistics, Sums
from helmas_core.config import Section
from helmas_core.errors import ConfigError
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class PrefixOptions(Section):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a profile keeps the options of the bridge it stands in for

    tokens: Annotated[int, Field(ge=1, description="trained slots")] = 64
    parameters: Annotated[int, Field(ge=1, description="about how many to have: those of the bridge it stands in for")]


class PrefixBridge(Bridge):
    Options = PrefixOptions
    options: PrefixOptions

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: PrefixOptions) -> None:
        if mode != "replace":
            raise ConfigError(f"prefix cannot {mode}", where="bridge.mode", fix='set it to "replace"')
        super().__init__(teacher, student, mode, options)
        outputs = 2 * student.layers * student.kv_heads * student.head_dim
        width = max(1, round(options.parameters / (options.tokens + outputs)))
        self.slots = nn.Parameter(torch.randn(options.tokens, width))
        self.widen = nn.Parameter(torch.randn(width, outputs) / math.sqrt(width))
        self.target = Statistics(student.layers, student.kv_heads, student.head_dim)

    def translate(self, state: KVCache) -> tuple[Tensor, Tensor]:
        student = self.student_geometry
        table = (self.slots.tanh() @ self.widen).view(len(self.slots), 2, student.layers, student.kv_heads, -1)
        picked = table[state.positions % len(self.slots)]  # [B, T, 2, L, H, D]
        keys, values = picked.float().permute(2, 0, 3, 4, 1, 5)
        return keys, values

    def standard_form(self, own: KVCache) -> tuple[Tensor, Tensor]:
        assert self.ropes is not None
        return self.target.standardise(*(t.float() for t in self.ropes[1].unrotate(own).stacked()))

    def finish(self, keys: Tensor, values: Tensor, state: KVCache, own: KVCache | None) -> KVCache:  # noqa: ARG002
        assert self.ropes is not None
        plain = KVCache.unstack(*self.target.restore(keys, values), state.mask, state.positions, rotated=False)
        return self.ropes[1].rotate(plain)

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        """The scale of the student's own states; nothing of the teacher's."""
        assert self.ropes is not None
        sums = Sums(self.target)
        for _, own in batches:
            plain = self.ropes[1].unrotate(own.to(self.target.mean.device))
            sums.add(*plain.stacked(), plain.mask)
        self.target.set(sums)
        return {"start": "random"}
