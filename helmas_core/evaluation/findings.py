"""What an evaluation says: the document of its arms, with what tells whether to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from helmas_core.provenance import git_state, versions


@dataclass(frozen=True)
class Answered:
    """What was asked of whom, and what each arm answered."""

    config: Config
    pair: Pair
    bridge: Bridge | None
    split: str
    examples: Sequence[Example]
    tallies: dict[str, Tally]


def report_of(asked: Answered, **more: Any) -> dict[str, Any]:
    """The `eval --json` document, with `more` in it, what tells whether to believe it, and every item's answers under
    "items"."""
    document = {**document_of("eval", asked), **more}
    tallies, limits = asked.tallies, asked.config.eval
    document["outcomes"] = outcomes(tallies)
    document["exactness"] = None
    if {"own", "text"} <= tallies.keys():
        read, handed = tallies["text"].tokens, tallies["own"].tokens
        document["exactness"] = exactness(asked.pair, asked.examples, handed, read)
    document["verdict"] = verdict(document, limits.minimum_n, limits.allow_inexact)
    document["warnings"] = warnings_of(document)
    return {**document, "items": item_records(asked.examples, tallies)}


def document_of(command: str, asked: Answered) -> dict[str, Any]:
    """What was asked, how, and each arm's figures."""
    return {
        "schema": 1,
        "command": command,
        "dataset": asked.config.data.dataset,
        "split": asked.split,
        "n": len(asked.examples),
        "pair": asked.pair.describe(),
        "bridge": None if asked.bridge is None else _bridge(asked.bridge),
        "arms": {name: tally.summary(timed=not asked.config.eval.reuse) for name, tally in asked.tallies.items()},
        "contrasts": contrasts(asked.tallies, asked.config.train.seed),
        "agreement": agreement(asked.tallies),
        "reasoning": summary_of_thoughts(asked.examples),
        **({} if asked.pair.one_tokenizer else {"alignment": summary_of_alignment(asked.examples)}),
        "manifest": _manifest(asked.config),
    }


def _manifest(config: Config) -> dict[str, Any]:
    data, reasons = config.data, config.data.handoff == "reasoning"
    return {
        "seed": config.train.seed,
        "scaffold": data.scaffold,
        "batch": config.eval.batch,
        "handoff": data.handoff,
        "reasoning": data.reasoning if reasons else None,
        "cut_last_step": data.cut_last_step if reasons else None,
        "versions": versions(),
        "git": git_state(Path.cwd()),
        "reuse": config.eval.reuse,
    }


def _bridge(bridge: Bridge) -> dict[str, Any]:
    return {
        "method": bridge.method,
        "mode": bridge.mode,
        "options": bridge.options.model_dump(mode="json"),
        **bridge.parameter_counts(),
    }
