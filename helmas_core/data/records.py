"""One row of a public format -> one Item. A field that is missing or of the wrong kind raises KeyError or ValueError.

None means: by its format this row is not a question of the task with an answer; `load_items` counts those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from helmas_core.data.item import Item
from helmas_core.data.latex import boxed, tidy
from helmas_core.data.parse import LETTERS, parse_number
from helmas_core.data.sources import Row

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_PASSAGE = "This question refers to the following information."
_METAMATH_END = re.compile(r"\s*(?:####[^\n]*)?\s*The answer is:(?P<answer>.*)\Z", re.DOTALL)


def text(row: Row, name: str) -> str:
    """A field that must hold text."""
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'field "{name}" must be text, got {value!r}')
    return value.strip()


def label(row: Row, name: str) -> str:
    """A field that may hold a word to group items by; "" where it does not."""
    value = row.get(name)
    return str(value).strip() if isinstance(value, str | int) else ""


def gsm8k(row: Row, index: int) -> Item:
    rationale, mark, final = text(row, "answer").rpartition("####")
    answer = parse_number(final, cued=True)
    if not mark or answer is None:
        raise ValueError('field "answer" must end in "#### number"')
    return Item(str(index), text(row, "question"), answer, reasoning=_CALCULATOR.sub("", rationale).strip())


def math(row: Row, index: int) -> Item:
    solution = text(row, "solution")
    gold = boxed(solution)
    if gold is None or not tidy(gold):
        raise ValueError('field "solution" must hold \\boxed{answer}')
    category = label(row, "subject") or label(row, "type")
    return Item(str(index), text(row, "problem"), tidy(gold), reasoning=solution, category=category)


def arc(row: Row, index: int) -> Item:
    return _lettered(row, index, text(row, "question"))


def openbookqa(row: Row, index: int) -> Item:
    return _lettered(row, index, text(row, "question_stem"))


def _lettered(row: Row, index: int, question: str) -> Item:
    labels, texts = [str(label) for label in row["choices"]["label"]], row["choices"]["text"]
    key = str(row["answerKey"])
    if key not in labels:
        raise ValueError(f'field "answerKey" is {key!r}, the labels are {", ".join(labels)}')
    choices = _choices(texts, len(labels))
    # labels may be 1 to 4; ours are letters by position
    return Item(str(index), question, LETTERS[labels.index(key)], choices=choices)


def mmlu(row: Row, index: int) -> Item:
    choices = _choices(row["choices"], len(row["choices"]))
    answer = row["answer"]
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f'field "answer" must be the index of a choice, got {answer!r}')
    return Item(str(index), text(row, "question"), LETTERS[answer], choices=choices, category=label(row, "subject"))


def mmlu_passages(row: Row, index: int) -> Item | None:
    """An item of MMLU that is asked about a passage: the passage is private, the last line is the question."""
    item = mmlu(row, index)
    opening, _, rest = item.question.partition("\n")
    passage, _, question = rest.rpartition("\n")
    if opening.strip() != _PASSAGE or not passage.strip():
        return None
    return replace(item, question=question.strip(), private=passage.strip())


def _choices(texts: Sequence[object], labels: int) -> tuple[str, ...]:
    if isinstance(texts, str) or len(texts) != labels or not 2 <= labels <= len(LETTERS):
        raise ValueError(f'field "choices" must hold 2 to {len(LETTERS)} texts, each with a label')
    return tuple(str(choice).strip() for choice in texts)


def openmathinstruct2(row: Row, index: int) -> Item | None:
    answer = tidy(text(row, "expected_answer"))
    reasoning = text(row, "generated_solution")
    return Item(str(index), text(row, "problem"), answer, reasoning=reasoning) if answer else None


def metamathqa(row: Row, index: int) -> Item | None:
    response = text(row, "response")
    end = _METAMATH_END.search(response)
    answer = tidy(end["answer"]) if end else ""
    if end is None or not answer:
        return None
    return Item(str(index), text(row, "query"), answer, reasoning=response[: end.start()].strip())


def openhermes(row: Row, index: int) -> Item | None:
    """The first question and its reply; a system prompt before them is left out with the later turns."""
    turns = [(turn["from"], turn["value"].strip()) for turn in row["conversations"]]
    turns = turns[1:] if turns and turns[0][0] == "system" else turns
    match turns:
        case [("human", question), ("gpt", answer), *_] if question and answer:
            return Item(str(index), question, answer)
        case _:
            return None


def jsonl(row: Row, index: int) -> Item:
    """Our own format: `prompt`, `answer` (text or number), and optionally `reasoning`, `private`, `category`."""
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise ValueError(f'field "answer" must be text or a number, got {answer!r}')
    reasoning, private = (text(row, name) if row.get(name) else "" for name in ("reasoning", "private"))
    return Item(
        str(index),
        text(row, "prompt"),
        str(answer).strip(),
        reasoning=reasoning,
        private=private,
        category=label(row, "category"),
    )
