"""The `c2c` bridge: what the teacher and the student both keep of a token, joined and added to the student's cache.

After Cache-to-Cache (arXiv 2510.03215): per student layer, with the teacher layer that is as far from the top,
own + gate · weight · projection. Shapes: B batch, L layers, H KV heads, T tokens, D head dim, N rows; t teacher,
s student.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from helmas_core.bridges.blend import from_the_top
from helmas_core.bridges.project import DeepProjector
from helmas_core.bridges.standard import StandardBridge, needed, states_of, token_rows
from helmas_core.config import Section
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class C2COptions(Section):
    hidden: Annotated[int, Field(ge=1)] = Field(default=1024, description="width of the joint trunk")
    depth: Annotated[int, Field(ge=2, le=8)] = Field(default=3, description="linear maps from input to projection")
    first_temperature: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="of the gates when training begins"
    )
    last_temperature: Annotated[float, Field(gt=0)] = Field(default=0.001, description="of the gates when it ends")


class C2CBridge(StandardBridge):
    """`projection` and `weight` come from one trunk; a layer's gate, one for keys and one for values, is open or shut.

    In training a gate is a Gumbel-sigmoid at a temperature that falls with the steps, drawn from torch's generator,
    which the trainer seeds at every step; afterwards it is whether its logit is above 0.
    """

    Options = C2COptions
    options: C2COptions
    modes = ("fuse",)
    losses = frozenset({"ce", "kl"})
    matched: Tensor

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: C2COptions) -> None:
        super().__init__(teacher, student, mode, options)
        layers, heads, hidden = student.layers, student.kv_heads, options.hidden
        outputs = 2 * heads * student.head_dim
        inputs = 2 * teacher.kv_heads * teacher.head_dim + outputs
        self.trunk = DeepProjector(layers, inputs, hidden, hidden, options.depth - 1)
        self.projection = DeepProjector(layers, hidden, outputs, hidden, 1)
        self.weight = DeepProjector(layers, hidden, 2 * heads, hidden, 1)
        self.gate = nn.Parameter(torch.ones(2, layers))
        self.temperature = options.first_temperature
        self.register_buffer("matched", torch.tensor(from_the_top(teacher.layers, layers)), persistent=False)
        with torch.no_grad():
            self.projection.maps[0].mul_(0.1)  # a small change of the student's own cache at first

    def anneal(self, share: float) -> None:
        first, last = self.options.first_temperature, self.options.last_temperature
        self.temperature = first * (last / first) ** share

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        own = needed(own)
        mine = self.standard_form(own)
        change = self._change(token_rows(self.teacher_form(state))[self.matched], token_rows(mine))
        gates = self._gates()[:, None, :, None, None, None]
        keys, values = (kept + gate * added for kept, gate, added in zip(mine, gates, change, strict=True))
        return self.to_cache(*self.target.restore(keys, values), own)

    def _change(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """[Ls, B, T, width] twice → weight · projection for keys and values, [B, Ls, Hs, T, Ds] each."""
        rows = torch.cat((teacher, student), 3)
        known = gelu(self.trunk(rows.flatten(1, 2)))
        heads, shape = self.student_geometry.kv_heads, rows.shape[1:3]
        projected = states_of(self.projection(known).float().unflatten(1, shape), heads)
        weights = states_of(self.weight(known).float().sigmoid().unflatten(1, shape), heads)
        return projected[0] * weights[0], projected[1] * weights[1]

    def _gates(self) -> Tensor:
        """[2, Ls]: open (1) or shut (0); soft while training."""
        if not self.training:
            return (self.gate > 0).float()
        uniform = torch.rand_like(self.gate).clamp(1e-6, 1 - 1e-6)
        return ((self.gate + uniform.log() - (-uniform).log1p()) / self.temperature).sigmoid()

    def diagnostics(self) -> dict[str, Any]:
        return {"gate": (self.gate.detach() > 0).float()[:, :, None]}
