"""What every bridge is: a small module that lets a student go on from what a teacher has read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from helmas_core.config import Section
from helmas_core.errors import CacheError
from helmas_core.models.adapter import StudentCopy, StudentLora
from helmas_core.models.cache import KVCache
from helmas_core.models.geometry import Geometry
from helmas_core.models.pair import Pair
from helmas_core.models.rope import Rope

KeysValues = tuple[Tensor, Tensor]  # keys and values, [B, L, H, T, D] each
FUNCTIONAL = frozenset({"ce", "kl", "attention"})  # losses on what the student makes of the cache
COMPARING = frozenset({"cache_mse", "mercator", "log_norm"})  # losses between a translated cache and the student's own


class Bridge(nn.Module, ABC):
    """Parameters are fp32 and so is its arithmetic outside autocast; the models are borrowed, not owned.

    A method subclasses this, names its options in `Options` and implements `forward`. What the student makes of a
    hand-off is always the same two lines, in training, evaluation and chat:

        cache = bridge(state, own)
        with bridge.adapted(state): …the student goes on from `cache`…

    `modes` are those that the method supports, its default first; `losses` are what it can learn from; `hidden` are the
    hidden states of the teacher that it takes, counted as `models.cache.read` does.
    """

    Options: ClassVar[type[Section]]
    modes: ClassVar[tuple[str, ...]] = ("replace", "fuse")
    losses: frozenset[str] = FUNCTIONAL
    summable: ClassVar[bool] = True  # whether all it hands over is a cache, so that those of several can be summed
    aligned: bool = True  # whether "fuse" goes token by token, so that both caches must be of one length
    stays_open: ClassVar[bool] = False  # whether the student sees more of the teacher than the cache as it goes on
    hidden: tuple[int, ...] = ()
    method: str = ""  # its name in the registry, which gives it

    def __init__(self, teacher: Geometry, student: Geometry, mode: str, options: Section) -> None:
        super().__init__()
        self.teacher_geometry, self.student_geometry = teacher, student
        self.mode, self.options = mode, options
        self.ropes: tuple[Rope, Rope] | None = None
        self.student_lora: StudentLora | None = None
        self.student_copy: StudentCopy | None = None
        self._student: tuple[PreTrainedModel, ...] = ()  # in a tuple, or it would count as a part of the bridge

    def attach(self, pair: Pair) -> Bridge:
        """Borrow the pair's angles and its student, and move to its device."""
        self.ropes, self._student = (pair.teacher.rope, pair.student.rope), (pair.student.model,)
        return self.to(pair.device)

    @property
    def by_teacher(self) -> Sequence[Bridge]:
        """The bridges of which it is made, one for each teacher: here, itself."""
        return (self,)

    @property
    def trained_student(self) -> StudentLora | StudentCopy | None:
        """What of the student is trained along, if anything is."""
        return self.student_lora or self.student_copy

    @property
    def student(self) -> PreTrainedModel:
        """The borrowed student."""
        if not self._student:
            raise CacheError("the bridge has no student", fix="call bridge.attach(pair) first")
        return self._student[0]

    @abstractmethod
    def forward(self, state: KVCache, own: KVCache | None = None) -> KVCache:
        """What the teacher keeps (RoPE on) → cache for the student (RoPE on).

        `own` is the student's cache over the same tokens, needed in mode "fuse" and ignored in "replace".
        """

    @contextmanager
    def adapted(self, state: KVCache) -> Iterator[None]:  # noqa: ARG002 - for methods that also act while it goes on
        """The student as it goes on from a cache that was made of `state`: inside it has its LoRA or its trained
        weights, if there are any, and outside it is what it was."""
        trained = self.trained_student
        with nullcontext() if trained is None else trained.active():
            yield

    def fit(self, batches: Sequence[tuple[KVCache, KVCache]]) -> dict[str, Any]:  # noqa: ARG002 - for methods that do
        """Statistics and a first guess from (teacher state, student's own cache) pairs; returns figures.

        May go over `batches` more than once and holds one of them at a time.
        """
        return {"start": "random"}

    def standard_form(self, own: KVCache) -> KeysValues:
        """A cache of the student in the form in which caches are compared: RoPE off, fp32."""
        if self.ropes is None:
            raise CacheError("the bridge has no models' angles", fix="call bridge.attach(pair) first")
        keys, values = self.ropes[1].unrotate(own).stacked()
        return keys.float(), values.float()

    def translated(self, state: KVCache, own: KVCache) -> KeysValues:
        """What the bridge makes, in the form in which caches are compared."""
        return self.standard_form(self(state, own))

    def compared(self, state: KVCache, own: KVCache) -> tuple[KeysValues, KeysValues]:
        """(what the bridge makes, the student's own) in that form."""
        return self.translated(state, own), self.standard_form(own)

    def hand_over(self, state: KVCache, own: KVCache | None, translated: KeysValues | None) -> KVCache:  # noqa: ARG002
        """The student's cache; a method may make it of what is `translated` already, where something is."""
        return self(state, own)

    def anneal(self, share: float) -> None:
        """Before each step: `share` of the training is done. For what cools down or warms up."""

    def diagnostics(self) -> dict[str, Any]:
        """What `inspect-cache` may show: blend weights, gates."""
        return {}

    def student_parameters(self) -> list[nn.Parameter]:
        """Those that belong to the student, trained along with the bridge."""
        trained = self.trained_student
        return [] if trained is None else list(trained.parameters())

    def parameter_count(self) -> int:
        """The bridge's own parameters, without the student's."""
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in self.student_parameters())

    def parameter_counts(self) -> dict[str, int]:
        """What reports say: the bridge's parameters and, apart, those of the student that are trained along."""
        student = sum(p.numel() for p in self.student_parameters())
        name = "student_lora_parameters" if isinstance(self.trained_student, StudentLora) else "student_parameters"
        return {"parameters": self.parameter_count(), **({name: student} if student else {})}


def hidden_of(bridge: Bridge | None, pair: Pair) -> list[tuple[int, ...]]:
    """The hidden states that a bridge takes of each of the pair's teachers: none without a bridge."""
    return [()] * len(pair.teachers) if bridge is None else [part.hidden for part in bridge.by_teacher]
