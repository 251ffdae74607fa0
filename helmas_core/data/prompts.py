"""What each model reads. The order is always: user turn [private, question], assistant header, reasoning, cue.

The pieces are tokenised one by one and joined as ids, so none may need its neighbour to be tokenised well: a piece
starts with a newline, a space and a word, or after a header, and none ends in a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from helmas_core.data.item import Item
from helmas_core.data.parse import LETTERS
from helmas_core.data.tasks import Task
from helmas_core.errors import ConfigError, DataError
from helmas_core.models.align import Span

Handoff = Literal["prompt", "reasoning", "latent"]  # a latent one reads what a prompt one does
Scaffold = Literal["default", "plain"]

_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_CLOSES = re.compile(r"(\\\]|\$\$|\[/asy\]|\\end\{\w+\*?\})[.,\s\\\])$]*")
_BOX = "\\boxed"
BASELINE_STOP = ("\n\nQuestion:", "\nQuestion:")


class Template(Protocol):
    """(user text, earlier (user, assistant) turns) → (all up to and with the user text, what opens the answer)."""

    def __call__(self, user: str, earlier: Sequence[tuple[str, str]] = ()) -> tuple[str, str]: ...


@dataclass(frozen=True)
class Prompt:
    """`source` is read by the teacher, `query` by the student after the hand-off, `alone` by a student without one.

    `target` is the gold continuation; `stop` ends generation; `choices` are the letters as continuations, or empty.
    `reasoning` is the part of `source` that tells of it, "" where nothing was left, None where none is taken.
    `shared` are the characters of `source` that are the item's, in order; the rest is the template's.
    """

    source: str
    query: str
    alone: str
    target: str
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    reasoning: str | None = field(default=None, compare=False)  # says nothing that `source` does not
    shared: tuple[Span, ...] = field(default=(), compare=False)


def question_text(item: Item) -> str:
    """The question, with one lettered line per choice."""
    lines = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False))
    return "\n".join([item.question.strip(), *lines])


def told_text(item: Item) -> str:
    """All that a teacher may be told before it reasons: private text, then the question."""
    return "\n".join(filter(None, [item.private.strip(), question_text(item)]))


def takes_reasoning(item: Item, handoff: Handoff) -> bool:
    """Whether `render` puts reasoning into this hand-off: never for a text or an item with its own cue."""
    return handoff == "reasoning" and not item.cue and bool(item.question)


def without_last_step(thought: str) -> str:
    """`thought` up to its last step: its last line, or of a single line the last sentence; "" if it is but one.

    A line that only closes a formula belongs to the step before it, and so does all from a boxed answer on.
    """
    lines = [line for line in thought.splitlines() if line.strip()]
    steps = lines if len(lines) > 1 else _SENTENCES.split(thought.strip())
    rest = thought[: thought.rindex(steps[-1])].strip()
    partly = _CLOSES.fullmatch(steps[-1].strip()) or _BOX in rest
    return without_last_step(rest) if rest and partly else rest


def render(
    task: Task,
    item: Item,
    handoff: Handoff,
    template: Template | None = None,
    reasoning: str | None = None,
    cut: bool = False,
    scaffold: Scaffold = "default",
) -> Prompt:
    """The prompt of `item` for a hand-off; `template` is None for models without a chat format.

    With reasoning, the teacher reads private text, question and reasoning, and the student's query is the cue alone; of
    reasoning that is `cut`, its last character, since the step that is missing is for the teacher to take.
    Without, private text is all that the teacher reads of its item, and the question stands in the query.
    `reasoning` replaces the item's own (None); "", from a teacher that wrote nothing, renders as the prompt hand-off.
    A text is all source: there is nothing to ask about it. A task whose data set tells no reasoning takes none unless
    the teacher writes it, so that one mix may hold both sorts.
    `scaffold` "plain" puts the question as "Q: …" and asks with "A:", where the item brings no cue of its own.
    `cut`, or the task, takes the last step off the reasoning, so that it does not state the result; what is left may
    be "".
    Raises DataError for an item that takes reasoning and has none, unless it has private text to hand over.
    """
    if task.kind == "text":
        return Prompt(source=item.private, query="", alone="", target="", shared=((0, len(item.private)),))
    item, cue = _worded(task, item, scaffold)
    wanted = takes_reasoning(item, handoff) and (task.reasons or reasoning is not None or bool(item.reasoning))
    whole = (item.reasoning if reasoning is None else reasoning).strip() if wanted else ""
    cut = cut or task.cut
    thought = without_last_step(whole) if cut and whole else whole
    opening, header = _user_turn(template, question_text(item))
    alone = opening + _after(header, cue)
    if thought:
        source, query, shared = _with_reasoning(item, thought, cue, template, asked=cut)
    elif item.private:
        source, query, shared = _private(item, cue, template)
    elif wanted and reasoning is None and not whole:
        fix = 'set data.handoff = "prompt", or data.reasoning = "generate"'
        raise DataError("the item has no reasoning to hand over", where=item.id, fix=fix)
    else:
        source, query, shared = _prompt_only(task, opening, header, cue, _last(opening, question_text(item)))
    choices = tuple(task.gap + letter for letter in LETTERS[: len(item.choices)])
    told = thought if wanted else None
    return Prompt(source, query, alone, task.gap + item.answer, task.stop, choices, told, shared)


def _worded(task: Task, item: Item, scaffold: Scaffold) -> tuple[Item, str]:
    """The item and the cue in the scaffold's words; an item's own cue is part of what it asks."""
    if scaffold == "default" or item.cue:
        return item, item.cue or task.cue
    return replace(item, question=f"Q: {item.question.strip()}"), "\nA:"


def _private(item: Item, cue: str, template: Template | None) -> tuple[str, str, tuple[Span, ...]]:
    private, question = item.private.strip(), f"\n{question_text(item)}"
    opening, header = _user_turn(template, private + question)
    source = opening.removesuffix(question)
    return source, question + _after(header, cue), (_last(source, private),)


def _prompt_only(task: Task, opening: str, header: str, cue: str, asked: Span) -> tuple[str, str, tuple[Span, ...]]:
    """All but the cue is handed over; of a letter's cue all but its last character, for the teacher to think on."""
    head = opening + header
    query = _after(head, cue).removeprefix(head)
    if task.kind != "letters":
        return head, query, (asked,)
    source = head + query[:-1]
    return source, query[-1:], (asked, _last(source, query[:-1].lstrip("\n")))


def _with_reasoning(
    item: Item, thought: str, cue: str, template: Template | None, asked: bool
) -> tuple[str, str, tuple[Span, ...]]:
    """All but the cue is handed over; where the teacher is `asked`, all but the cue's last character."""
    told, cue = told_text(item), f"\n{cue.lstrip()}"
    opening, header = _user_turn(template, told)
    source = _after(opening + header, f"\n{thought}")
    shared = _last(opening, told), _last(source, thought)
    if not asked:
        return source, cue, shared
    source += cue[:-1]
    return source, cue[-1:], (*shared, _last(source, cue[1:-1]))


def _last(text: str, part: str) -> Span:
    """Where `part` stands at the end of `text`."""
    return len(text) - len(part), len(text)


def _after(head: str, tail: str) -> str:
    """`head` and `tail`, without a second newline between them."""
    return head + (tail.lstrip("\n") if head.endswith("\n") else tail)


def _user_turn(template: Template | None, text: str) -> tuple[str, str]:
    """The conversation up to the end of `text`, and from there to the assistant's first word."""
    if template is None:
        return text, ""
    turn, header = template(text)
    start = turn.rfind(text)
    if start < 0:
        fix = "set data.chat_template = false for this model"
        raise ConfigError("the model's chat template rewrites the user's text", where="data.chat_template", fix=fix)
    end = start + len(text)
    return turn[:end], turn[end:] + header


def baseline_prompt(task: Task, item: Item, template: Template | None = None) -> Prompt:
    """A model on its own reads `alone`, private text included: worked examples first where the task needs reasoning.

    Parse what it writes with `cued=not task.reasons`. `source` + `query` spell the same text as `alone`.
    """
    if task.reasons:
        return thinking_prompt(task, item, template)
    prompt = render(task, item, "prompt", template)
    return replace(prompt, alone=prompt.source + prompt.query)


def terse(cue: str) -> str:
    """Asks for reasoning that is short and comes to an end, with the words that `end_of_thought` finds."""
    return f'Reason in a few short sentences and end with one line: "{cue.strip()} ..."'


def thinking_prompt(task: Task, item: Item, template: Template | None = None) -> Prompt:
    """`alone` makes a model reason in short form and close with the task's cue, private text and examples first."""
    instruction = terse(task.cue)
    shots = [(question, f"{why}{task.cue} {answer}") for question, why, answer in task.few_shot]
    asked = told_text(item)
    if template is None:
        lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in shots]
        opening, header = "\n\n".join([instruction, *lines, f"Question: {asked}\nAnswer:"]), ""
    else:  # an instruct model takes its form from its own earlier turns, and rambles or guesses without them
        turns = [(f"{instruction}\n\n{question}", answer) for question, answer in shots]
        opening, header = template(f"{instruction}\n\n{asked}", turns)
    return Prompt(opening, header, opening + header, task.gap + item.answer, BASELINE_STOP)
