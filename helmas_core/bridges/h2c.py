"""The `h2c` bridge: what the student keeps of each token asks the teacher's hidden states, and takes up what it finds.

After Hidden-to-Cache (Llama-3.1-8B → Qwen2.5-0.5B): per student layer, for keys and for values, cached + gate ·
FFN(cross-attention). Layers are matched from the top. Shapes: B batch, L layers, H KV heads, T tokens, D head dim,
E hidden size, W = Hs · Ds; t teacher, s student.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from helmas_core.bridges.blend import from_the_top
from helmas_core.bridges.standard import StandardBridge, needed
from helmas_core.config import Section
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class H2COptions(Section):
    heads: Annotated[int, Field(ge=1)] = Field(
        default=16, description="attention heads; fewer where they do not divide the width"
    )
    expansion: Annotated[float, Field(gt=0)] = Field(
        default=4.0, description="width of the feed-forward layer, over that of its input"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="in the feed-forward layer, while training"
    )


class H2CBridge(StandardBridge):
    """The prompt is finished when it is handed over, so a token may ask all of the teacher's states."""

    Options = H2COptions
    options: H2COptions
    modes = ("fuse",)
    losses = frozenset({"ce", "kl"})
    aligned = False

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: H2COptions) -> None:
        super().__init__(teacher, student, mode, options)
        matched = from_the_top(teacher.layers, student.layers)
        outputs = [layer + 1 for layer in matched]  # hidden state 0 is the embeddings
        self.hidden = tuple(sorted(set(outputs)))
        self.places = [self.hidden.index(output) for output in outputs]
        width = student.kv_heads * student.head_dim
        sides = ([CrossAttention(width, teacher.hidden_size, options) for _ in outputs] for _ in range(2))
        self.keys, self.values = (nn.ModuleList(side) for side in sides)

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        own = needed(own)
        sides = zip((self.keys, self.values), self.standard_form(own), strict=True)
        keys, values = (self._ask(side, kept, state) for side, kept in sides)
        return self.to_cache(*self.target.restore(keys, values), own)

    def _ask(self, side: nn.ModuleList, kept: Tensor, state: KVCache) -> Tensor:
        """The student's keys or values, [B, Ls, Hs, T, Ds], each layer after it has asked its match."""
        told = [state.hidden[place][:, 0].float() for place in self.places]
        layers = zip(side, kept.unbind(1), told, strict=True)
        return torch.stack([layer(own, heard, state.mask) for layer, own, heard in layers], 1)

    def diagnostics(self) -> dict[str, Any]:
        logits: list[Tensor] = [parameter for name, parameter in self.named_parameters() if name.endswith(".gate")]
        return {"gate": torch.stack(logits).detach().sigmoid().unflatten(0, (2, -1))[:, :, None]}


class CrossAttention(nn.Module):
    """One student layer's keys, or its values, with queries of their own and keys and values from the teacher."""

    def __init__(self, width: int, teacher_width: int, options: H2COptions) -> None:
        super().__init__()
        inner = max(1, round(options.expansion * width))
        self.own_norm, self.teacher_norm = nn.LayerNorm(width), nn.LayerNorm(teacher_width)
        heads = math.gcd(options.heads, width)  # a width that the heads do not divide has fewer
        self.attention = nn.MultiheadAttention(width, heads, kdim=teacher_width, vdim=teacher_width, batch_first=True)
        dropout = nn.Dropout(options.dropout)
        self.ffn = nn.Sequential(nn.Linear(width, inner), nn.GELU(), dropout, nn.Linear(inner, width))
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, kept: Tensor, told: Tensor, mask: Tensor) -> Tensor:
        """kept [B, Hs, T, Ds], told [B, Tt, Et] with its mask [B, Tt] → as `kept`, fp32."""
        rows, told = kept.transpose(1, 2).flatten(2), self.teacher_norm(told)
        found, _ = self.attention(self.own_norm(rows), told, told, key_padding_mask=~mask, need_weights=False)
        changed = rows + self.gate.sigmoid() * self.ffn(found).float()
        return changed.unflatten(2, (kept.shape[1], -1)).transpose(1, 2)
