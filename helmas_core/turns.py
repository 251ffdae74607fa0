"""The turns of a conversation as text: what the teacher reads, and what opens the answer."""

from __future__ import annotations

import re

from jinja2 import TemplateError

from helmas_core.errors import ConfigError
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
    except TemplateError as error:
        raise (refusal if system else ConfigError(f"the model's chat template fails: {error}")) from error
    if system.strip() not in source:
        raise refusal
    return source, query


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
