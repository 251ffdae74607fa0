"""The turns of a conversation as text: what the teacher reads, and what opens the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from helmas_core.errors import ConfigError, PairError
from helmas_core.models.align import Span
from helmas_core.models.tokens import ChatTemplate

_SENTENCE = re.compile(r"(?<=[.;!?\n])\s*(?=\S)")
Turns = list[tuple[str, str]]


def render_turns(template: ChatTemplate | None, text: str, earlier: Turns, system: str) -> tuple[str, str]:
    """(source, query) of `text` after `earlier` (question, answer) turns; ConfigError where `system` has no place."""
    if template is None:
        source, query = plain(text, earlier)
        return (f"{system}\n{source}" if system else source), query
    refusal = ConfigError("this model's chat template takes no system prompt", where="--system", fix="leave it out")
    try:
        source, query = template(text, earlier, system)
    except PairError as error:
        raise (refusal if system else error) from error
    if system.strip() not in source:
        raise refusal
    return source, query


def shared_spans(first: str, second: str, said: Sequence[str]) -> tuple[list[Span], list[Span]]:
    """What two renderings of a conversation share: all of them if they are the same, else what was `said`, in its order
    and where both have it word for word. The last of it is the last in its rendering."""
    if first == second:
        return [(0, len(first))], [(0, len(second))]
    spans: tuple[list[Span], list[Span]] = ([], [])
    ends = (0, 0)
    for content in filter(None, said):
        find = str.rfind if content is said[-1] else str.find
        begins = find(first, content, ends[0]), find(second, content, ends[1])
        if min(begins) >= 0:
            ends = begins[0] + len(content), begins[1] + len(content)
            for side, span in zip(spans, zip(begins, ends, strict=True), strict=True):
                side.append(span)
    return spans


def plain(text: str, earlier: Turns) -> tuple[str, str]:
    """For a base model: (everything before the last sentence, the last sentence and a cue for its answer)."""
    told, asked = split(text)
    parts = []
    for question, answer in earlier:
        earlier_told, earlier_asked = split(question)
        parts += [earlier_told, f"{earlier_asked.lstrip()} {answer}"]
    source = "\n".join(part for part in [*parts, told] if part)
    return (source, asked) if source else (text, "\nAnswer:")


def split(text: str) -> tuple[str, str]:
    """(all sentences but the last, the last one with a cue for its answer)."""
    sentences = [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]
    last = sentences[-1].strip()
    cue = f"\n{last}\nAnswer:" if last.endswith("?") else f"\n{last}"
    return " ".join(sentence.strip() for sentence in sentences[:-1]), cue
