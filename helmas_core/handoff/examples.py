"""Items as token ids: what the teacher reads, what the student reads after it, and what it should say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helmas_core.data.item import Item
from helmas_core.data.prompts import Prompt
from helmas_core.data.tasks import Task
from helmas_core.errors import DataError
from helmas_core.handoff.told import Aligned, One, Told, Written, alignment_of, told_each
from helmas_core.models.align import Alignment
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import encode, encode_start

SHORTEST_TEXT = 16  # tokens: half to be read, half to go on with


@dataclass(frozen=True)
class Thought:
    """Reasoning that the teacher wrote: its text without the answer, and what it cost.

    `tokens` counts all that was written; `seconds` is the item's equal part of its batch; `truncated` thoughts
    reached data.reasoning_tokens before they came to an end.
    """

    text: str
    tokens: int
    seconds: float
    truncated: bool


@dataclass(frozen=True)
class Example:
    """One item, tokenised piece by piece. `text` reads source + query; `student` alone reads `alone`.

    `target` is the gold answer with its ending, empty for a text, which has no query either; `choices` are the single
    tokens that a letters task allows; `thought` is what the teacher wrote where it wrote the reasoning, `reasoning`
    that which `source` tells: "" where nothing was left of it, None where the hand-off takes none.

    All ids are the student's. Where the teacher has a tokenizer of its own, `teachers` is the same item in its ids and
    template, and `alignment` brings the two sources together. `more` is the item as each further teacher reads it.
    """

    item: Item
    task: Task
    source: tuple[int, ...]
    query: tuple[int, ...]
    alone: tuple[int, ...]
    target: tuple[int, ...]
    choices: tuple[int, ...]
    stop: tuple[str, ...]
    thought: Thought | None = None
    reasoning: str | None = None
    teachers: Example | None = None
    alignment: Alignment | None = None
    more: tuple[Example, ...] = ()

    @property
    def by_teacher(self) -> tuple[Example, ...]:
        """The item with each teacher's reading of it."""
        return (self, *self.more)

    @property
    def as_teacher(self) -> Example:
        """The item as the teacher reads and answers it."""
        return self.teachers or self

    @property
    def told(self) -> Told:
        """What the teachers read to hand `source` over."""
        return told_each(one._told for one in self.by_teacher)

    @property
    def _told(self) -> One:
        if self.alignment is None:
            return self.source
        return Aligned(self.as_teacher.source, self.alignment.places)

    @property
    def length(self) -> int:
        """Tokens of the source, for whichever model has most of them."""
        return max(len(self.source), *(len(one.as_teacher.source) for one in self.by_teacher))

    @property
    def cuts(self) -> Sequence[int]:
        """Where the source may be cut to go on with the rest: half of the shortest text on both sides, and where no
        teacher's tokens up to there tell anything of what comes after."""
        least, alignments = SHORTEST_TEXT // 2, [one.alignment for one in self.by_teacher if one.alignment is not None]
        places = range(least, len(self.source) - least + 1)
        return [place for place in places if all(one.open[place] for one in alignments)] if alignments else places


def make_example(
    pair: Pair, task: Task, item: Item, prompt: Prompt, thought: Thought | None = None, told: Prompt | None = None
) -> Example:
    """The item as the student reads it by `prompt` and, where its tokenizer is another one, the first teacher by
    `told`."""
    example = _example(pair, task, item, prompt, thought)
    if pair.codec is None:
        return example
    told = told or prompt
    theirs = _example(pair.as_teacher, task, item, told, thought)
    both = Written(told.source, theirs.source, told.shared), Written(prompt.source, example.source, prompt.shared)
    return replace(example, teachers=theirs, alignment=alignment_of(pair, *both))


def _example(pair: Pair, task: Task, item: Item, prompt: Prompt, thought: Thought | None) -> Example:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(encode(pair.tokenizer, text))

    choices = tuple(_single(ids(choice), choice, item) for choice in prompt.choices)
    plain = task.kind == "text"  # it stands in no chat turn and asks for no answer
    ending = () if choices or plain else _ending(pair, prompt)

    def opening(text: str) -> tuple[int, ...]:
        return tuple(encode_start(pair.tokenizer, text, None if plain else pair.template))

    return Example(
        item,
        task,
        opening(prompt.source),
        ids(prompt.query),
        opening(prompt.alone),
        ids(prompt.target) + ending,
        choices,
        prompt.stop,
        thought,
        prompt.reasoning,
    )


def _single(ids: tuple[int, ...], choice: str, item: Item) -> int:
    if len(ids) != 1:
        raise DataError(
            f'the choice "{choice}" is {len(ids)} tokens, not one', where=item.id, fix="use another tokenizer"
        )
    return ids[0]


def _ending(pair: Pair, prompt: Prompt) -> tuple[int, ...]:
    """The token that closes an answer: the turn's end for a chat model, a line break otherwise."""
    end = pair.tokenizer.eos_token_id
    if pair.template is not None and isinstance(end, int):
        return (end,)
    return tuple(encode(pair.tokenizer, prompt.stop[0] if prompt.stop else "\n"))


def within(examples: Sequence[Example], limit: int) -> tuple[list[Example], int]:
    """The examples whose source fits in `limit` tokens, and how many do not."""
    kept = [example for example in examples if example.length <= limit]
    if not kept:
        raise DataError(f"no item's source fits in {limit} tokens", where="data.max_source_tokens", fix="raise it")
    return kept, len(examples) - len(kept)
