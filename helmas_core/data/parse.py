"""Answers out of generated text, and whether they are right.

Every parser takes the text and `cued`: True if the text follows words that asked for the answer, so the answer
stands first; False for free text such as a chain of thought, where it is looked for. None means unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helmas_core.data.latex import boxed, same_math, spell, tidy, value

if TYPE_CHECKING:
    from helmas_core.data.tasks import Task

LETTERS = "ABCDE"

_MARKER = re.compile(r"####|\banswer\s*(?:is\s*:?|:)", re.IGNORECASE)
# a minus is a sign only where nothing stands before it that it could be subtracted from
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])-)?(?<!\w)(?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<!\d)\.\d+)", re.ASCII
)
_CHOICE = re.compile(
    r"^[\s(\[\"'$]*(?:(?:probably|option|choice|letter)\s+)*[(\[]?([A-E])(?![\w'’])(?!\s(?!is\b|because\b|since\b)[a-z])"
)
_LONE = re.compile(r"^\s*\(?([A-Ea-e])\)?[.:]?\s*$")
_ANYWHERE = re.compile(r"\(([A-E])\)|\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-E])\b")


def parse_number(text: str, cued: bool = False) -> str | None:
    r"""The number answered, in its shortest exact form: "$1,234.50" -> "1234.5".

    Free text: after the last "answer is" or "####" that a number follows, else in the last `\boxed{}`, else the
    last number.
    """
    text = _plain(text)
    for segment in [text] if cued else _answered(text):
        if (found := _first_number(_first_line(segment))) is not None:
            return found
    if cued:
        return None
    box = boxed(text)
    if box is not None and (found := _first_number(box)) is not None:
        return found
    numbers = _NUMBER.findall(text.replace("$", ""))
    return _spelled(numbers[-1]) if numbers else None


def parse_math(text: str, cued: bool = False) -> str | None:
    r"""The mathematical answer, tidied: from `\boxed{}`, after "answer is", or the last `$…$` or number."""
    text = text.replace("**", "")
    box = boxed(text)
    segments = [_first_line(text)] if cued else [_first_line(segment) for segment in _answered(text)]
    inline = [] if cued else [found.rsplit("=", 1)[-1] for found in re.findall(r"\$([^$]+)\$", text)[-1:]]
    for candidate in [*([box] if box is not None else []), *map(_sentence, segments), *inline]:
        if tidied := tidy(candidate):
            return tidied
    return None if cued else parse_number(text)


def parse_letter(text: str, cued: bool = False) -> str | None:
    """The letter chosen, A to E; an article ("A planet"), a letter in a word, or two different letters are none."""
    text = _plain(text)
    box = boxed(text)
    for segment in [*([box] if box is not None else []), *([text] if cued else _answered(text))]:
        if (found := _leading_letter(_first_line(segment))) is not None:
            return found
    if cued:
        return None
    lines = [letter for line in text.splitlines() if (letter := _leading_letter(line))]
    named = {a or b for a, b in _ANYWHERE.findall(text)} | set(lines)
    return named.pop() if len(named) == 1 else None


def parse_text(text: str, cued: bool = False) -> str | None:
    """The line that answers: the first if `cued`, else the one after the last "answer is", else the last."""
    text = text.replace("**", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    answered = next((line for part in _answered(text) if (line := _first_line(part))), lines[-1])
    found = lines[0] if cued else boxed(text) or answered
    return found.strip().removesuffix(".") or None


def parse_word(text: str, _cued: bool = False) -> str | None:
    """The first word."""
    return next(iter(text.split()), None)


def parse_whole(text: str, _cued: bool = False) -> str | None:
    """All of the text: open answers have no shorter form."""
    return text.strip() or None


def _plain(text: str) -> str:
    return text.replace("**", "").replace("{,}", ",").replace(",\\!", ",").replace("−", "-")


def _answered(text: str) -> Iterator[str]:
    """What follows each "answer is" or "####", the last one first."""
    for marker in reversed(list(_MARKER.finditer(text))):
        yield text[marker.end() :]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _sentence(line: str) -> str:
    """`line` without the sentence that comes after the answer ("18. I hope it is correct.")."""
    return re.split(r"\.\s+(?=[A-Z])", line, maxsplit=1)[0]


def _first_number(line: str) -> str | None:
    """The number `line` amounts to: all of it, or the first one after the last equals sign."""
    number = value(box if (box := boxed(line)) is not None else line)
    if number is not None:
        return spell(number)
    line = line.replace("\\$", "").replace("$", "")
    found = _NUMBER.search(line.rsplit("=", 1)[-1]) or _NUMBER.search(line)
    return _spelled(found.group()) if found else None


def _spelled(number: str) -> str | None:
    exact = value(number)
    return None if exact is None else spell(exact)


def _leading_letter(line: str) -> str | None:
    line = re.sub(r"\\text(?:bf)?\{([^{}]*)\}", r"\1", line)
    found = _CHOICE.match(line) or _LONE.match(line)
    return found[1].upper() if found else None


def _same_number(one: str, two: str) -> bool:
    numbers = value(one), value(two)
    return None not in numbers and numbers[0] == numbers[1]


def _same_text(predicted: str, gold: str) -> bool:
    """As numbers where gold is one, else as words without case, outer punctuation and runs of spaces."""
    if value(gold) is not None:
        number = parse_number(predicted, cued=True)
        return number is not None and _same_number(number, gold)
    return _words(predicted) == _words(gold)


def _words(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'“”‘’()")


@dataclass(frozen=True)
class AnswerForm:
    """How a task's answers are read out of text and compared."""

    parse: Callable[[str, bool], str | None]
    same: Callable[[str, str], bool]


NUMBER = AnswerForm(parse_number, _same_number)
MATH = AnswerForm(parse_math, same_math)
LETTER = AnswerForm(parse_letter, str.__eq__)
TEXT = AnswerForm(parse_text, _same_text)
WORD = AnswerForm(parse_word, _same_text)
WHOLE = AnswerForm(parse_whole, _same_text)


def same_answer(task: Task, predicted: str | None, gold: str) -> bool:
    """Whether the parsed answer is the gold one; an unparsed answer (None) is wrong."""
    return predicted is not None and task.form.same(predicted, gold)
