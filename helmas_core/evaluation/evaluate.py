"""Evaluate a bridge: every arm on the same items, scored, timed, compared pairwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from helmas_core import processes
from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.config import CONTROLS, Config
from helmas_core.data.parse import same_answer
from helmas_core.data.prompts import baseline_prompt
from helmas_core.data.tasks import load_items, scored_task
from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.arms import Arms, Batch, batches, stopped
from helmas_core.evaluation.costs import Costs, Gauge
from helmas_core.evaluation.exactness import exactness
from helmas_core.evaluation.guards import warnings_of
from helmas_core.evaluation.items import item_records
from helmas_core.evaluation.statistics import paired_difference, wilson
from helmas_core.evaluation.verdict import verdict
from helmas_core.handoff.examples import Example, make_example
from helmas_core.handoff.prepare import prepare, summary_of_alignment
from helmas_core.handoff.reasoning import summary_of_thoughts
from helmas_core.handoff.shelf import open_store
from helmas_core.handoff.states import States, TeacherStates, both_states
from helmas_core.models.hardware import clock
from helmas_core.models.inject import Generation, generate
from helmas_core.models.pair import Member, Pair
from helmas_core.models.prefix import read_shared
from helmas_core.models.tokens import decode, endings
from helmas_core.progress import Progress, Stopped
from helmas_core.runs import git_state, versions

Part = TypeVar("Part")
Key = tuple[str, str]
TIMES = ("seconds_p50", "seconds_p95", "tokens_per_second")
CONTRASTS = (("bridge", "student"), ("bridge", "deranged"), ("bridge", "text"), ("bridge", "teacher"), ("own", "text"))
CONTRASTS += tuple(("bridge", control) for control in CONTROLS)


@dataclass
class Tally:
    """One arm's answers, by data set and item."""

    right: dict[Key, bool] = field(default_factory=dict)
    tokens: dict[Key, list[int]] = field(default_factory=dict)
    texts: dict[Key, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    unparsed: int = 0
    truncated: int = 0

    def add(self, pair: Pair, examples: Sequence[Example], written: Generation, seconds: float, cued: bool) -> None:
        """Score a batch that took `seconds`; each of its items counts with an equal part."""
        self.seconds += [seconds / len(examples)] * len(examples)
        for example, tokens, truncated in zip(examples, written.tokens, written.truncated, strict=True):
            text = decode(pair.tokenizer, tokens)
            predicted = example.task.parse(text, cued)
            self.unparsed += predicted is None
            self.truncated += truncated and not example.choices
            key = (example.task.name, example.item.id)
            self.tokens[key], self.texts[key] = tokens, text
            self.right[key] = same_answer(example.task, predicted, example.item.answer)

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Tally:
        """One arm's answers of several processes, which share no item."""
        whole = cls()
        for part in parts:
            whole.right |= part.right
            whole.tokens |= part.tokens
            whole.texts |= part.texts
            whole.seconds += part.seconds
            whole.unparsed += part.unparsed
            whole.truncated += part.truncated
        return whole

    def summary(self, timed: bool) -> dict[str, Any]:
        """The arm's part of the document; times are null unless it was `timed`.

        `seconds_p50` and `seconds_p95` are what an item costs at this batch size, since each counts with an equal part
        of its batch's time; how long one waits for a single answer is measured with eval.batch = 1.
        """
        n, right = len(self.right), sum(self.right.values())
        times: dict[str, Any] = self._times() if timed and self.seconds else dict.fromkeys(TIMES)
        return {
            "accuracy": round(right / n, 4),
            "ci": list(wilson(right, n)),
            "n": n,
            "unparsed": round(self.unparsed / n, 4),
            "truncated": round(self.truncated / n, 4),
            **times,
        }

    def _times(self) -> dict[str, float]:
        p50, p95 = torch.tensor(self.seconds).quantile(torch.tensor([0.5, 0.95])).tolist()
        written = sum(map(len, self.tokens.values()))
        figures = round(p50, 4), round(p95, 4), round(written / max(1e-9, sum(self.seconds)), 2)
        return dict(zip(TIMES, figures, strict=True))


def evaluate(config: Config, pair: Pair, bridge: Bridge | None, progress: Progress) -> dict[str, Any]:
    """The `eval --json` document of one configuration, and under "items" what is written beside it."""
    for name in config.data.names():
        scored_task(name)
    examples = prepare(config, pair, config.eval.split, config.eval.limit, config.train.seed, progress)
    if long := [e for e in examples if e.length > config.data.max_source_tokens]:
        fix = "raise data.max_source_tokens; no item is left out of an evaluation"
        raise DataError(f"{len(long)} of {len(examples)} sources are too long", where="data.max_source_tokens", fix=fix)
    return evaluate_examples(config, pair, bridge, examples, config.eval.arms, config.eval.split, progress)


def evaluate_examples(
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    examples: Sequence[Example],
    arms: Sequence[str],
    split: str,
    progress: Progress,
) -> dict[str, Any]:
    """The same for examples that are at hand, and every item's answers under "items".

    Several processes share the batches, which are those that one would make; each has the whole document in the end.
    Stopped is raised when a person asks for it between two batches."""
    groups = batches(examples, config.eval.batch)
    if "deranged" in arms and any(
        e.source == d.source for g in groups for e, d in zip(g.examples, g.donors, strict=True)
    ):
        fix = "raise --limit, or leave the arm out with --arms"
        raise ConfigError("the deranged arm needs items with different sources", where="eval.arms", fix=fix)
    tallies, costs = {arm: Tally() for arm in arms}, {arm: Costs(arm) for arm in arms}
    states = read_once(config, pair, bridge, examples, arms, progress) if config.eval.reuse else None
    runner = Arms(pair, bridge, config.eval.max_new_tokens, states, config.train.seed)
    warm_up(pair, bridge, arms, groups[0])
    gauge = Gauge(pair.device)
    rounds = own_rounds(groups)
    progress.start("evaluate", len(rounds) * len(arms))
    for index, group in enumerate(rounds):
        for place, arm in enumerate(arms):
            if processes.agree(progress.stop_requested()):
                progress.finish()
                raise Stopped
            if group is not None:
                with torch.no_grad():
                    gauge.reset()
                    begin = clock(pair.device)
                    written = runner.run(arm, group)
                    tallies[arm].add(_by(pair, arm), group.examples, written, clock(pair.device) - begin, cued=True)
                    costs[arm].add(runner.ledger, group.examples, gauge.peak(), gauge.joules())
            progress.update(index * len(arms) + place + 1, arm=arm)
    progress.finish()
    tallies, costs = _of_all(tallies, Tally.joined), _of_all(costs, Costs.joined)
    spent = {arm: cost.summary(timed=not config.eval.reuse) for arm, cost in costs.items()}
    return report_of(config, pair, bridge, split, examples, tallies, costs=spent)


def report_of(
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    split: str,
    examples: Sequence[Example],
    tallies: dict[str, Tally],
    **more: Any,
) -> dict[str, Any]:
    """The document of arms that have answered, with `more` in it, and every item's answers under "items"."""
    document = {**_document("eval", config, pair, bridge, split, examples, tallies), **more}
    return {**_judged(document, config, pair, examples, tallies), "items": item_records(examples, tallies)}


def own_rounds(groups: Sequence[Batch]) -> list[Batch | None]:
    """This process's batches; None in the last round where there are more processes than batches left."""
    own = list[Batch | None](processes.mine(groups))
    return own + [None] * (-(-len(groups) // processes.count()) - len(own))


def _of_all(own: dict[str, Part], join: Callable[[Sequence[Part]], Part]) -> dict[str, Part]:
    """What all processes have of each arm, joined."""
    found = processes.gather(own)
    return {arm: join([part[arm] for part in found]) for arm in own}


def _by(pair: Pair, arm: str) -> Pair:
    """The pair with the tokenizer of the model that answers in `arm`."""
    return pair.as_teacher if arm == "teacher" else pair


def _judged(
    document: dict[str, Any], config: Config, pair: Pair, examples: Sequence[Example], tallies: dict[str, Tally]
) -> dict[str, Any]:
    """The document with what tells whether to believe it, and what it says in plain words."""
    both = {"own", "text"} <= tallies.keys()
    document["outcomes"] = outcomes(tallies)
    document["exactness"] = exactness(pair, examples, tallies["own"].tokens, tallies["text"].tokens) if both else None
    document["verdict"] = verdict(document, config.eval.minimum_n, config.eval.allow_inexact)
    document["warnings"] = warnings_of(document)
    return document


def outcomes(tallies: dict[str, Tally]) -> dict[str, Any]:
    """Which items each arm got right: {"items": [[data set, id], …], "right": {arm: "0110…"}}, in one order."""
    items = sorted(next(iter(tallies.values())).right)
    right = {arm: "".join(str(int(tally.right[item])) for item in items) for arm, tally in tallies.items()}
    return {"items": [list(item) for item in items], "right": right}


def read_once(
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    examples: Sequence[Example],
    arms: Sequence[str],
    progress: Progress,
) -> tuple[TeacherStates, States]:
    """Both models' states, with all in them that the arms will ask for, as far as memory and store go."""
    fusing = bridge is not None and bridge.mode == "fuse"
    states = both_states(pair, config.train, open_store(config.train, progress), hidden_of(bridge, pair))
    translating = {"bridge", "deranged", *CONTROLS} & set(arms)
    needed = (translating or "teacher" in arms, "own" in arms or (translating and fusing))
    sources = ({e.told for e in examples}, {e.source for e in examples})
    for model, wanted, read, name in zip(states, needed, sources, ("teacher", "student"), strict=True):
        if wanted:
            _fill(model, read, name, config, progress)
    return states


def _fill(states: Any, sources: set[Any], name: str, config: Config, progress: Progress) -> None:
    progress.start(f"{name} reads", states.readings(sources))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress.update(done)

    states.fill(sources, config.eval.batch, count)
    progress.finish()


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
            written = _alone(config, _by(pair, arm), member, asked)
            cued = not group.examples[0].task.reasons
            tallies[arm].add(_by(pair, arm), group.examples, written, clock(pair.device) - begin, cued)
            progress.update(2 * index + place + 1, arm=arm)
    progress.finish()
    tallies = _of_all(tallies, Tally.joined)
    return _document("baseline", config, pair, None, config.eval.split, examples, tallies)


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
        *read_shared(member.model, [e.alone for e in examples], pair.pad),
        1 if letters else config.eval.baseline_tokens if task.reasons else config.eval.max_new_tokens,
        ends=endings(pair.tokenizer),
        finished=finished,
        allowed=[e.choices for e in examples] if letters else None,
    )


@torch.no_grad()
def warm_up(pair: Pair, bridge: Bridge | None, arms: Sequence[str], batch: Batch) -> None:
    """On a GPU, let every arm read and write two tokens unmeasured: a kernel's first call also loads it."""
    if pair.device.type == "cuda":
        runner = Arms(pair, bridge, max_new_tokens=2)
        for arm in arms:
            runner.run(arm, batch)


def _document(
    command: str,
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    split: str,
    examples: Sequence[Example],
    tallies: dict[str, Tally],
) -> dict[str, Any]:
    return {
        "schema": 1,
        "command": command,
        "dataset": config.data.dataset,
        "split": split,
        "n": len(examples),
        "pair": pair.describe(),
        "bridge": None if bridge is None else _bridge(bridge),
        "arms": {name: tally.summary(timed=not config.eval.reuse) for name, tally in tallies.items()},
        "contrasts": contrasts(tallies, config.train.seed),
        "agreement": agreement(tallies),
        "reasoning": summary_of_thoughts(examples),
        **({} if pair.one_tokenizer else {"alignment": summary_of_alignment(examples)}),
        "manifest": {
            "seed": config.train.seed,
            "scaffold": config.data.scaffold,
            "batch": config.eval.batch,
            "handoff": config.data.handoff,
            "reasoning": config.data.reasoning if config.data.handoff == "reasoning" else None,
            "cut_last_step": config.data.cut_last_step if config.data.handoff == "reasoning" else None,
            "versions": versions(),
            "git": git_state(Path.cwd()),
            "reuse": config.eval.reuse,
        },
    }


def _bridge(bridge: Bridge) -> dict[str, Any]:
    return {
        "method": bridge.method,
        "mode": bridge.mode,
        "options": bridge.options.model_dump(mode="json"),
        **bridge.parameter_counts(),
    }


def contrasts(tallies: dict[str, Tally], seed: int) -> dict[str, Any]:
    """Paired differences between the arms that were run."""
    found = {}
    for ours, theirs in CONTRASTS:
        if ours in tallies and theirs in tallies:
            ids = list(tallies[ours].right)
            pairs = [[tallies[arm].right[i] for i in ids] for arm in (ours, theirs)]
            found[f"{ours}-{theirs}"] = paired_difference(pairs[0], pairs[1], seed)
    return found


def agreement(tallies: dict[str, Tally]) -> dict[str, float]:
    """Share of items on which two arms wrote the same tokens; `own-text` is 1 when injection is exact."""
    if not {"own", "text"} <= tallies.keys():
        return {}
    own, text = tallies["own"].tokens, tallies["text"].tokens
    return {"own-text": round(sum(own[i] == text[i] for i in own) / len(own), 4)}
