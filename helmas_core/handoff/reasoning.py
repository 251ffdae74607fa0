"""Let the teacher write its own reasoning, batched; the hand-off then carries prompt and reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from helmas_core.config import Config
from helmas_core.data.item import Item
from helmas_core.data.prompts import render
from helmas_core.data.tasks import Task
from helmas_core.models.inject import generate
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode, encode_start, endings, pad_left
from helmas_core.progress import Progress


def think(config: Config, pair: Pair, task: Task, items: Sequence[Item], progress: Progress) -> list[str]:
    """One reasoning text per item, cut before the cue that asks for the answer, in the items' order."""
    cue = task.cue.strip()
    prompts = [render(task, item, "reasoning", pair.template, "").source for item in items]
    sources = [encode_start(pair.tokenizer, prompt, pair.template) for prompt in prompts]
    order = sorted(range(len(items)), key=lambda i: len(sources[i]))
    texts, size = [""] * len(items), config.eval.batch
    progress.start(f"teacher thinks about {task.name}", len(items))
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        for row, text in zip(rows, _write(config, pair, [sources[i] for i in rows], cue), strict=True):
            texts[row] = text
        progress.update(min(begin + size, len(order)))
    progress.finish()
    return texts


def _write(config: Config, pair: Pair, sources: Sequence[list[int]], cue: str) -> list[str]:
    def finished(tokens: list[int]) -> bool:
        return cue in pair.tokenizer.decode(tokens[-24:])

    written = generate(
        pair.teacher.model,
        None,
        *pad_left(sources, pair.pad, pair.device),
        config.data.reasoning_tokens,
        ends=endings(pair.tokenizer),
        finished=finished,
    )
    return [decode(pair.tokenizer, row).split(cue)[0].strip() for row in written.tokens]
