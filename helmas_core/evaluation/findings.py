"""What an evaluation says: the document of its arms, with what tells whether to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helmas_core.bridges.base import Bridge
from helmas_core.config import Config
from helmas_core.evaluation.exactness import exactness
from helmas_core.evaluation.guards import warnings_of
from helmas_core.evaluation.items import item_records
from helmas_core.evaluation.tally import Tally, agreement, contrasts, outcomes
from helmas_core.evaluation.verdict import verdict
from helmas_core.handoff.examples import Example
from helmas_core.handoff.prepare import summary_of_alignment
from helmas_core.handoff.reasoning import summary_of_thoughts
from helmas_core.models.pair import Pair
from helmas_core.runs import git_state, versions


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
    document = {**document_of("eval", config, pair, bridge, split, examples, tallies), **more}
    return {**_judged(document, config, pair, examples, tallies), "items": item_records(examples, tallies)}


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


def document_of(
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
