"""The `helmas` bridge: take RoPE off, blend layers, project, put RoPE on again.

After He-LMAS (Qwen3-8B → Qwen3-1.7B), with blending after RoPE is off, standardised states, wide projector inputs
and a closed-form start. Shapes: B batch, L layers, H KV heads, T tokens, D head dim; t teacher, s student.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from helmas_core.bridges.base import KeysValues
from helmas_core.bridges.blend import build_blend, nearest_layers
from helmas_core.bridges.fit import AUTO_STRENGTHS, Ridge, held_out
from helmas_core.bridges.project import DeepProjector, HeadMap, WideProjector
from helmas_core.bridges.standard import (
    Translator,
    fuse_gate,
    layer_shares,
    neighbours,
    product_dtype,
    states_of,
    token_rows,
)
from helmas_core.config import Section
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry

Strength = Annotated[float, Field(gt=0)]


class HelmasOptions(Section):
    layer_blending: Literal["skip", "blend", "attention"] = Field(
        default="attention", description="how teacher layers become as many as the student has"
    )
    blend_kernel_size: Annotated[int, Field(ge=1)] = Field(
        default=3, description="teacher layers around each student layer that blend mixes"
    )
    projector_input: Literal["head", "layer", "neighbourhood"] = Field(
        default="head",
        description="what a projector sees of a token: a head, a layer's heads, or all that the nearest layers keep",
    )
    neighbours: Annotated[int, Field(ge=1)] = Field(default=4, description="how many nearest layers neighbourhood sees")
    projector_depth: Annotated[int, Field(ge=1, le=8)] = Field(default=2, description="linear maps of a projector")
    hidden_expansion: Annotated[float, Field(gt=0, le=64)] = Field(
        default=2.0, description="width between those maps, over that of one end"
    )
    rope_handling: Literal["full", "naive"] = Field(
        default="full", description="naive leaves the rotation on, to see what it costs"
    )
    standardise: bool = Field(default=True, description="false: states go in and come out as they are, to see why not")
    teacher_rope_base: float | None = Field(default=None, description="a check: refused where the model says otherwise")
    student_rope_base: float | None = Field(default=None, description="likewise")
    start: Literal["ridge", "random", "identity"] = Field(
        default="ridge", description="what training begins with: a closed form, chance, or the state itself"
    )
    ridge: Strength | Literal["auto"] | Annotated[tuple[Strength, ...], Field(min_length=1)] = Field(
        default=0.01, description="strength of the closed form; auto or a list: chosen on held-out items"
    )
    rank: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="width of a bottleneck in wide projectors; unset: none"
    )

    @model_validator(mode="after")
    def _rank_needs_width(self) -> HelmasOptions:
        if self.rank is not None and self.projector_input == "head":
            raise ValueError('rank needs projector_input = "layer" or "neighbourhood"')
        return self

    def strengths(self) -> tuple[float, ...]:
        """The ridge strengths to choose from."""
        if self.ridge == "auto":
            return AUTO_STRENGTHS
        return self.ridge if isinstance(self.ridge, tuple) else (self.ridge,)

    @model_validator(mode="after")
    def _identity_needs_heads(self) -> HelmasOptions:
        if self.start == "identity" and self.projector_input != "head":
            raise ValueError('start = "identity" needs projector_input = "head"')
        return self


class HelmasBridge(Translator):
    Options = HelmasOptions
    options: HelmasOptions

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: HelmasOptions) -> None:
        super().__init__(teacher, student, mode, options)
        wide = options.projector_input != "head"
        joint = options.projector_input == "neighbourhood"
        self.blend = None if joint else build_blend(
            options.layer_blending, teacher.layers, student.layers, teacher.head_dim, options.blend_kernel_size
        )  # fmt: skip
        same_heads = teacher.kv_heads == student.kv_heads
        self.head_map = None if wide or same_heads else HeadMap(student.layers, teacher.kv_heads, student.kv_heads)
        self.projectors = nn.ModuleList(_projector(teacher, student, options) for _ in range(1 if joint else 2))
        self.gate = fuse_gate(mode, student)
        self.register_buffer(
            "window", nearest_layers(teacher.layers, student.layers, options.neighbours), persistent=False
        )

    window: Tensor

    @property
    def takes_rope_off(self) -> bool:
        return self.options.rope_handling == "full"

    def translate(self, state: KVCache) -> KeysValues:
        inputs = self._inputs(state, product_dtype(state))
        return self._outputs([p(x) for p, x in zip(self.projectors, inputs, strict=True)], state)

    def _inputs(self, state: KVCache, dtype: torch.dtype) -> Iterator[Tensor]:
        """The projectors' inputs, [Ls, N, I] each: one joint, or one for keys and then one for values."""
        if self.blend is None:
            yield neighbours(self.by_token(state, dtype), self.window)
            return
        for which, rows in enumerate(self.by_layer(state, dtype)):
            blended = self.blend(rows, which)
            yield self._rows(blended if self.head_map is None else self.head_map(blended, which))

    def _rows(self, states: Tensor) -> Tensor:
        """[L, B, H, T, D] → [L, N, W]: rows of one head each, or of all heads of a token."""
        if self.options.projector_input == "layer":
            return states.transpose(2, 3).flatten(3).flatten(1, 2)
        return states.flatten(1, 3)

    def _outputs(self, projected: list[Tensor], state: KVCache) -> KeysValues:
        """[Ls, N, O] → keys and values [B, Ls, Hs, T, Ds]."""
        heads, tokens = self.student_geometry.kv_heads, (state.batch, state.length)
        if self.blend is None:
            return states_of(projected[0].float().unflatten(1, tokens), heads)
        if self.options.projector_input == "layer":
            parts = [p.unflatten(2, (heads, -1)).unflatten(1, tokens).transpose(2, 3) for p in projected]
        else:
            parts = [p.unflatten(1, (state.batch, heads, state.length)) for p in projected]
        keys, values = (part.float().transpose(0, 1) for part in parts)
        return keys, values

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        if self.options.standardise:
            self.fit_statistics(batches)
        if self.options.start == "random":
            return {"start": "random"}
        if self.options.start == "identity":
            return self._start_identity()
        solvers = self._regress(batches)
        for projector, solver in zip(self.projectors, solvers, strict=True):
            projector.set_linear(solver.solve())  # type: ignore[operator]
        figures = {"start": "ridge", "rows": solvers[0].moments.rows}
        if len(solvers[0].strengths) > 1:
            figures["ridge"] = [s.strength for s in solvers]
        return {**figures, "unexplained": [round(s.unexplained(), 4) for s in solvers]}

    def _regress(self, batches: Sequence[tuple[KVCache, KVCache]]) -> list[Ridge]:
        """A solver per projector that has seen all rows."""
        solvers = [Ridge(self.options.strengths(), self.options.rank) for _ in self.projectors]
        device = self.source.mean.device
        for (state, own), chosen in held_out(batches):
            state, own, held = state.to(device), own.to(device), chosen.to(device)[:, None]
            inputs = self._inputs(state, torch.float32)
            for solver, x, y in zip(solvers, inputs, self._targets(own), strict=True):
                solver.add(x, y, _rows_of(state.mask, x), _rows_of(held.expand_as(state.mask), x))
        return solvers

    def _start_identity(self) -> dict[str, Any]:
        for projector in self.projectors:
            width = projector.maps[0].shape[1]  # type: ignore[union-attr]
            projector.set_linear(
                torch.eye(width, self.student_geometry.head_dim).expand(self.student_geometry.layers, -1, -1)
            )  # type: ignore[operator]
        return {"start": "identity"}

    def _targets(self, own: KVCache) -> list[Tensor]:
        """The student's own standardised cache in the projectors' output layout."""
        if self.blend is None:
            return [token_rows(self.standard_form(own)).flatten(1, 2)]
        return [self._rows(t.transpose(0, 1)) for t in self.standard_form(own)]

    def diagnostics(self) -> dict[str, Any]:
        blend = None if self.blend is None else self.blend.weights()  # type: ignore[operator]
        return {
            "blend": blend if blend is not None else self._neighbourhood(),
            **super().diagnostics(),
        }

    def _neighbourhood(self) -> Tensor:
        """[2, Ls, Lt]: the share of squared projector weight that each teacher layer holds, for K and V."""
        projector = self.projectors[0]
        assert isinstance(projector, WideProjector)
        return layer_shares(projector.matrix(), self.window, self.teacher_geometry, self.student_geometry)


def _rows_of(tokens: Tensor, x: Tensor) -> Tensor:
    """What is said of tokens, [B, T], for the rows of x that belong to them, [N]."""
    heads = x.shape[1] // tokens.numel()
    return tokens[:, None].expand(-1, heads, -1).flatten()


def _projector(teacher: Geometry, student: Geometry, options: HelmasOptions) -> nn.Module:
    depth, layers = options.projector_depth, student.layers
    if options.projector_input == "head":
        hidden = round(teacher.head_dim * options.hidden_expansion)
        return DeepProjector(layers, teacher.head_dim, student.head_dim, hidden, depth)
    inputs, outputs = teacher.kv_heads * teacher.head_dim, student.kv_heads * student.head_dim
    if options.projector_input == "neighbourhood":
        inputs, outputs = 2 * inputs * min(options.neighbours, teacher.layers), 2 * outputs
    rank = None if options.rank is None else min(options.rank, inputs, outputs)
    return WideProjector(layers, inputs, outputs, round(outputs * options.hidden_expansion), depth, rank)
