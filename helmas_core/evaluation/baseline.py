"""Both models on their own, thinking aloud where the task asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helmas_core import processes
from helmas_core.config import Config
from helmas_core.data.prompts import baseline_prompt
from helmas_core.data.tasks import load_items, scored_task
from helmas_core.evaluation.arms import batches, stopped
from helmas_core.evaluation.evaluate import answering, of_all, warm_up
from helmas_core.evaluation.findings import Answered, document_of
from helmas_core.evaluation.tally import Tally
from helmas_core.handoff.examples import Example, make_example
from helmas_core.models.hardware import clock
from helmas_core.models.inject import Generation, generate
from helmas_core.models.pair import Member, Pair
from helmas_core.models.prefix import read_shared
from helmas_core.models.tokens import endings
from helmas_core.progress import Progress


def baseline(config: Config, pair: Pair, progress: Progress) -> dict[str, Any]:
    """Both models on their own, thinking aloud where the task asks for it: the `baseline --json` document."""
    data, examples = config.data, []
    for name in data.names():
        task = scored_task(name)
        items = load_items(task, config.eval.split, config.eval.limit, config.train.seed, data.data_dir)
        prompts = [[baseline_prompt(task, item, v.template) for v in (pair, pair.as_teacher)] for item in items]
        examples += [make_example(pair, task, i, p, told=told) for i, (p, told) in zip(items, prompts, strict=True)]
    tallies = {"student": Tally(), "teacher": Tally()}
    groups = batches(examples, config.eval.batch)
    warm_up(pair, None, ("student", "teacher"), groups[0])
    own = processes.mine(groups)
    progress.start("baseline", 2 * len(own))
    for index, group in enumerate(own):
        for place, (arm, member) in enumerate((("student", pair.student), ("teacher", pair.teacher))):
            asked = [example.as_teacher for example in group.examples] if arm == "teacher" else group.examples
            begin = clock(pair.device)
            written = _alone(config, answering(pair, arm), member, asked)
            cued = not group.examples[0].task.reasons
            tallies[arm].add(answering(pair, arm), group.examples, written, clock(pair.device) - begin, cued)
            progress.update(2 * index + place + 1, arm=arm)
    progress.finish()
    tallies = of_all(tallies, Tally.joined)
    return document_of("baseline", Answered(config, pair, None, config.eval.split, examples, tallies))


def _alone(config: Config, pair: Pair, member: Member, examples: Sequence[Example]) -> Generation:
    task, letters = examples[0].task, all(e.choices for e in examples)
    cue = task.cue.strip()

    def finished(tokens: list[int]) -> bool:
        """A chain of thought is over once the line after the cue is; a direct answer at its stop."""
        said = str(pair.tokenizer.decode(tokens))
        answered = cue in said and "\n" in said.split(cue, 1)[1].lstrip()
        return answered or stopped(pair, tokens, examples[0].stop)

    return generate(
        member.model,
        *read_shared(member.model, [e.alone for e in examples], pair.pad, member.device),
        1 if letters else config.eval.baseline_tokens if task.reasons else config.eval.max_new_tokens,
        ends=endings(pair.tokenizer),
        finished=finished,
        allowed=[e.choices for e in examples] if letters else None,
    )
