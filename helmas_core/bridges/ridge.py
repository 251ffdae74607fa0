"""The `ridge` bridge: one linear map per student layer in closed form, and nothing to train.

After arXiv 2608.03893: from keys and values of all heads of the k nearest teacher layers, with RoPE off and states
standardised. Shapes: B batch, L layers, T tokens, N rows, I in, O out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from helmas_core.bridges.base import KeysValues
from helmas_core.bridges.blend import nearest_layers
from helmas_core.bridges.fit import AUTO_STRENGTHS, Ridge, held_out
from helmas_core.bridges.project import Casts
from helmas_core.bridges.standard import (
    Translator,
    layer_shares,
    neighbours,
    product_dtype,
    states_of,
    token_rows,
)
from helmas_core.config import Section
from helmas_core.errors import DataError
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry


class RidgeOptions(Section):
    neighbours: Annotated[int, Field(ge=1)] = Field(
        default=4, description="teacher layers that each student layer is made of"
    )
    ridge: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default=0.01, description="strength; auto: chosen on held-out items"
    )
    max_ratio: Annotated[float, Field(gt=0)] = Field(
        default=0.2, description="most fitted values per output for each token that they are fitted on"
    )

    def strengths(self) -> tuple[float, ...]:
        return AUTO_STRENGTHS if self.ridge == "auto" else (self.ridge,)


class RidgeBridge(Translator):
    """min ‖XW − Y‖² + λN‖W‖² per student layer, over the N real tokens of the calibration items.

    Every output channel is a regression of its own, with I = k · 2 · Ht · Dt fitted values. DataError if I / N exceeds
    `max_ratio`: with few samples for each of them the map fits its items and nothing else.
    """

    Options = RidgeOptions
    options: RidgeOptions
    modes = ("replace",)
    weight: Tensor
    window: Tensor

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: RidgeOptions) -> None:
        super().__init__(teacher, student, mode, options)
        self.gate = None
        window = nearest_layers(teacher.layers, student.layers, options.neighbours)
        width = window.shape[1] * 2 * teacher.kv_heads * teacher.head_dim
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("weight", torch.zeros(student.layers, width, 2 * student.kv_heads * student.head_dim))
        self.cast = Casts()

    def translate(self, state: KVCache) -> KeysValues:
        inputs = self._inputs(state, product_dtype(state))
        made = torch.bmm(inputs, self.cast(self.weight, inputs.dtype)).unflatten(1, (state.batch, state.length))
        return states_of(made.float(), self.student_geometry.kv_heads)

    def _inputs(self, state: KVCache, dtype: torch.dtype) -> Tensor:
        """[Ls, B · T, I]: all heads of the layers in each student layer's window."""
        return neighbours(self.by_token(state, dtype), self.window)

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        self._check_samples(sum(int(state.mask.sum()) for state, _ in batches))
        self.fit_statistics(batches)
        solver, device = Ridge(self.options.strengths()), self.weight.device
        for (state, own), held in held_out(batches):
            placed, target = state.to(device), self.standard_form(own.to(device))
            rows = (placed.mask.flatten(), held[:, None].expand_as(state.mask).flatten().to(device))
            solver.add(self._inputs(placed, torch.float32), token_rows(target).flatten(1, 2), *rows)
        self.weight.copy_(solver.solve())
        figures = {"start": "ridge", "rows": solver.moments.rows, "ridge": solver.strength}
        return {**figures, "unexplained": round(solver.unexplained(), 4)}

    def _check_samples(self, samples: int) -> None:
        fitted, most = self.weight.shape[1], self.options.max_ratio
        if fitted / max(samples, 1) > most:
            what = f"{fitted} fitted values per output for {samples} tokens: the ratio is above {most:g}"
            raise DataError(what, where="train.calibration_items", fix="raise it, or lower bridge.neighbours")

    def parameter_count(self) -> int:
        """What is fitted, although none of it is trained."""
        return super().parameter_count() + self.weight.numel()

    def diagnostics(self) -> dict[str, Any]:
        return {"blend": layer_shares(self.weight, self.window, self.teacher_geometry, self.student_geometry)}
