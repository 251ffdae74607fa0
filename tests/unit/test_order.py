"""Data order and learning rate follow from the step alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helmas_core.training.order import batch_indices, learning_rate

pytestmark = pytest.mark.unit


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_shows_every_item_once(count: int, size: int, seed: int) -> None:
    seen = [i for step in range(count) for i in batch_indices(seed, 0, step, size, count)]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_depends_on_seed_stage_and_epoch() -> None:
    orders = {tuple(batch_indices(seed, stage, 0, 20, 20)) for seed in range(3) for stage in range(3)}
    assert len(orders) == 9
    assert batch_indices(0, 0, 0, 20, 20) != batch_indices(0, 0, 1, 20, 20)


def test_the_rate_warms_up_and_falls() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06
