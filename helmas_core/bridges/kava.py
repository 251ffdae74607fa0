"""The `kava` bridge: all teacher layers brought together, then one bottleneck for all keys and one for all values.

After KAVA (Qwen2.5-1.5B → Qwen2.5-0.5B), on standardised states with RoPE off, for keys and values. With
`bridge.student` = "lora" or "full" the student is trained along and its own cache is a moving target; the effective
rank that training logs shows whether the two meet in a point. Shapes: B batch, L layers, H KV heads, T tokens, D head
dim; t teacher, s student.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from helmas_core.bridges.base import KeysValues
from helmas_core.bridges.standard import Translator, fuse_gate
from helmas_core.config import Section
from helmas_core.errors import CacheError
from helmas_core.models.cache import KVCache, read
from helmas_core.models.geometry import Geometry


class KavaOptions(Section):
    aggregation: Literal["concat", "mean", "weighted"] = Field(
        default="concat", description="how the teacher's layers are brought together"
    )
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = Field(
        default=1.0, description="width of the bottleneck, over that of its input"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="in the bottleneck, while training")


class KavaBridge(Translator):
    Options = KavaOptions
    options: KavaOptions

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: KavaOptions) -> None:
        super().__init__(teacher, student, mode, options)
        weighted = options.aggregation == "weighted"
        self.logits = nn.Parameter(torch.zeros(2, teacher.layers)) if weighted else None
        layers = teacher.layers if options.aggregation == "concat" else 1
        inputs = layers * teacher.kv_heads * teacher.head_dim
        outputs = student.layers * student.kv_heads * student.head_dim
        self.bottlenecks = nn.ModuleList(bottleneck(inputs, outputs, options) for _ in range(2))
        self.gate = fuse_gate(mode, student)

    def translate(self, state: KVCache) -> KeysValues:
        gathered = [self._gather(states, which) for which, states in enumerate(self.teacher_form(state))]
        student = self.student_geometry
        shape = (student.layers, student.kv_heads, student.head_dim)
        made = [b(x).float().unflatten(2, shape) for b, x in zip(self.bottlenecks, gathered, strict=True)]
        keys, values = (x.permute(0, 2, 3, 1, 4) for x in made)  # [B, T, Ls, Hs, Ds] → [B, Ls, Hs, T, Ds]
        return keys, values

    def _gather(self, states: Tensor, which: int) -> Tensor:
        """[B, Lt, Ht, T, Dt] → [B, T, Lt · Ht · Dt], or one layer's width of their mean; `which` is 0 for keys."""
        by_token = states.permute(0, 3, 1, 2, 4).flatten(3)  # [B, T, Lt, Ht · Dt]
        if self.options.aggregation == "concat":
            return by_token.flatten(2)
        shares = self.weights()[which]
        return torch.einsum("btlw,l->btw", by_token, shares)

    def weights(self) -> Tensor:
        """[2, Lt]: each teacher layer's share, for keys and for values."""
        layers = self.teacher_geometry.layers
        even = self.source.mean.new_full((2, layers), 1 / layers)
        return even if self.logits is None else self.logits.softmax(-1)

    def standard_form(self, own: KVCache) -> KeysValues:
        """The student's own cache; where the student is trained along, as it reads now, with a gradient."""
        return super().standard_form(self._read_again(own) if self.student_parameters() else own)

    def _read_again(self, own: KVCache) -> KVCache:
        if own.ids is None:
            raise CacheError("the student's own cache does not say what was read", fix="pass one that was captured")
        with self.adapted(own):
            return read(self.student, own.ids, own.mask)

    def diagnostics(self) -> dict[str, Any]:
        spread = self.weights().detach()[:, None].expand(-1, self.student_geometry.layers, -1)
        return {"blend": None if self.options.aggregation == "concat" else spread, **super().diagnostics()}


def bottleneck(inputs: int, outputs: int, options: KavaOptions) -> nn.Sequential:
    """LayerNorm, up or down to `mlp_ratio` of the input's width, SiLU, dropout, then to the student's width."""
    inner = max(1, round(inputs * options.mlp_ratio))
    first, last = nn.Linear(inputs, inner), nn.Linear(inner, outputs)
    return nn.Sequential(nn.LayerNorm(inputs), first, nn.SiLU(), nn.Dropout(options.dropout), last)
