"""Rows of like length are read together, long ones apart where padding would cost more than a pass of their own."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helmas_core.handoff import states
from helmas_core.handoff.states import States
from helmas_core.models.pair import Pair
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


@pytest.mark.parametrize("hidden", [(), (1,)])
def test_what_is_read_apart_is_what_is_read_at_once(
    unequal: Pair, monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...]
) -> None:
    sources = [tuple(range(5, 5 + length)) for length in (9, 2, 30, 3, 28)]
    whole = States(unequal.teacher, unequal.pad, hidden=hidden).read(sources)
    passes = list[int]()
    once = States._pass
    monkeypatch.setattr(states, "TOKENS_OF_A_PASS", 4)
    monkeypatch.setattr(States, "_pass", lambda self, some: passes.append(len(some)) or once(self, some))
    apart = States(unequal.teacher, unequal.pad, hidden=hidden).read(sources)
    assert sorted(passes) == [1, 2, 2]
    assert torch.equal(apart.mask, whole.mask)
    assert torch.equal(apart.positions[apart.mask], whole.positions[whole.mask])
    real = whole.mask[:, None, :, None]
    for ours, theirs in zip(
        apart.keys + apart.values + apart.hidden, whole.keys + whole.values + whole.hidden, strict=True
    ):
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-5)
