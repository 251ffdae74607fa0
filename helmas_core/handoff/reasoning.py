"""Let the teacher write its own reasoning, batched; the hand-off then carries prompt and reasoning.

It thinks under the baseline's prompt, with an instruction and worked examples, so that it is terse and stops; only
what it wrote goes into the hand-off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from helmas_core import processes
from helmas_core.config import Config
from helmas_core.data.item import Item
from helmas_core.data.parse import same_answer
from helmas_core.data.prompts import takes_reasoning, thinking_prompt
from helmas_core.data.tasks import Task
from helmas_core.handoff.examples import Example, Thought
from helmas_core.handoff.keys import digest, producer
from helmas_core.handoff.thoughts import Thoughts, open_thoughts
from helmas_core.models.hardware import clock
from helmas_core.models.inject import generate
from helmas_core.models.pair import Pair
from helmas_core.models.prefix import read_shared
from helmas_core.models.tokens import decode, encode_start, endings
from helmas_core.progress import Progress

_TAIL = 24  # tokens that surely hold the words a thought ends with


def think(config: Config, pair: Pair, task: Task, items: Sequence[Item], progress: Progress) -> list[Thought | None]:
    """One thought per item, in the items' order; None for an item whose hand-off takes no reasoning.

    With `train.store`, what an earlier or interrupted run thought is read from there; each batch goes there at once.
    Several processes share the batches, and the first one's words are everybody's where another run writes meanwhile.
    """
    asked = [i for i, item in enumerate(items) if takes_reasoning(item, config.data.handoff)]
    if not asked:
        return [None] * len(items)
    prompts = {i: thinking_prompt(task, items[i], pair.template).alone for i in asked}
    sources = {i: encode_start(pair.tokenizer, prompt, pair.template) for i, prompt in prompts.items()}
    ends = (end_of_thought(task.cue).pattern, endings(pair.tokenizer), config.data.reasoning_tokens)
    writer = digest(producer(pair, pair.teacher), ends)
    keys = {i: digest(writer, prompts[i], sources[i]) for i in asked}
    known = open_thoughts(config.train, progress)
    missing = processes.broadcast({keys[i]: sources[i] for i in asked if known.get(keys[i]) is None})
    if config.train.store is not None:
        found = sum(key not in missing for key in keys.values())
        progress.note(f"store: {found} of {len(asked)} thoughts about {task.name} known")
    _think_anew(config, pair, task, missing, known, progress)
    thoughts = processes.broadcast([known.get(keys[i]) if i in keys else None for i in range(len(items))])
    _warn(config, task, [thought for thought in thoughts if thought], progress)
    return thoughts


def _think_anew(
    config: Config, pair: Pair, task: Task, sources: Mapping[str, list[int]], known: Thoughts, progress: Progress
) -> None:
    """Let the teacher write about each of `sources`, batch by batch of like length, and add it to `known`."""
    order, size = sorted(sources, key=lambda key: len(sources[key])), config.eval.batch
    own = processes.mine([order[begin : begin + size] for begin in range(0, len(order), size)])
    progress.start(f"teacher thinks about {task.name}", sum(map(len, own)))
    new: dict[str, Thought] = {}
    for keys in own:
        written = write_thoughts(pair, task.cue, [sources[key] for key in keys], config.data.reasoning_tokens)
        known.put(batch := dict(zip(keys, written, strict=True)))
        new |= batch
        progress.update(len(new))
    progress.finish()
    for theirs in processes.gather(new):
        known.add(theirs)


def write_thoughts(pair: Pair, cue: str, sources: Sequence[Sequence[int]], limit: int) -> list[Thought]:
    """What the teacher writes after each of `sources`, up to `cue` or to `limit` tokens."""
    end, begin = end_of_thought(cue), clock(pair.device)
    written = generate(
        pair.teacher.model,
        *read_shared(pair.teacher.model, sources, pair.pad, pair.teacher.device),
        limit,
        ends=endings(pair.tokenizer),
        finished=lambda tokens: end.search(str(pair.tokenizer.decode(tokens[-_TAIL:]))) is not None,
    )
    seconds = (clock(pair.device) - begin) / len(sources)
    texts = [end.split(decode(pair.tokenizer, row), maxsplit=1)[0].strip() for row in written.tokens]
    found = zip(texts, written.tokens, written.truncated, strict=True)
    return [Thought(text, len(row), seconds, truncated) for text, row, truncated in found]


def end_of_thought(cue: str) -> re.Pattern[str]:
    """The cue for an answer in any case, bold or without its colon, or the next question that a base model makes up."""
    words = cue.strip().removesuffix(":")
    colon = "" if " " in words else ":"  # "answer" alone is a word like any other
    return re.compile(rf"\**{re.escape(words)}{colon}|\nQuestion:", re.IGNORECASE)


def _warn(config: Config, task: Task, thoughts: Sequence[Thought], progress: Progress) -> None:
    if cut := sum(thought.truncated for thought in thoughts):
        limit = f"data.reasoning_tokens = {config.data.reasoning_tokens}"
        progress.note(f"{cut} of {len(thoughts)} thoughts about {task.name} were cut off at {limit}; raise it")
    if empty := sum(not thought.text for thought in thoughts):
        progress.note(f"{empty} of {len(thoughts)} thoughts about {task.name} are empty; these hand over the prompt")


def summary_of_thoughts(examples: Sequence[Example]) -> dict[str, Any] | None:
    """What reasoning the sources tell, None if they take none.

    How many items take it; shares of them such that none was left, that the task's parser reads the gold answer out
    of it, and that the answer's own text stands anywhere in it (for a letter also where it is a word). Of what the
    teacher wrote for them: how many thoughts, the share cut off, seconds in all, mean tokens.
    """
    told = [(example, example.reasoning) for example in examples if example.reasoning is not None]
    if not told:
        return None
    shares = {
        "empty": sum(not text for _, text in told),
        "names_answer": sum(_names_answer(example, text) for example, text in told),
        "holds_answer": sum(_holds(text, example.item.answer) for example, text in told),
    }
    figures = {"items": len(told), **{name: round(count / len(told), 4) for name, count in shares.items()}}
    return {**figures, **_cost_of([example.thought for example in examples if example.thought is not None])}


def _cost_of(thoughts: Sequence[Thought]) -> dict[str, Any]:
    if not thoughts:
        return {}
    return {
        "generated": len(thoughts),
        "truncated": round(sum(thought.truncated for thought in thoughts) / len(thoughts), 4),
        "seconds": round(sum(thought.seconds for thought in thoughts), 2),
        "tokens": round(sum(thought.tokens for thought in thoughts) / len(thoughts), 1),
    }


def _names_answer(example: Example, text: str) -> bool:
    return same_answer(example.task, example.task.parse(text, cued=False), example.item.answer)


def _holds(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` by itself, not inside a word or a longer number; "1,234" holds 1234."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", plain) is not None
