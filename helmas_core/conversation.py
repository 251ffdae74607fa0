"""A conversation with the student in which, every turn, the teacher reads (and thinks) and hands its cache over.

A chat model reads turns in its template; the student's part begins at the assistant's header. A base model has no
turns: the last sentence is what is asked, everything before it is what the teacher reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.data.prompts import terse
from helmas_core.errors import ConfigError
from helmas_core.evaluation.arms import stopped
from helmas_core.handoff.reasoning import write_thoughts
from helmas_core.models.cache import KVCache, capture
from helmas_core.models.hardware import clock
from helmas_core.models.inject import generate
from helmas_core.models.pair import Member, Pair
from helmas_core.models.tokens import decode, encode, encode_start, endings, pad_left

CUE = "\nThe final answer is:"
_SENTENCE = re.compile(r"(?<=[.;!?\n])\s*(?=\S)")
Say = Callable[[str], None]


def _silent(_piece: str) -> None:
    """Nobody listens."""


@dataclass
class Turn:
    """One answer: its text, seconds per part, and how many tokens the answering model wrote."""

    text: str
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    reasoning: str = ""


class Conversation:
    """Turns of one talk. `bridged` switches the hand-off on and off; without a bridge the student is alone."""

    def __init__(self, config: Config, pair: Pair, bridge: Bridge | None) -> None:
        self.config, self.pair, self.bridge = config, pair, bridge
        self.bridged = bridge is not None
        self.turns: list[tuple[str, str]] = []
        self.thinks = config.data.handoff == "reasoning"

    def reset(self) -> None:
        self.turns.clear()

    def ask(self, text: str, on_token: Say = _silent) -> Turn:
        """The answer to `text`, streamed; it joins the conversation once it is complete."""
        if self.bridged and self.bridge is None:
            raise ConfigError("there is no bridge to answer with", fix="start with --bridge PATH")
        turn = self._answer("bridge" if self.bridged else "student", text, self.turns, on_token)
        self.turns.append((text, turn.text))
        return turn

    def compare(self) -> dict[str, str]:
        """The last question answered again by each: student alone, over the bridge, teacher."""
        if not self.turns:
            return {}
        names = ("student", *(("bridge",) if self.bridge is not None else ()), "teacher")
        question, before = self.turns[-1][0], self.turns[:-1]
        return {name: self._answer(name, question, before, _silent).text for name in names}

    def _answer(self, who: str, text: str, before: list[tuple[str, str]], say: Say) -> Turn:
        source, query = self._prompt(text, before)
        turn, begin = Turn(""), clock(self.pair.device)
        if who != "bridge":
            member = self.pair.teacher if who == "teacher" else self.pair.student
            self._write(turn, member, None, source + query, say)
        else:
            if self.thinks:
                query = query + self._think(turn, text, before)
                source, query = source + query, encode(self.pair.tokenizer, CUE)
            state, cache = self._hand_over(turn, source)
            assert self.bridge is not None
            with self.bridge.adapted(state):
                self._write(turn, self.pair.student, cache, query, say)
        turn.seconds["total"] = clock(self.pair.device) - begin
        return turn

    def _prompt(self, text: str, before: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """(what the teacher reads, what opens the answer) as ids."""
        source, query = self.pair.template(text, before) if self.pair.template else _plain(text, before)
        opening = encode_start(self.pair.tokenizer, source, self.pair.template)
        return opening, encode(self.pair.tokenizer, query)

    def _think(self, turn: Turn, text: str, before: list[tuple[str, str]]) -> list[int]:
        """The teacher's own reasoning as ids. It is asked to be terse; what is handed over does not hold that wish."""
        source, query = self._prompt(f"{terse(CUE)}\n\n{text}", before)
        [thought] = write_thoughts(self.pair, CUE, [source + query], self.config.data.reasoning_tokens)
        turn.reasoning, turn.seconds["teacher thinks"] = thought.text, thought.seconds
        return encode(self.pair.tokenizer, thought.text)

    @torch.no_grad()
    def _hand_over(self, turn: Turn, source: list[int]) -> tuple[KVCache, KVCache]:
        """What the teacher keeps after reading, and what the bridge makes of it."""
        assert self.bridge is not None
        inputs, begin = pad_left([source], self.pair.pad, self.pair.device), clock(self.pair.device)
        state = self.pair.teacher.read(*inputs, self.bridge.hidden)
        turn.seconds["teacher reads"] = clock(self.pair.device) - begin
        own = capture(self.pair.student.model, *inputs) if self.bridge.mode == "fuse" else None
        begin = clock(self.pair.device)
        cache = self.bridge(state, own)
        turn.seconds["bridge"] = clock(self.pair.device) - begin
        return state, cache

    def _write(self, turn: Turn, member: Member, cache: KVCache | None, ids: list[int], say: Say) -> None:
        begin, said, tokens = clock(self.pair.device), "", []
        stop = ("\n",) if self.pair.template is None or (cache is not None and self.thinks) else ()

        def stream(_: int, token: int) -> None:
            nonlocal said
            tokens.append(token)
            text = decode(self.pair.tokenizer, tokens)
            if not text.endswith("\ufffd") and not stopped(self.pair, tokens, stop):
                say(text[len(said) :])
                said = text

        inputs = pad_left([ids], self.pair.pad, self.pair.device)
        written = generate(
            member.model,
            cache,
            *inputs,
            self.config.eval.baseline_tokens,
            ends=endings(self.pair.tokenizer),
            finished=lambda row: stopped(self.pair, row, stop),
            on_token=stream,
        ).tokens[0]
        whole = decode(self.pair.tokenizer, written)
        whole = (
            min((whole.split(mark)[0] for mark in stop if mark in whole.lstrip()), key=len, default=whole)
            if stop
            else whole
        )
        say(whole[len(said) :])  # what came with the stop, or waited for the rest of a character
        turn.text = whole.strip()
        turn.tokens = len(written)
        turn.seconds["answer"] = clock(self.pair.device) - begin


def _plain(text: str, before: list[tuple[str, str]]) -> tuple[str, str]:
    """For a base model: (everything before the last sentence, the last sentence and a cue for its answer)."""
    told, asked = _split(text)
    parts = []
    for question, answer in before:
        earlier_told, earlier_asked = _split(question)
        parts += [earlier_told, f"{earlier_asked.lstrip()} {answer}"]
    source = "\n".join(part for part in [*parts, told] if part)
    return (source, asked) if source else (text, "\nAnswer:")


def _split(text: str) -> tuple[str, str]:
    sentences = [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]
    last = sentences[-1].strip()
    cue = f"\n{last}\nAnswer:" if last.endswith("?") else f"\n{last}"
    return " ".join(sentence.strip() for sentence in sentences[:-1]), cue
