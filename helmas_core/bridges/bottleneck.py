"""The `bottleneck` bridge: one short code for each token, made of all teacher layers' keys and values together, from
which all of the student's are read off.

What it costs grows with `rank` alone, so a series of ranks tells how much of a token's cache the student can use.
Shapes: B batch, L layers, H KV heads, T tokens, D head dim; t teacher, s student.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from helmas_core.bridges.base import KeysValues
from helmas_core.bridges.standard import Translator, fuse_gate
from helmas_core.config import Section
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class BottleneckOptions(Section):
    rank: Annotated[int, Field(ge=1)] = Field(default=256, description="numbers in the code of a token")
    linear: bool = Field(default=False, description="without SiLU on the code")


class BottleneckBridge(Translator):
    Options = BottleneckOptions
    options: BottleneckOptions

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: BottleneckOptions) -> None:
        super().__init__(teacher, student, mode, options)
        inputs, self.shape = _width(teacher), (2, student.layers, student.kv_heads, student.head_dim)
        self.encode, self.decode = nn.Linear(inputs, options.rank), nn.Linear(options.rank, _width(student))
        self.gate = fuse_gate(mode, student)

    def translate(self, state: KVCache) -> KeysValues:
        both = torch.stack(self.teacher_form(state), 1)  # [B, 2, Lt, Ht, T, Dt]
        code = self.encode(both.permute(0, 4, 1, 2, 3, 5).flatten(2))  # [B, T, rank]
        made = self.decode(code if self.options.linear else functional.silu(code)).float()
        keys, values = made.unflatten(2, self.shape).permute(2, 0, 3, 4, 1, 5)  # [B, Ls, Hs, T, Ds] each
        return keys, values


def _width(geometry: Geometry) -> int:
    """Keys and values of all layers for one token."""
    return 2 * geometry.layers * geometry.kv_heads * geometry.head_dim
