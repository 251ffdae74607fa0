"""A conversation with the student in which, every turn, the teacher reads (and thinks) and hands its cache over.

A chat model reads turns in its template; the student's part begins at the assistant's header. A base model has no
turns: the last sentence is what is asked, everything before it is what the teacher reads. What was read or bridged
for one turn is kept for the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.config import Config
from helmas_core.data.prompts import terse, without_last_step
from helmas_core.errors import CacheError, ConfigError
from helmas_core.evaluation.arms import stopped
from helmas_core.handoff.reasoning import end_of_thought
from helmas_core.handoff.told import One, Written, ids_of, join_one, tell, told_each, told_to
from helmas_core.models.cache import KVCache
from helmas_core.models.hardware import clock
from helmas_core.models.inject import generate, sampler
from helmas_core.models.pair import Member, Pair
from helmas_core.models.tokens import decode, encode, encode_start, endings, pad_left
from helmas_core.reading import BridgedReader, Reader
from helmas_core.transcript import Exchange, Settings, Transcript, read_transcript, write_transcript
from helmas_core.turns import render_turns, shared_spans

CUE = "\nThe final answer is:"
_TAIL = 24  # tokens that surely hold the words a thought ends with
Say = Callable[[str], None]
Ids = list[int]
Pieces = list[tuple[str, Ids]]


def _silent(_piece: str) -> None:
    """Nobody listens."""


@dataclass
class Turn:
    """One answer: its text, seconds per part, and how many tokens the answering model wrote.

    `new` tokens of the prompt were read for it, `kept` ones were known from turns before; a `stopped` answer is the
    part that was written.
    """

    text: str
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    reasoning: str = ""
    new: int = 0
    kept: int = 0
    stopped: bool = False


class Conversation:
    """Turns of one talk. `bridged` switches the hand-off on and off; without a bridge the student is alone."""

    def __init__(self, config: Config, pair: Pair, bridge: Bridge | None, notify: Say = _silent) -> None:
        self.config, self.pair, self.bridge, self.notify = config, pair, bridge, notify
        self.bridged = bridge is not None
        self.system = ""
        self.settings = Settings.of(config)
        self.turns: list[Exchange] = []
        self.thinks = config.data.handoff == "reasoning"
        asked = zip(pair.views, hidden_of(bridge, pair), strict=True)
        self.teachers = [Reader(view.teacher, view.as_teacher.pad, hidden) for view, hidden in asked]
        self.teacher, self.student = self.teachers[0], Reader(pair.student, pair.pad)
        self.handed = None if bridge is None else BridgedReader(pair, bridge, self.teachers, self.student, notify)
        self._told: set[str] = set()
        self._source: Ids = []
        if bridge is not None and self.thinks and config.data.reasoning == "gold":
            self._note_once("a question has no reasoning of its own here: the teacher writes it (data.reasoning)")

    def reset(self) -> None:
        """Forget the turns and all caches; the system prompt and the settings stay."""
        self.turns.clear()
        for reader in filter(None, (*self.teachers, self.student, self.handed)):
            reader.forget()

    def undo(self) -> str | None:
        """Take the last turn back; its question, None where there is none."""
        return self.turns.pop().question if self.turns else None

    def set(self, key: str, value: str) -> None:
        """Change one of `Settings`; ConfigError for what is unknown or out of range."""
        self.settings = self.settings.changed(key, value)

    def ask(self, text: str, on_token: Say = _silent) -> Turn:
        """The answer to `text`, streamed. It joins the conversation once it is complete, or stopped by
        KeyboardInterrupt after its first word; stopped earlier, the interrupt is passed on and nothing changes."""
        if self.bridged and self.bridge is None:
            raise ConfigError("there is no bridge to answer with", fix="start with --bridge PATH")
        turn = self._answer("bridge" if self.bridged else "student", text, self.turns, on_token)
        if turn.stopped and not turn.text:
            raise KeyboardInterrupt
        exchange = Exchange(question=text, answer=turn.text, bridged=self.bridged, stopped=turn.stopped)
        self.turns.append(exchange)
        return turn

    def compare(self) -> dict[str, str]:
        """The last question answered again by each: student alone, over the bridge, teacher."""
        if not self.turns:
            return {}
        names = ("student", *(("bridge",) if self.bridge is not None else ()), "teacher")
        question, before, answers = self.turns[-1].question, self.turns[:-1], dict[str, str]()
        for name in names:
            turn = self._answer(name, question, before, _silent)
            answers[name] = turn.text
            if turn.stopped:
                break
        return answers

    def inspect(self) -> dict[str, Any]:
        """The `inspect-cache` document of the text that was last handed over."""
        from helmas_core.evaluation.inspect import inspect_cache

        if not self._source:
            raise ConfigError("nothing was handed over yet", fix="ask something with the bridge on")
        return inspect_cache(self.config, self.pair, self.bridge, str(self.pair.tokenizer.decode(self._source)))

    def bytes(self) -> dict[str, int]:
        """What the caches of the conversation take, by who keeps them."""
        held = {"teacher": sum(reader.bytes for reader in self.teachers), "student": self.student.bytes}
        return held if self.handed is None else {**held, "bridge": self.handed.bytes}

    def save(self, path: Path) -> None:
        """Write all that the next answer depends on; the caches are not among it, since they follow from the text."""
        facts = {"system": self.system, "bridged": self.bridged, "settings": self.settings, "models": self._models()}
        write_transcript(path, Transcript(**facts, turns=tuple(self.turns)))

    def load(self, path: Path) -> None:
        """Go on from a saved conversation, in place of this one; a note says where other models wrote it."""
        saved = read_transcript(path)
        if saved.bridged and self.bridge is None:
            raise ConfigError("it was held over a bridge", where=str(path), fix="start with --bridge PATH")
        if other := [name for name, mark in self._models().items() if saved.models.get(name) != mark]:
            self.notify(f"it was held with another {' and '.join(other)}: answers may differ")
        self.turns, self.system = list(saved.turns), saved.system
        self.settings, self.bridged = saved.settings, saved.bridged

    def _models(self) -> dict[str, str | None]:
        data = self.config.data
        return {
            **{side: member.fingerprint for side, member in self.pair.sides.items()},
            "bridge": None if self.bridge is None else _fingerprint(self.bridge),
            "hand-off": f"{data.handoff}, last step {'asked for' if data.cut_last_step else 'kept'}",
        }

    def _answer(self, who: str, text: str, before: Sequence[Exchange], say: Say) -> Turn:
        turn, begin = Turn(""), clock(self.pair.device)
        try:
            if who == "bridge":
                self._over_the_bridge(turn, text, before, say)
            else:
                reader = self.teacher if who == "teacher" else self.student
                source, query = self._prompt(self.pair.seen_by(reader.member), text, before)
                self._write(turn, reader.member, self._read(turn, reader, [*source, *query]), say, len(before))
        finally:
            turn.seconds["total"] = clock(self.pair.device) - begin
        return turn

    def _over_the_bridge(self, turn: Turn, text: str, before: Sequence[Exchange], say: Say) -> None:
        assert self.bridge is not None and self.handed is not None
        thought = self._think(turn, text, before) if self.thinks else None
        *own, (_, query) = self._pieces(self.pair, text, before, thought)
        source = _joined(own)
        told = told_each(self._tell(view, own, text, before, thought) for view in self.pair.views)
        lengths = [len(ids_of(told_to(told, place))) for place in range(len(self.teachers))]
        self._check_length(max(len(source), *lengths) + len(query))
        if len(source) > (limit := self.config.data.max_source_tokens):
            self._note_once(f"longer than what the bridge was trained on (data.max_source_tokens = {limit})")
        cache = self.handed.read(source, told)
        turn.seconds |= self.handed.seconds
        turn.new, turn.kept = self.teacher.new, lengths[0] - self.teacher.new
        self._source = source
        with self.bridge.adapted(self.handed.state):
            self._write(turn, self.pair.student, (cache, query), say, len(before), self.thinks)

    def _read(self, turn: Turn, reader: Reader, ids: Ids) -> tuple[KVCache | None, Ids]:
        """(cache of all ids but the last, the last one), for a model that goes on from its own reading."""
        self._check_length(len(ids))
        cache = reader.read(ids[:-1]) if len(ids) > 1 else None
        turn.new, turn.kept = reader.new, len(ids) - 1 - reader.new
        return cache, ids[-1:]

    def _prompt(self, view: Pair, text: str, before: Sequence[Exchange]) -> tuple[Ids, Ids]:
        """(what is read, what opens the answer) as ids of `view`."""
        (_, source), (_, query) = self._pieces(view, text, before)
        return source, query

    def _pieces(
        self, view: Pair, text: str, before: Sequence[Exchange], thought: str | None = None
    ) -> list[tuple[str, Ids]]:
        """The pieces of a hand-off and at last what opens the answer, each as text and as ids of `view`."""
        earlier = [(turn.question, turn.answer) for turn in before]
        source, query = render_turns(view.template, text, earlier, self.system)
        asked = len(CUE) - 1 if self.config.data.cut_last_step and thought else 0  # for the step that is missing
        later = [query] if thought is None else [query, thought + CUE[:asked], CUE[asked:]]
        opening = encode_start(view.tokenizer, source, view.template)
        return [(source, opening), *((piece, encode(view.tokenizer, piece)) for piece in later)]

    def _tell(self, view: Pair, own: Pieces, text: str, before: Sequence[Exchange], thought: str | None) -> One:
        """What the teacher of `view` reads for the student's `own` pieces."""
        if view.codec is None:
            return tuple(_joined(own))
        if (view.codec.template is None) != (view.template is None):
            fix = "set data.chat_template = false"
            raise ConfigError("only one of the models has a chat template", where="data.chat_template", fix=fix)
        said = [self.system, *(part for turn in before for part in (turn.question, turn.answer)), text]
        parts: list[One] = []
        for (theirs, ids), (ours, known) in zip(
            self._pieces(view.as_teacher, text, before, thought), own, strict=False
        ):
            spans = shared_spans(theirs, ours, said)
            parts.append(tell(view, Written(theirs, ids, spans[0]), Written(ours, known, spans[1])))
        return reduce(join_one, parts)

    def _think(self, turn: Turn, text: str, before: Sequence[Exchange]) -> str:
        """The teacher's own reasoning. It is asked to be terse; what is handed over does not hold that wish."""
        begin, end = clock(self.pair.device), end_of_thought(CUE)
        view = self.pair.as_teacher
        source, query = self._prompt(view, f"{terse(CUE)}\n\n{text}", before)
        cache, last = self._read(turn, self.teacher, [*source, *query])
        written = generate(
            self.pair.teacher.model,
            cache,
            *pad_left([last], view.pad, view.device),
            self.settings.reasoning_tokens,
            ends=endings(view.tokenizer),
            finished=lambda row: end.search(str(view.tokenizer.decode(row[-_TAIL:]))) is not None,
            choose=sampler(self.settings.temperature, self._seed(len(before))),
        ).tokens[0]
        thought = end.split(decode(view.tokenizer, written), maxsplit=1)[0].strip()
        cut = self.config.data.cut_last_step and bool(thought)  # as the bridge was trained
        turn.reasoning = without_last_step(thought) if cut else thought
        turn.seconds["teacher thinks"] = clock(self.pair.device) - begin
        return turn.reasoning

    def _seed(self, index: int) -> int:
        """Of the turn's own draws, so that a turn that is taken back or loaded is answered as it was."""
        return self.settings.seed * 1_000_003 + index

    def _write(
        self,
        turn: Turn,
        member: Member,
        prompt: tuple[KVCache | None, Ids],
        say: Say,
        index: int,
        one_line: bool = False,
    ) -> None:
        """Let `member` go on from (cache, ids); what it says goes to `say` and `turn`, up to a KeyboardInterrupt."""
        pair = self.pair.seen_by(member)
        begin, said, tokens = clock(pair.device), "", list[int]()
        stop = ("\n",) if pair.template is None or one_line else ()

        def stream(_: int, token: int) -> None:
            nonlocal said
            tokens.append(token)
            text = decode(pair.tokenizer, tokens)
            if not text.endswith("\ufffd") and not stopped(pair, tokens, stop):
                piece, said = text[len(said) :], text  # before it is shown: an interrupt must not show it twice
                say(piece)

        cache, ids = prompt
        try:
            tokens = generate(
                member.model,
                cache,
                *pad_left([ids], pair.pad, pair.device),
                self.settings.max_new_tokens,
                ends=endings(pair.tokenizer),
                finished=lambda row: stopped(pair, row, stop),
                on_token=stream,
                choose=sampler(self.settings.temperature, self._seed(index)),
            ).tokens[0]
        except KeyboardInterrupt:  # every cache that is kept was complete before the first word
            turn.stopped = True
        whole = _before(stop, decode(pair.tokenizer, tokens))
        whole = whole.rstrip("\ufffd") if turn.stopped else whole
        say(whole[len(said) :])  # what came with the stop, or waited for the rest of a character
        turn.text, turn.tokens = whole.strip(), len(tokens)
        turn.seconds["answer"] = clock(pair.device) - begin

    def _check_length(self, tokens: int) -> None:
        """CacheError where a model has no position for the prompt; a note where it goes beyond what it learnt."""
        for member in self.pair.sides.values():
            most = getattr(member.model.config.get_text_config(), "max_position_embeddings", None) or tokens
            if tokens > most and member.rope.module is None:
                raise CacheError(f"{tokens} tokens; {member.id} reads {most}", fix="/reset, or /undo some turns")
            if tokens > most:
                self._note_once(f"the conversation is longer than the {most} tokens that {member.id} was made for")

    def _note_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.notify(text)


def _joined(pieces: Pieces) -> Ids:
    return [id for _, ids in pieces for id in ids]


def _before(stop: Sequence[str], text: str) -> str:
    """`text` up to the first stop string that stands after something that was said."""
    lead = len(text) - len(text.lstrip())
    ends = [text.find(mark, lead) for mark in stop if mark in text[lead:]]
    return text[: min(ends, default=len(text))]


def _fingerprint(bridge: Bridge) -> str:
    """A hash of all weights and statistics."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bridge.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
