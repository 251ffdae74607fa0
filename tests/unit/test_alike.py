"""Rows of like length are read together, long ones apart where padding would cost more than a pass of their own."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helmas_core.models.tokens import alike

pytestmark = pytest.mark.unit


def cost(lengths: list[int], groups: list[list[int]], spare: int) -> int:
    return sum(spare + len(group) * max(lengths[place] for place in group) for group in groups)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 100))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths: list[int], spare: int) -> None:
    groups = alike(lengths, spare)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for count in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), count):
            others = [order[begin:end] for begin, end in pairwise([0, *cuts, len(order)])]
            assert cost(lengths, groups, spare) <= cost(lengths, others, spare)


def test_a_pass_that_costs_much_is_made_once() -> None:
    assert alike([3, 500, 4], 10_000) == [[0, 2, 1]]
    assert alike([3, 500, 4], 10) == [[0, 2], [1]]
