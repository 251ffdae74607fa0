"""Several reports on the same items, of bridges trained with several seeds, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helmas_core.errors import DataError
from helmas_core.evaluation.guards import require_exact
from helmas_core.evaluation.statistics import pooled_accuracy, pooled_difference
from helmas_core.evaluation.verdict import verdict


def pool_reports(documents: Sequence[Mapping[str, Any]], minimum_n: int) -> dict[str, Any]:
    """Accuracies, contrasts and a verdict over all seeds. DataError unless all reports are of one method on the same
    items; InexactError for one whose injection was not exact.

    Costs are the first report's: times of several runs have no common median.
    """
    require_exact(documents)
    first = documents[0]
    for document in documents:
        _check(document, first)
    names = [arm for arm in first["arms"] if all(arm in document["arms"] for document in documents)]
    right = {arm: np.array([_answers(document, arm) for document in documents]) for arm in names}
    contrasts = {
        name: pooled_difference(right[ours], right[theirs])
        for name in first["contrasts"]
        for ours, _, theirs in [name.partition("-")]
        if ours in right and theirs in right
    }
    arms = {arm: {**pooled_accuracy(right[arm]), "n": first["n"]} for arm in names}
    head = {key: first[key] for key in ("schema", "dataset", "split", "n", "pair", "bridge")}
    seeds = [document["manifest"].get("trained_seed") for document in documents]  # null where a bridge tells none
    made = {**head, "command": "pool", "seeds": seeds, "arms": arms, "contrasts": contrasts, "costs": first["costs"]}
    return {**made, "verdict": verdict(made, minimum_n)}


def _check(document: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    where = str(document.get("dataset"))
    if not document.get("outcomes"):
        raise DataError("the report does not tell its items' outcomes", where=where, fix="run helmas eval again")
    for arm in document["arms"]:
        if len(document["outcomes"]["right"].get(arm, "")) != document["n"]:
            raise DataError(f"the outcomes of {arm} are not those of n items", where=where, fix="run helmas eval again")
    ours, theirs = _subject(document), _subject(first)
    if wrong := [key for key, value in ours.items() if value != theirs[key]]:
        what = f"{wrong[0]} is not that of the first report"
        raise DataError(
            what, where=where, fix="pool reports of one method on the same items, unlike in their seeds only"
        )
    if document["outcomes"]["items"] != first["outcomes"]["items"]:
        raise DataError("not the same items as in the first report", where=where, fix="evaluate with one --limit")


def _subject(document: Mapping[str, Any]) -> dict[str, Any]:
    """What must be alike in all reports."""
    bridge, manifest = document.get("bridge") or {}, document["manifest"]
    named = {key: document[key] for key in ("dataset", "split", "pair")}
    return {**named, "method": bridge.get("method"), "mode": bridge.get("mode"), "hand-off": manifest.get("handoff")}


def _answers(document: Mapping[str, Any], arm: str) -> list[bool]:
    return [mark == "1" for mark in document["outcomes"]["right"][arm]]
