"""The `prefix` control: a trained prefix in the bridge's place, which never looks at what the teacher keeps.

Prefix tuning with a reparameterisation (Li and Liang 2021, https://arxiv.org/abs/2101.00190): slot embeddings, tanh,
one linear map to all layers' keys and values. What it reaches is what a bridge could reach without carrying content.
Of the source it knows the length alone, as any cache tells it: slot i stands at position i, and they come round again.
Shapes: B batch, L layers, H KV heads, T tokens, D head dim, P slots.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import nn

from helmas_core.bridges.base import KeysValues
from helmas_core.bridges.standard import Translator
from helmas_core.config import Section
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class PrefixOptions(Section):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a profile keeps the options of the bridge it stands in for

    tokens: Annotated[int, Field(ge=1, description="trained slots")] = 64
    parameters: Annotated[int, Field(ge=1, description="about how many to have: those of the bridge it stands in for")]


class PrefixBridge(Translator):
    Options = PrefixOptions
    options: PrefixOptions
    modes = ("replace",)

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: PrefixOptions) -> None:
        super().__init__(teacher, student, mode, options)
        self.gate = None
        outputs = 2 * student.layers * student.kv_heads * student.head_dim
        width = max(1, round(options.parameters / (options.tokens + outputs)))
        self.slots = nn.Parameter(torch.randn(options.tokens, width))
        self.widen = nn.Parameter(torch.randn(width, outputs) / math.sqrt(width))

    def translate(self, state: KVCache) -> KeysValues:
        student = self.student_geometry
        table = (self.slots.tanh() @ self.widen).view(len(self.slots), 2, student.layers, student.kv_heads, -1)
        picked = table[state.positions % len(self.slots)]  # [B, T, 2, L, H, D]
        keys, values = picked.float().permute(2, 0, 3, 4, 1, 5)
        return keys, values
