"""Evaluate a bridge: every arm on the same items, scored, timed, compared pairwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from helmas_core import processes
from helmas_core.bridges.base import Bridge, hidden_of
from helmas_core.config import CONTROLS, Config
from helmas_core.data.tasks import scored_task
from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.arms import Arms, Batch, batches
from helmas_core.evaluation.costs import Costs, Gauge
from helmas_core.evaluation.findings import Answered, report_of
from helmas_core.evaluation.tally import Tally
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.shelf import open_store
from helmas_core.handoff.states import States, TeacherStates, both_states
from helmas_core.models.hardware import clock
from helmas_core.models.pair import Pair
from helmas_core.progress import Progress, Stopped

Part = TypeVar("Part")


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
                    tallies[arm].add(
                        answering(pair, arm), group.examples, written, clock(pair.device) - begin, cued=True
                    )
                    costs[arm].add(runner.ledger, group.examples, gauge.peak(), gauge.joules())
            progress.update(index * len(arms) + place + 1, arm=arm)
    progress.finish()
    tallies, costs = of_all(tallies, Tally.joined), of_all(costs, Costs.joined)
    spent = {arm: cost.summary(timed=not config.eval.reuse) for arm, cost in costs.items()}
    return report_of(Answered(config, pair, bridge, split, examples, tallies), costs=spent)


def own_rounds(groups: Sequence[Batch]) -> list[Batch | None]:
    """This process's batches; None in the last round where there are more processes than batches left."""
    own = list[Batch | None](processes.mine(groups))
    return own + [None] * (-(-len(groups) // processes.count()) - len(own))


def of_all(own: dict[str, Part], join: Callable[[Sequence[Part]], Part]) -> dict[str, Part]:
    """What all processes have of each arm, joined."""
    found = processes.gather(own)
    return {arm: join([part[arm] for part in found]) for arm in own}


def answering(pair: Pair, arm: str) -> Pair:
    """The pair with the tokenizer of the model that answers in `arm`."""
    return pair.as_teacher if arm == "teacher" else pair


def read_once(
    config: Config,
    pair: Pair,
    bridge: Bridge | None,
    examples: Sequence[Example],
    arms: Sequence[str],
    progress: Progress,
) -> tuple[TeacherStates, States]:
    """Both models' states, with all in them that the arms will ask for, as far as memory and store go. What the student
    reads is exact, since the own arm must be: it is not taken from a store that rounds."""
    fusing = bridge is not None and bridge.mode == "fuse"
    states = both_states(pair, config.train, open_store(config.train, progress), hidden_of(bridge, pair))
    if _rounds(config, pair):
        states[1].shelf = None
    translating = {"bridge", "deranged", *CONTROLS} & set(arms)
    needed = (translating or "teacher" in arms, "own" in arms or (translating and fusing))
    sources = ({e.told for e in examples}, {e.source for e in examples})
    for model, wanted, read, name in zip(states, needed, sources, ("teacher", "student"), strict=True):
        if wanted:
            _fill(model, read, name, config, progress)
    return states


def _rounds(config: Config, pair: Pair) -> bool:
    """Whether a store would give the student's states back in fewer digits than it was given."""
    kept, own = config.train.store_dtype, pair.student.model.dtype
    return kept == "fp8" or (kept == "bf16" and own != torch.bfloat16)


def _fill(states: Any, sources: set[Any], name: str, config: Config, progress: Progress) -> None:
    progress.start(f"{name} reads", states.readings(sources))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress.update(done)

    states.fill(sources, config.eval.batch, count)
    progress.finish()


@torch.no_grad()
def warm_up(pair: Pair, bridge: Bridge | None, arms: Sequence[str], batch: Batch) -> None:
    """On a GPU, let every arm read and write two tokens unmeasured: a kernel's first call also loads it."""
    if pair.device.type == "cuda":
        runner = Arms(pair, bridge, max_new_tokens=2)
        for arm in arms:
            runner.run(arm, batch)
