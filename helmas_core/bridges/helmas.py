"""The `helmas` bridge: take RoPE off, blend layers, project, put RoPE on again.

After He-LMAS (Qwen3-8B → Qwen3-1.7B), with blending after RoPE is off, standardised states, wide projector inputs
and a closed-form start. Shapes: B batch, L layers, H KV heads, T tokens, D head dim; t teacher, s student.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from helmas_core.bridges.base import Bridge
from helmas_core.bridges.blend import build_blend, centres
from helmas_core.bridges.fit import Ridge, Statistics, Sums
from helmas_core.bridges.project import DeepProjector, HeadMap, WideProjector
from helmas_core.config import Section
from helmas_core.errors import CacheError
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry

AUTO_RIDGE = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Strength = Annotated[float, Field(gt=0)]


class HelmasOptions(Section):
    layer_blending: Literal["skip", "blend", "attention"] = "attention"
    blend_kernel_size: Annotated[int, Field(ge=1)] = 3
    projector_input: Literal["head", "layer", "neighbourhood"] = "head"
    neighbours: Annotated[int, Field(ge=1)] = 4
    projector_depth: Annotated[int, Field(ge=1, le=8)] = 2
    hidden_expansion: Annotated[float, Field(gt=0, le=64)] = 2.0
    rope_handling: Literal["full", "naive"] = "full"
    standardise: bool = Field(default=True, description="false: states go in and come out as they are, to see why not")
    teacher_rope_base: float | None = None
    student_rope_base: float | None = None
    start: Literal["ridge", "random", "identity"] = "ridge"
    ridge: Strength | Literal["auto"] | Annotated[tuple[Strength, ...], Field(min_length=1)] = 0.01
    rank: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _rank_needs_width(self) -> HelmasOptions:
        if self.rank is not None and self.projector_input == "head":
            raise ValueError('rank needs projector_input = "layer" or "neighbourhood"')
        return self

    def strengths(self) -> tuple[float, ...]:
        """The ridge strengths to choose from."""
        if self.ridge == "auto":
            return AUTO_RIDGE
        return self.ridge if isinstance(self.ridge, tuple) else (self.ridge,)

    @model_validator(mode="after")
    def _identity_needs_heads(self) -> HelmasOptions:
        if self.start == "identity" and self.projector_input != "head":
            raise ValueError('start = "identity" needs projector_input = "head"')
        return self


class HelmasBridge(Bridge):
    Options = HelmasOptions
    options: HelmasOptions

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: HelmasOptions) -> None:
        super().__init__(teacher, student, mode, options)
        self.source = Statistics(teacher.layers, teacher.kv_heads, teacher.head_dim)
        self.target = Statistics(student.layers, student.kv_heads, student.head_dim)
        wide = options.projector_input != "head"
        joint = options.projector_input == "neighbourhood"
        self.blend = None if joint else build_blend(
            options.layer_blending, teacher.layers, student.layers, teacher.head_dim, options.blend_kernel_size
        )  # fmt: skip
        same_heads = teacher.kv_heads == student.kv_heads
        self.head_map = None if wide or same_heads else HeadMap(student.layers, teacher.kv_heads, student.kv_heads)
        self.projectors = nn.ModuleList(_projector(teacher, student, options) for _ in range(1 if joint else 2))
        self.gate = nn.Parameter(torch.full((2, student.layers, student.kv_heads), -2.0)) if mode == "fuse" else None
        self.register_buffer("window", _window(teacher.layers, student.layers, options.neighbours), persistent=False)

    window: Tensor

    def translate(self, state: KVCache) -> tuple[Tensor, Tensor]:
        states = self._standard(state, self.ropes and self.ropes[0], self.source)
        return self._outputs([p(x) for p, x in zip(self.projectors, self._inputs(states), strict=True)], state)

    def standard_form(self, own: KVCache) -> tuple[Tensor, Tensor]:
        return self._standard(own, self.ropes and self.ropes[1], self.target)

    def _standard(self, cache: KVCache, rope: Any, statistics: Statistics) -> tuple[Tensor, Tensor]:
        if rope is None:
            raise CacheError("the bridge has no models' angles", fix="call bridge.attach(pair) first")
        unrotated = rope.unrotate(cache) if self.options.rope_handling == "full" else cache
        return statistics.standardise(*(t.float() for t in unrotated.stacked()))

    def _inputs(self, states: tuple[Tensor, Tensor]) -> list[Tensor]:
        """The projectors' inputs, [Ls, N, I] each: one joint, or one for keys and one for values."""
        if self.blend is None:
            both = torch.stack(states, 2).permute(1, 0, 4, 2, 3, 5)  # [Lt, B, T, 2, Ht, Dt]
            rows = both.reshape(len(both), both.shape[1] * both.shape[2], -1)
            return [rows[self.window].transpose(1, 2).flatten(2)]
        return [self._rows(self.blend(x, which), which) for which, x in enumerate(states)]

    def _rows(self, blended: Tensor, which: int) -> Tensor:
        """[B, Ls, Ht, T, D] → rows of one head each, or of all heads of a token."""
        if self.options.projector_input == "layer":
            return blended.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        mapped = blended if self.head_map is None else self.head_map(blended, which)
        return mapped.permute(1, 0, 3, 2, 4).flatten(1, 3)

    def _outputs(self, projected: list[Tensor], state: KVCache) -> tuple[Tensor, Tensor]:
        """[Ls, N, O] → keys and values [B, Ls, Hs, T, Ds]."""
        shape = (state.batch, state.length, -1, self.student_geometry.kv_heads, self.student_geometry.head_dim)
        parts = [p.reshape(len(p), *shape) for p in projected]  # [Ls, B, T, 1 or 2, Hs, Ds]
        keys, values = torch.cat(parts, 3).float().permute(3, 1, 0, 4, 2, 5)
        return keys, values

    def finish(self, keys: Tensor, values: Tensor, state: KVCache, own: KVCache | None) -> KVCache:
        full = self.options.rope_handling == "full"
        keys, values = self.target.restore(keys, values)
        assert self.ropes is not None
        if self.gate is not None:
            keys, values = self._fuse(keys, values, own)
        cache = KVCache.unstack(keys, values, state.mask, state.positions, rotated=not full)
        return self.ropes[1].rotate(cache) if full else cache

    def _fuse(self, keys: Tensor, values: Tensor, own: KVCache | None) -> tuple[Tensor, Tensor]:
        """own + σ(gate) · (bridge − own), per layer and head, before RoPE goes on."""
        if own is None:
            raise CacheError('mode "fuse" needs the student\'s own cache', fix="pass own=")
        assert self.ropes is not None and self.gate is not None
        kept = self.ropes[1].unrotate(own) if self.options.rope_handling == "full" else own
        gates = self.gate.sigmoid()[:, None, :, :, None, None]
        mixed = [o.float() + g * (t - o.float()) for o, g, t in zip(kept.stacked(), gates, (keys, values), strict=True)]
        return mixed[0], mixed[1]

    @torch.no_grad()
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        self._fit_statistics(batches)
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
        """A solver per projector that has seen all rows; the first of every ten items is there to choose λ by."""
        solvers = [Ridge(self.options.strengths(), self.options.rank) for _ in self.projectors]
        device, items = self.source.mean.device, count()
        for state, own in ((s.to(device), o.to(device)) for s, o in batches):
            inputs = self._inputs(self._standard(state, self.ropes and self.ropes[0], self.source))
            held = torch.tensor([next(items) % 10 == 0 for _ in range(state.batch)], device=device)[:, None]
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

    def _fit_statistics(self, batches: Sequence[tuple[KVCache, KVCache]]) -> None:
        if not self.options.standardise:
            return
        assert self.ropes is not None
        full, device = self.options.rope_handling == "full", self.source.mean.device
        both = [(self.source, Sums(self.source), self.ropes[0]), (self.target, Sums(self.target), self.ropes[1])]
        for pair in batches:
            for (_, sums, rope), cache in zip(both, pair, strict=True):
                placed = cache.to(device)
                plain = rope.unrotate(placed) if full else placed
                sums.add(*plain.stacked(), plain.mask)
        for statistics, sums, _ in both:
            statistics.set(sums)

    def _targets(self, own: KVCache) -> list[Tensor]:
        """The student's own standardised cache in the projectors' output layout."""
        keys, values = (t.permute(1, 0, 3, 2, 4) for t in self.standard_form(own))  # [Ls, B, T, Hs, Ds]
        if self.blend is None:
            return [torch.stack((keys, values), 3).flatten(3).flatten(1, 2)]
        last = 3 if self.options.projector_input == "layer" else 4
        return [t.flatten(last).flatten(1, last - 1) for t in (keys, values)]

    def diagnostics(self) -> dict[str, Any]:
        blend = None if self.blend is None else self.blend.weights()  # type: ignore[operator]
        return {
            "blend": blend if blend is not None else self._neighbourhood(),
            "gate": None if self.gate is None else self.gate.detach().sigmoid(),
        }

    def _neighbourhood(self) -> Tensor:
        """[2, Ls, Lt]: the share of squared projector weight that each teacher layer holds, for K and V."""
        projector = self.projectors[0]
        assert isinstance(projector, WideProjector)
        student, layers = self.student_geometry, self.teacher_geometry.layers
        weight = projector.matrix().detach().float().square()
        parts = weight.reshape(student.layers, self.window.shape[1], -1, 2, student.kv_heads * student.head_dim)
        share = parts.sum((2, 4)).permute(2, 0, 1)
        spread = share.new_zeros(2, student.layers, layers).scatter(2, self.window.expand(2, -1, -1), share)
        return spread / spread.sum(2, keepdim=True).clamp(min=1e-12)


def _rows_of(tokens: Tensor, x: Tensor) -> Tensor:
    """What is said of tokens, [B, T], for the rows of x that belong to them, [N]."""
    return tokens.flatten().repeat_interleave(x.shape[1] // tokens.numel())


def _window(teacher_layers: int, student_layers: int, neighbours: int) -> Tensor:
    """[Ls, k]: the k teacher layers nearest to each student layer's relative depth."""
    count = min(neighbours, teacher_layers)
    start = (centres(teacher_layers, student_layers) - (count - 1) / 2).round().clamp(0, teacher_layers - count)
    return start.long()[:, None] + torch.arange(count)


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
