"""Intervals and tests against values worked out elsewhere, and statements that hold for any data."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helmas_core.evaluation.statistics import paired_difference, wilson

pytestmark = pytest.mark.unit


def test_wilson_by_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)


def test_mcnemar_counts_only_discordant_pairs() -> None:
    ours = [True] * 6 + [True] * 50
    theirs = [False] * 6 + [True] * 50
    assert paired_difference(ours, theirs)["p"] == pytest.approx(2 * 0.5**6)


def test_equal_arms_differ_by_nothing() -> None:
    same = [True, False, True]
    assert paired_difference(same, same) == {"delta": 0.0, "ci": [0.0, 0.0], "p": 1.0}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_interval_holds_the_difference(pairs: list[tuple[bool, bool]]) -> None:
    found = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    low, high = found["ci"]
    assert low - 1e-3 <= found["delta"] <= high + 1e-3
