"""What the verdict says of hand-made documents, and pooled figures by a second route."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helmas_core.errors import DataError
from helmas_core.evaluation.guards import InexactError, require_exact, warnings_of
from helmas_core.evaluation.pool import pool_reports
from helmas_core.evaluation.statistics import paired_difference, pooled_accuracy, pooled_difference
from helmas_core.evaluation.verdict import verdict

pytestmark = pytest.mark.unit


def document(n: int = 200, **contrasts: tuple[float, float, float]) -> dict[str, Any]:
    made = {
        name.replace("_", "-"): {"delta": delta, "ci": [low, high]} for name, (delta, low, high) in contrasts.items()
    }
    seconds = {"bridge": 1.0, "text": 3.1, "teacher": 2.4}
    costs = {arm: {"cold": {"p50": s}, "warm": None} for arm, s in seconds.items()}
    return {"dataset": "relay", "n": n, "arms": {"bridge": {}}, "contrasts": made, "costs": costs}


def test_a_bridge_that_works() -> None:
    made = document(
        bridge_deranged=(0.41, 0.35, 0.47), bridge_text=(0.0, -0.03, 0.03), bridge_teacher=(-0.05, -0.08, -0.02)
    )
    found = verdict(made, 50)
    assert found is not None and found["level"] == "as_text"
    assert found["text"] == (
        "content effect +.41 [.35, .47]; as good as text; 3.1x faster than text cold; "
        "the teacher alone is better by .05 at 2.4x the time"
    )


@pytest.mark.parametrize(
    ("made", "level", "words"),
    [
        (document(bridge_deranged=(0.01, -0.02, 0.04)), "useless", "useless: it does no better with its own cache"),
        (document(bridge_deranged=(-0.2, -0.3, -0.1)), "useless", "useless: another item's cache serves better"),
        (document(12, bridge_deranged=(0.9, 0.8, 1.0)), "too_few", "12 items are too few, at least 50"),
        (document(), "unknown", "the deranged arm was not run"),
        (
            document(bridge_deranged=(0.2, 0.1, 0.3), bridge_text=(-0.3, -0.4, -0.2), bridge_student=(0, -0.1, 0.1)),
            "partial",
            "worse than text by .30; yet no better than the student alone",
        ),
        (document(bridge_deranged=(0.2, 0.1, 0.3), bridge_text=(-0.04, -0.1, 0.02)), "partial", "not told apart"),
    ],
)
def test_levels(made: dict[str, Any], level: str, words: str) -> None:
    found = verdict(made, 50)
    assert found is not None and found["level"] == level and words in found["text"]


def test_an_inexact_injection_has_no_verdict_and_fails() -> None:
    made = document(bridge_deranged=(0.4, 0.3, 0.5)) | {"exactness": {"compared": 9, "differ": ["x-1"], "ties": []}}
    found, known = verdict(made, 50), verdict(made, 50, allow_inexact=True)
    assert found is not None and found["level"] == "inexact"
    assert known is not None and known["level"] == "partial"
    assert "injection is not exact" in warnings_of(made)[0]
    with pytest.raises(InexactError, match=r"1 of 9 items, first x-1.*allow_inexact") as error:
        require_exact([made])
    assert error.value.exit_code == 1


def test_rates_are_warned_of() -> None:
    arms = {"bridge": {"unparsed": 0.2, "truncated": 0.3}, "student": {"unparsed": 1.0}, "text": {"unparsed": 0.1}}
    found = warnings_of({"arms": arms, "reasoning": {"names_answer": 0.9}})
    assert [line.split()[0] for line in found] == ["20%", "30%", "the"]


def test_pooled_figures_by_a_second_route() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random((3, 120)) < 0.7, rng.random((3, 120)) < 0.5
    found = pooled_difference(ours, theirs)
    values = ours.astype(float) - theirs
    drawn = [values[np.ix_(rng.integers(0, 3, 3), rng.integers(0, 120, 120))].mean() for _ in range(4000)]
    assert found["delta"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["ci"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)
    unlike = np.stack([np.ones(50), np.zeros(50)])
    assert pooled_accuracy(unlike)["ci"] == [0.0, 1.0] and pooled_accuracy(unlike[:1])["ci"] == [1.0, 1.0]
    one, alone = pooled_difference(ours[:1], theirs[:1]), paired_difference(list(ours[0]), list(theirs[0]))
    assert one["delta"] == alone["delta"] and one["p"] == pytest.approx(alone["p"], abs=0.01)
    assert pooled_accuracy(ours)["sd"] == pytest.approx(ours.mean(1).std(ddof=1), abs=1e-4)


def test_only_the_same_items_are_pooled() -> None:
    right = {"bridge": "1" * 60, "deranged": "0" * 60}
    outcomes = {"items": [["relay", str(i)] for i in range(60)], "right": right}
    whole = document(60, bridge_deranged=(1, 1, 1)) | {
        "schema": 1, "split": "test", "pair": {}, "bridge": {}, "manifest": {"trained_seed": 4}, "outcomes": outcomes,
        "arms": {"bridge": {}, "deranged": {}},
    }  # fmt: skip
    found = pool_reports([whole, whole], 50)
    assert found["contrasts"]["bridge-deranged"]["delta"] == 1.0 and found["seeds"] == [4, 4]
    assert found["verdict"]["level"] == "partial"
    with pytest.raises(DataError, match="hand-off is not that of the first"):
        pool_reports([whole, whole | {"manifest": {"handoff": "latent"}}], 50)
    with pytest.raises(InexactError, match="injection is not exact"):
        pool_reports([whole, whole | {"exactness": {"compared": 60, "differ": ["7"], "ties": []}}], 50)
    other = whole | {"outcomes": outcomes | {"items": outcomes["items"][::-1]}}
    with pytest.raises(DataError, match="not the same items"):
        pool_reports([whole, other], 50)
