"""One training step's loss: read with both models, translate, compare as the stage asks."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from helmas_core import processes
from helmas_core.bridges.base import COMPARING, Bridge, KeysValues, hidden_of
from helmas_core.config import TrainConfig
from helmas_core.handoff.examples import Example
from helmas_core.handoff.states import both_states
from helmas_core.handoff.store import Store
from helmas_core.handoff.told import Ids, Told
from helmas_core.models import inject
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Pair
from helmas_core.models.record import Recording, record_queries
from helmas_core.training import losses
from helmas_core.training.following import Following, choose


@dataclass(frozen=True)
class Handed:
    """A hand-off of a batch: what the teacher keeps, what the student goes on from, and what it keeps by itself."""

    state: KVCache
    cache: KVCache
    own: KVCache | None

    def rows(self, indices: Tensor) -> Handed:
        own = None if self.own is None else self.own.rows(indices)
        return Handed(self.state.rows(indices), self.cache.rows(indices), own)


@dataclass(frozen=True)
class Share:
    """This process's rows of a batch, and which part of all rows and of all source tokens they are.

    A mean over rows or tokens of these, times that part, is what they add to the mean over the batch. Where there are
    more processes than rows, one that has none takes a row that counts for nothing, and so keeps step with the others.
    """

    examples: Sequence[Example]
    places: Tensor
    rows: float
    tokens: float
    counts: float  # 1, or 0 for a row that counts for nothing

    @classmethod
    def of(cls, batch: Sequence[Example], device: torch.device) -> Share:
        own = processes.mine(range(len(batch)))
        places, counts = (own, 1.0) if own else (range(1), 0.0)
        examples = [batch[place] for place in places]
        read, whole = (sum(len(example.source) for example in part) for part in (examples, batch))
        rows, tokens = counts * len(examples) / len(batch), counts * read / whole
        return cls(examples, torch.tensor(places, device=device), rows, tokens, counts)

    def total(self, part: Tensor) -> Tensor:
        """A sum over these rows as one over all."""
        return processes.total(part * self.counts)


class Objective:
    """Weighted losses of a batch; holds both models' states so that each source is read once.

    `donors`, where they are given, tell what the teacher reads in a source's place. Of several processes each works on
    its share of the batch: losses and gradients of all of them add up to those of one process with the whole batch.
    """

    def __init__(self, pair: Pair, bridge: Bridge, config: TrainConfig, store: Store | None = None) -> None:
        self.pair, self.bridge, self.config = pair, bridge, config
        self.teacher_states, self.student_states = both_states(pair, config, store, hidden_of(bridge, pair))
        self.donors: dict[Ids, Told] = {}

    def told(self, examples: Sequence[Example]) -> list[Told]:
        """What the teacher reads."""
        return [self.donors.get(example.source, example.told) for example in examples]

    def states(self, examples: Sequence[Example]) -> tuple[KVCache, KVCache]:
        """(teacher's cache, student's own cache) over the same source tokens: same ids, mask and positions; with donors
        the same mask and positions only. Latent steps are left out: the student has nothing to compare them with."""
        own = self.student_states.read([example.source for example in examples])
        return self.teacher_states.read(self.told(examples)).first(own.length), own

    def compares(self, weights: Mapping[Any, float]) -> bool:
        """Whether these losses need the student's own cache of the source."""
        return self.bridge.mode == "fuse" or weights.keys() != {"ce"}

    def __call__(
        self, examples: Sequence[Example], weights: Mapping[Any, float], rng: random.Random
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum, and each unweighted term with figures that belong to it: this process's part of them."""
        share = Share.of(examples, self.pair.device)
        state = self.teacher_states.read(self.told(share.examples))
        own = self.student_states.read([e.source for e in share.examples]) if self.compares(weights) else None
        terms, figures, translated = {}, {}, None
        if comparing := [name for name in weights if name in COMPARING]:
            assert own is not None
            translated, target = self.bridge.compared(state, own)
            keys, values = (states[..., : own.length, :] for states in translated)  # without latent steps
            terms |= {name: losses.COMPARE[name]((keys, values), target, own.mask) * share.tokens for name in comparing}
            found = losses.collapse((keys, values), target, own.mask) if "mercator" in comparing else {}
            figures = {name: value * share.tokens for name, value in found.items()}
        if weights.keys() - COMPARING:  # chosen for all rows, so that each gets the same whoever has it
            following = choose(examples, self.config, rng, self.pair.pad, self.pair.device).rows(share.places)
            terms |= self._functional(state, own, translated, following, weights, share)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return total, {**{name: term.item() for name, term in terms.items()}, **figures}

    def _functional(
        self,
        state: KVCache,
        own: KVCache | None,
        translated: KeysValues | None,
        following: Following,
        weights: Mapping[str, Any],
        share: Share,
    ) -> dict[str, Tensor]:
        """Losses on what the student makes of a hand-off. A continuation sees only the source before it, and so does
        the bridge: one that looks at several tokens at once would tell of what is to be said."""
        state = state.keep_first(self._visible(state, following))
        own = None if own is None else own.keep_first(following.visible)
        handed = Handed(state, self.bridge.hand_over(state, own, translated), own)
        if "attention" in weights:  # a ratio of sums over the batch, which parts of it do not add up to
            found = self._compare(handed, following, weights, share)
            parts = {name: share.counts if name == "attention" else share.rows for name in found}
            return {name: term * parts[name] for name, term in found.items()}
        terms: dict[str, Tensor] = {}
        for rows in following.by_length():
            for name, term in self._compare(handed.rows(rows), following.rows(rows), weights, share).items():
                part = term * len(rows) / len(following.ids) * share.rows
                terms[name] = terms.get(name, torch.zeros_like(term)) + part
        return terms

    def _compare(
        self, handed: Handed, following: Following, weights: Mapping[str, Any], share: Share
    ) -> dict[str, Tensor]:
        student, columns, own, terms = self.pair.student.model, following.columns, handed.own, {}
        labels = following.labels[:, columns]
        reference, recording = None, None
        if own is not None and {"attention", "kl"} & weights.keys():
            reference, recording = self._reference(own, following, "attention" in weights)
        if "attention" in weights:
            assert recording is not None and own is not None
            scored = (following.labels != losses.IGNORE) & following.mask.bool()
            terms["attention"] = losses.attention_consistency(recording, handed.cache, own, scored, share.total)
        if {"ce", "kl"} & weights.keys():
            with self.bridge.adapted(handed.state):
                logits = inject.forward(student, handed.cache, following.ids, following.mask, columns)
            if "ce" in weights:
                terms["ce"] = losses.cross_entropy(logits, labels)
            if "kl" in weights:
                assert reference is not None
                terms["kl"] = losses.kl_divergence(logits, reference, labels)
        return terms

    def _visible(self, state: KVCache, following: Following) -> Tensor:
        """[B]: what comes before a continuation, or all of a source with the latent steps after it."""
        whole = state.mask.sum(1)
        return torch.where(following.visible == whole - self.pair.teacher.latent_steps, whole, following.visible)

    @torch.no_grad()
    def _reference(self, own: KVCache, following: Following, record: bool) -> tuple[Tensor, Recording | None]:
        """Logits at the scored columns, and queries if wanted, of the student that has read the source as text."""
        student = self.pair.student.model
        with record_queries(student) if record else nullcontext() as recording:
            logits = inject.forward(student, own, following.ids, following.mask, following.columns)
        return logits, recording
