"""The arms as lm-evaluation-harness asks them: to score continuations, or to write until a string says stop.

The harness is an extra.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helmas_core.data import parse
from helmas_core.data.item import Item
from helmas_core.data.task import Task
from helmas_core.errors import ConfigError
from helmas_core.evaluation.arms import Arms
from helmas_core.handoff.examples import Example
from helmas_core.handoff.states import Ids
from helmas_core.models.cache import KVCache
from helmas_core.models.inject import Generation, generate, sampler, score
from helmas_core.models.pair import Member
from helmas_core.models.tokens import decode, endings

normalize_gen_kwargs: Any = importlib.import_module("lm_eval.models.utils").normalize_gen_kwargs

_IDLE = {"top_p", "top_k", "min_p"}  # say nothing where the likeliest word is taken
_TASK = Task("lm-eval", parse.WHOLE, {}, stop=())


@dataclass(frozen=True)
class Decoding:
    """How an answer is written: it stops before any string of `until`, or after `limit` tokens; greedy at 0."""

    until: tuple[str, ...]
    limit: int
    temperature: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Decoding:
        """The harness's generation settings; ConfigError for one that would be ignored."""
        known: dict[str, Any] = normalize_gen_kwargs(dict(settings))
        until, limit = [mark for mark in known.pop("until", None) or [] if mark], known.pop("max_gen_toks")
        temperature = known.pop("temperature", 0.0) if known.pop("do_sample") else 0.0
        foreign = {key for key, value in known.items() if value is not None} - (set() if temperature else _IDLE)
        if foreign:
            what = f"{', '.join(sorted(foreign))} cannot be followed here"
            raise ConfigError(what, where="generation_kwargs", fix="set until, max_gen_toks, do_sample, temperature")
        return cls(tuple(until), int(limit), float(temperature))

    def cut(self, text: str) -> str:
        """`text` up to the first of the strings that end it."""
        return min((text.split(mark)[0] for mark in self.until), key=len, default=text)


@dataclass(frozen=True)
class Asked(Example):
    """A context as an example: `alone` is all of it, `source` all but its last token, `query` that one.

    `places` are those of its requests; it has `continuations`, one for each, or else `decoding`.
    """

    places: tuple[int, ...] = ()
    continuations: tuple[Ids, ...] = ()
    decoding: Decoding = Decoding((), 0, 0.0)

    @property
    def length(self) -> int:
        """Tokens of the context and of the longest that may follow."""
        return len(self.alone) + max([self.decoding.limit, *map(len, self.continuations)])


def asked_of(document: str, ids: Ids, places: Sequence[int], **more: Any) -> Asked:
    item = Item(document, question="", answer="")
    return Asked(item, _TASK, ids[:-1], ids[-1:], ids, (), (), (), places=tuple(places), **more)


@dataclass
class Scored(Generation):
    """What scoring gives in place of new tokens: for each row, (log-likelihood, is greedy) of each continuation."""

    scores: Sequence[Sequence[tuple[float, bool]]] = ()


class Answers(Arms):
    """The arms as the harness asks them: they score continuations, or write until its strings say stop."""

    def _generate(
        self, member: Member, cache: KVCache | None, prompts: Sequence[Ids], examples: Sequence[Example]
    ) -> Generation:
        asked = [example for example in examples if isinstance(example, Asked)]
        begun, ids, mask = self._asked(member, cache, prompts)
        if asked[0].continuations:
            found = score(member.model, begun, ids, mask, [one.continuations for one in asked])
            return Scored([], scores=found)
        how = asked[0].decoding

        def finished(tokens: list[int]) -> bool:
            said = decode(self.pair.tokenizer, tokens)
            return how.cut(said) != said

        choose = sampler(how.temperature, self.seed)
        return generate(
            member.model,
            begun,
            ids,
            mask,
            how.limit,
            ends=endings(self.pair.tokenizer),
            finished=finished,
            choose=choose,
        )
