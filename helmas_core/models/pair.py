"""Teacher and student, loaded, frozen, probed and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helmas_core import sides
from helmas_core.errors import ConfigError
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.geometry import Geometry
from helmas_core.models.hardware import Hardware
from helmas_core.models.latent import Latent
from helmas_core.models.prefix import cost_of_a_pass, read_many
from helmas_core.models.rope import Rope
from helmas_core.models.tokens import ChatTemplate, Codec


@dataclass(frozen=True)
class Member:
    """One model of the pair."""

    id: str
    model: PreTrainedModel
    rope: Rope
    geometry: Geometry
    revision: str | None
    fingerprint: str
    rope_residual: float
    latent: Latent | None = None  # steps that it thinks after what it reads
    home: torch.device | None = None  # where the pair wants what it keeps, if that is not where it computes

    @property
    def latent_steps(self) -> int:
        return 0 if self.latent is None else self.latent.steps

    @property
    def device(self) -> torch.device:
        """Where its caches are wanted; ids that it is to read are given there too."""
        return self.home or self.model.device

    def read(self, ids: Tensor, mask: Tensor, hidden: Sequence[int] = ()) -> KVCache:
        """What it keeps of `ids` [B, T], T places or those of its latent steps more. No gradient."""
        if self.latent is None:
            return capture(self.model, ids, mask, hidden)
        return self.latent.read(ids, mask, hidden)

    def read_many(self, prompts: Sequence[Sequence[int]], pad: int, hidden: Sequence[int] = ()) -> KVCache:
        """The same of many prompts, padded on the left, at the least cost."""

        def after(ids: Tensor, mask: Tensor, past: KVCache | None) -> KVCache:
            return self.read(ids, mask, hidden) if past is None else capture(self.model, ids, mask, hidden, past)

        cost = cost_of_a_pass(self.model) * (1 + self.latent_steps)
        return read_many(after, prompts, pad, self.device, cost, shares=self.latent is None)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            **self.geometry.shape(),
            "parameters": self.geometry.parameters,
        }


@dataclass(frozen=True)
class Pair:
    """Tokenizer and template are the student's, and the teacher's too unless it has a `codec` of its own.

    Of several teachers `teacher` is the first one, which also thinks and answers; `more` are the pairs of the same
    student with those that read beside it.
    """

    teacher: Member
    student: Member
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None
    tokenizer_hash: str
    hardware: Hardware
    codec: Codec | None = None
    more: tuple[Pair, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.hardware.device

    @property
    def views(self) -> tuple[Pair, ...]:
        """The student with each teacher alone, the first one first."""
        return (replace(self, more=()), *self.more)

    @property
    def teachers(self) -> tuple[Member, ...]:
        return (self.teacher, *(view.teacher for view in self.more))

    @property
    def one_tokenizer(self) -> bool:
        """Whether all models read the same ids."""
        return all(view.codec is None for view in self.views)

    @property
    def sides(self) -> dict[str, Member]:
        """Every model under its name in documents."""
        return sides.by_side(self.teachers, self.student)

    @property
    def pad(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in known if isinstance(i, int))

    @property
    def as_teacher(self) -> Pair:
        """The pair with the teacher's tokenizer and template: for what the teacher reads and writes."""
        if self.codec is None:
            return self
        own = {"tokenizer": self.codec.tokenizer, "template": self.codec.template, "tokenizer_hash": self.codec.hash}
        return replace(self, **own, codec=None, more=())

    def seen_by(self, member: Member) -> Pair:
        """The pair with the tokenizer and template of `member`."""
        return next((view.as_teacher for view in self.views if view.teacher is member), self)

    def describe(self) -> dict[str, Any]:
        teachers = zip(list(self.sides)[:-1], self.views, strict=True)
        return {
            **{name: member.describe() for name, member in self.sides.items()},
            "tokenizer": self.tokenizer_hash,
            **{f"{side}_tokenizer": view.codec.hash for side, view in teachers if view.codec},
            "dtype": str(self.hardware.dtype).removeprefix("torch."),
            "attention": self.hardware.attention,
            "device": self.hardware.device.type,
        }


def check_rope_base(pair: Pair, teacher: float | None, student: float | None) -> None:
    """`teacher_rope_base` and `student_rope_base` are checks: the angles always come from the models."""
    for name, wanted, member in (("teacher", teacher, pair.teacher), ("student", student, pair.student)):
        if wanted is not None and wanted != member.geometry.rope_theta:
            found = member.geometry.rope_theta
            raise ConfigError(
                f"{wanted:g} but the model says {found}", where=f"bridge.{name}_rope_base", fix="remove the key"
            )
