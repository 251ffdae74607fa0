"""One training step's loss: read with both models, translate, compare as the stage asks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from helmas_core.bridges.base import Bridge
from helmas_core.config import TrainConfig
from helmas_core.handoff.examples import Example
from helmas_core.handoff.states import Ids, both_states
from helmas_core.handoff.store import Store
from helmas_core.models import inject
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Pair
from helmas_core.models.record import Recording, record_queries
from helmas_core.training import losses
from helmas_core.training.following import Following, choose


class Objective:
    """Weighted losses of a batch; holds both models' states so that each source is read once.

    `donors`, where they are given, tell what the teacher reads in a source's place.
    """

    def __init__(self, pair: Pair, bridge: Bridge, config: TrainConfig, store: Store | None = None) -> None:
        self.pair, self.bridge, self.config = pair, bridge, config
        self.teacher_states, self.student_states = both_states(pair, config, store)
        self.donors: Mapping[Ids, Ids] = {}

    def told(self, sources: Iterable[Ids]) -> list[Ids]:
        """What the teacher reads."""
        return [self.donors.get(source, source) for source in sources]

    def states(self, examples: Sequence[Example]) -> tuple[KVCache, KVCache]:
        """(teacher's cache, student's own cache) over the same source tokens: same ids, mask and positions.

        With donors, the same mask and positions only.
        """
        sources = [example.source for example in examples]
        return self.teacher_states.read(self.told(sources)), self.student_states.read(sources)

    def __call__(
        self, examples: Sequence[Example], weights: Mapping[Any, float], rng: random.Random
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum and each unweighted term."""
        sources = [example.source for example in examples]
        compared = self.bridge.mode == "fuse" or weights.keys() != {"ce"}
        state = self.teacher_states.read(self.told(sources))
        own = self.student_states.read(sources) if compared else None
        translated = self.bridge.translate(state)
        terms: dict[str, Tensor] = {}
        if "cache_mse" in weights:
            assert own is not None
            terms["cache_mse"] = losses.cache_mse(translated, self.bridge.standard_form(own), state.mask)
        if weights.keys() - {"cache_mse"}:
            following = choose(examples, self.config, rng, self.pair.pad, self.pair.device)
            cache = self.bridge.finish(*translated, state, own)
            terms |= self._functional(cache, own, following, weights)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: term.item() for name, term in terms.items()}

    def _functional(
        self, cache: KVCache, own: KVCache | None, following: Following, weights: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Losses on what the student makes of the cache. A continuation sees only the source before it."""
        student, terms = self.pair.student.model, {}
        cache = cache.keep_first(following.visible)
        reference, recording = None, None
        if own is not None:
            own = own.keep_first(following.visible)
        if own is not None and {"attention", "kl"} & weights.keys():
            reference, recording = self._reference(own, following)
        if "attention" in weights:
            assert recording is not None and own is not None
            scored = (following.labels != losses.IGNORE) & following.mask.bool()
            terms["attention"] = losses.attention_consistency(recording, cache, own, scored)
        if {"ce", "kl"} & weights.keys():
            with self.bridge.adapted():
                logits = inject.forward(student, cache, following.ids, following.mask)
            if "ce" in weights:
                terms["ce"] = losses.cross_entropy(logits, following.labels)
            if "kl" in weights:
                assert reference is not None
                terms["kl"] = losses.kl_divergence(logits, reference, following.labels)
        return terms

    @torch.no_grad()
    def _reference(self, own: KVCache, following: Following) -> tuple[Tensor, Recording]:
        """Logits and queries of the student that has read the source as text."""
        with record_queries(self.pair.student.model) as recording:
            logits = inject.forward(self.pair.student.model, own, following.ids, following.mask)
        return logits, recording
