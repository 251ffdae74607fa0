"""What every bridge is: a small module that turns a teacher's cache into one the student can go on from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from helmas_core.config import Section
from helmas_core.models.adapter import StudentLora
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry
from helmas_core.models.pair import Pair
from helmas_core.models.rope import Rope


class Bridge(nn.Module, ABC):
    """Parameters are fp32 and so is its arithmetic outside autocast; the models' angles are borrowed, not owned.

    A method subclasses this, names its options in `Options` and implements `translate`, `standard_form` and
    `finish`. `forward` joins them.
    """

    Options: ClassVar[type[Section]]

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: Section) -> None:
        super().__init__()
        self.teacher_geometry, self.student_geometry = teacher, student
        self.mode, self.options = mode, options
        self.ropes: tuple[Rope, Rope] | None = None
        self.student_lora: StudentLora | None = None

    def attach(self, pair: Pair) -> Bridge:
        """Borrow the pair's angles and move to its device."""
        self.ropes = (pair.teacher.rope, pair.student.rope)
        return self.to(pair.device)

    @abstractmethod
    def translate(self, state: KVCache) -> tuple[Tensor, Tensor]:
        """Standardised keys (RoPE off) and values for the student, [B, Ls, Hs, T, Ds] each, fp32."""

    @abstractmethod
    def standard_form(self, own: KVCache) -> tuple[Tensor, Tensor]:
        """A student's own cache in the form that `translate` is compared with."""

    @abstractmethod
    def finish(self, keys: Tensor, values: Tensor, state: KVCache, own: KVCache | None) -> KVCache:
        """`translate`'s output as a cache at the state's positions, fused with `own` in mode "fuse"."""

    @abstractmethod
    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:
        """Statistics and a closed-form start from (teacher state, student's own cache) pairs; returns figures.

        Goes over `batches` more than once and holds one of them at a time.
        """

    def diagnostics(self) -> dict[str, Any]:
        """What `inspect-cache` may show: blend weights, gates."""
        return {}

    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        """Teacher cache (RoPE on) → cache for the student (RoPE on), same tokens, positions and mask.

        `own` is the student's cache over the same tokens, needed in mode "fuse" and ignored in "replace".
        """
        return self.finish(*self.translate(state), state, own)

    def adapted(self) -> AbstractContextManager[None]:
        """The student has its LoRA inside, if there is one: for what goes on from a bridged cache and nothing else."""
        return nullcontext() if self.student_lora is None else self.student_lora.active()

    def parameter_count(self) -> int:
        """The bridge's own parameters, without the student's LoRA."""
        return _count(self) - (0 if self.student_lora is None else _count(self.student_lora))

    def parameter_counts(self) -> dict[str, int]:
        """What reports say: the bridge's parameters and, apart, those of the student's LoRA if there is one."""
        lora = {} if self.student_lora is None else {"student_lora_parameters": _count(self.student_lora)}
        return {"parameters": self.parameter_count(), **lora}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
