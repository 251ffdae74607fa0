"""The arms: who reads what, and who answers. Each is one small function over a batch of examples.

`student` alone · `teacher` · `text` (the student reads what the teacher had) · `bridge` · `deranged` (another item's
teacher cache) · `own` (the student's own cache injected: must equal `text`). When asked for, the controls of
`controls.py`: `zero` · `filler` (neutral text of the same length, read by the teacher) · `k_only` and `v_only` (the
other half from the filler) · `shuffle_k` · `moment_matched` · `disabled` (no bridge: the student's own cache alone
where it would be fused, an empty one where it would be replaced).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.config import TrainConfig
from helmas_core.errors import ConfigError
from helmas_core.evaluation.controls import CHANGES, FILLER, halves
from helmas_core.evaluation.costs import Ledger, real_bytes
from helmas_core.handoff.examples import Example
from helmas_core.handoff.states import States, TeacherStates, both_states
from helmas_core.handoff.told import Ids, Told, Written, fit, joined, tell, told_each
from helmas_core.models.cache import KVCache
from helmas_core.models.inject import Generation, generate
from helmas_core.models.pair import Member, Pair
from helmas_core.models.prefix import read_shared
from helmas_core.models.tokens import encode, encode_start, endings, pad_left


@dataclass(frozen=True)
class Batch:
    """Examples and, for each, the example whose teacher cache it gets in the `deranged` arm."""

    examples: list[Example]
    donors: list[Example]


class Arms:
    """Runs any arm of a pair and a bridge. Without `states`, the teachers' and the student's, nothing is kept between
    calls, so that timings are honest."""

    def __init__(
        self,
        pair: Pair,
        bridge: Bridge | None,
        max_new_tokens: int,
        states: tuple[TeacherStates, States] | None = None,
        seed: int = 0,
    ) -> None:
        self.pair, self.bridge, self.max_new_tokens = pair, bridge, max_new_tokens
        unkept = TrainConfig(state_gib=0)
        self.teacher_states, self.student_states = states or both_states(pair, unkept, hidden=hidden_of(bridge, pair))
        self.reuses = states is not None
        self.seed = seed
        self.ledger, self.arm = Ledger(pair.device), ""
        self.filler = Filler(pair)

    def run(self, arm: str, batch: Batch) -> Generation:
        """Answers of `arm`; what they cost stands in `ledger` until the next run."""
        self.ledger, self.arm = Ledger(self.pair.device), arm
        arms: dict[str, Callable[[Batch], Generation]] = {
            "student": lambda b: self._untold([e.alone for e in b.examples], b.examples),
            "teacher": lambda b: self._teach([e.as_teacher for e in b.examples]),
            "text": lambda b: self._read(self.pair.student, _texts(b.examples), b.examples),
            "bridge": lambda b: self._hand_over(b.examples, _told(b.examples)),
            "deranged": lambda b: self._hand_over(b.examples, self._foreign(b)),
            "own": lambda b: self._inject(self._own(b.examples), b.examples),
            "filler": lambda b: self._hand_over(b.examples, self._neutral(b.examples)),
            "k_only": lambda b: self._half(b.examples, keys=True),
            "v_only": lambda b: self._half(b.examples, keys=False),
            "disabled": lambda b: self._disabled(b.examples),
            **{name: lambda b, name=name: self._changed(name, b.examples) for name in CHANGES},
        }
        return arms[arm](batch)

    def _read(self, member: Member, prompts: Sequence[Ids], examples: Sequence[Example]) -> Generation:
        return self._generate(member, None, prompts, examples)

    def _untold(self, prompts: Sequence[Ids], examples: Sequence[Example]) -> Generation:
        """The student without anything of the source."""
        self.ledger.told = False
        return self._read(self.pair.student, prompts, examples)

    def _inject(self, cache: KVCache, examples: Sequence[Example]) -> Generation:
        return self._generate(self.pair.student, cache, [e.query for e in examples], examples)

    def _teach(self, examples: Sequence[Example]) -> Generation:
        """The teacher's own answer; where its states are kept it goes on from them, unless they hold latent steps."""
        if not self.reuses or self.pair.teacher.latent_steps:
            return self._read(self.pair.teacher, _texts(examples), examples)
        with self.ledger.part("teacher_prefill"):
            state = self.teacher_states.by_teacher[0].read([e.source for e in examples])
        return self._generate(self.pair.teacher, state, [e.query for e in examples], examples)

    def _hand_over(self, examples: Sequence[Example], told: Sequence[Told]) -> Generation:
        """Both models read as they are; only what the student makes of the bridged cache is adapted."""
        return self._go_on(*self._bridged(examples, told), examples)

    def _bridged(self, examples: Sequence[Example], told: Sequence[Told]) -> tuple[KVCache, KVCache]:
        """What the teacher keeps of what it was `told`, and what the bridge makes of it."""
        bridge, ledger = self._required(), self.ledger
        with ledger.part("teacher_prefill"):
            state = self.teacher_states.read(told)
        own = self._own(examples) if bridge.mode == "fuse" else None
        with ledger.part("bridge"):
            cache = bridge(state, own)
        dtypes = (member.model.dtype for member in (self.pair.teacher, self.pair.student))
        ledger.teacher_bytes, ledger.bridged_bytes = map(real_bytes, (state, cache), dtypes)
        return state, cache

    def _go_on(self, state: KVCache, cache: KVCache, examples: Sequence[Example]) -> Generation:
        with self._required().adapted(state):
            return self._inject(cache, examples)

    def _required(self) -> Bridge:
        if self.bridge is None:
            raise ConfigError("this arm needs a bridge", where="eval.arms", fix="give --bridge PATH")
        return self.bridge

    def _own(self, examples: Sequence[Example]) -> KVCache:
        with self.ledger.part("student_prefill"):
            return self.student_states.read([e.source for e in examples])

    def _neutral(self, examples: Sequence[Example]) -> list[Told]:
        return [self.filler.like(example.source) for example in examples]

    def _changed(self, name: str, examples: Sequence[Example]) -> Generation:
        self._refuse_open(name)
        sources = [example.source for example in examples]
        state, cache = self._bridged(examples, _told(examples))
        return self._go_on(state, CHANGES[name](cache, self.pair.student.rope, sources, self.seed), examples)

    def _half(self, examples: Sequence[Example], keys: bool) -> Generation:
        self._refuse_open("k_only" if keys else "v_only")
        state, item = self._bridged(examples, _told(examples))
        _, neutral = self._bridged(examples, self._neutral(examples))
        return self._go_on(state, halves(item, neutral) if keys else halves(neutral, item), examples)

    def _refuse_open(self, arm: str) -> None:
        """What is done to the cache tells nothing where the student also sees the teacher's states as it goes on."""
        bridge = self._required()
        if bridge.stays_open:
            fix = "leave it out; zero and filler by way of the teacher are deranged and filler"
            raise ConfigError(
                f"{bridge.method} hands over more than a cache, so {arm} destroys too little",
                where="eval.arms",
                fix=fix,
            )

    def _disabled(self, examples: Sequence[Example]) -> Generation:
        """Without the bridge and all that was trained with it."""
        if self._required().mode == "fuse":
            return self._inject(self._own(examples), examples)
        return self._untold([example.query for example in examples], examples)

    def _foreign(self, batch: Batch) -> list[Told]:
        """What the donors tell; cut or repeated to the same length where own and foreign states are fused."""
        if self.bridge is None or self.bridge.mode != "fuse":
            return _told(batch.donors)
        return [fit(donor.told, len(e.source)) for e, donor in zip(batch.examples, batch.donors, strict=True)]

    def _generate(
        self, member: Member, cache: KVCache | None, prompts: Sequence[Ids], examples: Sequence[Example]
    ) -> Generation:
        letters = all(example.choices for example in examples)
        pair = self.pair.as_teacher if self.arm == "teacher" else self.pair
        with self.ledger.generating("teacher" if self.arm == "teacher" else "student") as read:
            return generate(
                member.model,
                *self._asked(member, cache, prompts),
                1 if letters else self.max_new_tokens,
                ends=endings(pair.tokenizer),
                finished=lambda tokens: stopped(pair, tokens, examples[0].stop),
                allowed=[example.choices for example in examples] if letters else None,
                on_prefill=read,
            )

    def _asked(
        self, member: Member, cache: KVCache | None, prompts: Sequence[Ids]
    ) -> tuple[KVCache | None, Tensor, Tensor]:
        """What is there already, and ids and mask of what is read after it."""
        pad, device = self.pair.pad, self.pair.device
        if cache is None:
            return read_shared(member.model, prompts, pad, device)
        return cache, *pad_left(prompts, pad, device)


class Filler:
    """Neutral text, told as token ids, as long as it has to be; it opens as every source of the pair's does."""

    def __init__(self, pair: Pair) -> None:
        self.start = tuple(_opening(pair).ids)
        self.opening = told_each(tell(view, _opening(view.as_teacher), _opening(view)) for view in pair.views)
        self.text = told_each(tell(view, _neutral(view.as_teacher), _neutral(view)) for view in pair.views)

    def like(self, source: Ids) -> Told:
        """As many of the student's tokens as `source` has."""
        text, opens = fit(self.text, len(source)), source[: len(self.start)] == self.start
        return fit(joined(self.opening, text), len(source)) if opens else text


def _opening(view: Pair) -> Written:
    """What every source begins with."""
    start = view.template("")[0] if view.template else ""
    return Written(start, encode_start(view.tokenizer, start, view.template), ())


def _neutral(view: Pair) -> Written:
    return Written(FILLER, encode(view.tokenizer, FILLER), [(0, len(FILLER))])


def stopped(pair: Pair, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether a stop string stands after something that was said."""
    said = str(pair.tokenizer.decode(list(tokens))).lstrip()
    return any(mark in said for mark in stop)


def _texts(examples: Sequence[Example]) -> list[Ids]:
    return [example.source + example.query for example in examples]


def _told(examples: Sequence[Example]) -> list[Told]:
    return [example.told for example in examples]


def batches(examples: Sequence[Example], size: int) -> list[Batch]:
    """Length-sorted batches of one task each; an example's donor is its neighbour in length."""
    kinds: dict[tuple[str, bool], list[Example]] = {}
    for example in sorted(examples, key=lambda e: len(e.source)):
        kinds.setdefault((example.task.name, bool(example.choices)), []).append(example)
    found = []
    for kind in kinds.values():
        donors = [kind[_donor(i, kind)] for i in range(len(kind))]
        found += [Batch(kind[i : i + size], donors[i : i + size]) for i in range(0, len(kind), size)]
    return found


def _donor(index: int, kind: Sequence[Example]) -> int:
    """The nearest in length that tells something else, whatever its answer; the item itself where all are the same.

    A donor with another answer would be no chance level: where answers are few, a bridge that works would then be wrong
    in this arm on every item.
    """
    own = kind[index]
    return next((i for i in _outwards(index, len(kind)) if _other(own, kind[i])), index)


def _outwards(index: int, count: int) -> Iterator[int]:
    """All other places, nearest first; of the two next ones first that with which the item makes a pair."""
    for distance in range(1, count):
        both = sorted((index - distance, index + distance), key=lambda i: i != index ^ 1)
        yield from (i for i in both if 0 <= i < count)


def _other(own: Example, donor: Example) -> bool:
    """Of another item, and not one that goes on where the own source ends."""
    return own.item.id != donor.item.id and fit(donor.source, len(own.source)) != own.source
