"""Mixed training data: every source in its share, at a place that follows from seed, stage and step alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helmas_core.config import Config
from helmas_core.data.item import Item
from helmas_core.data.tasks import get_task
from helmas_core.errors import ConfigError, DataError
from helmas_core.handoff.examples import Example
from helmas_core.layering import load_config
from helmas_core.training.mix import BLOCK, Mix, quotas
from helmas_core.validation import validate

pytestmark = pytest.mark.unit
SHARES = {"gsm8k": 0.5, "math": 0.3, "relay": 0.2}


def examples(**counts: int) -> list[Example]:
    blank = Example(Item("", "", ""), get_task("relay"), (), (), (), (), (), ())
    return [replace(blank, task=get_task(name)) for name, count in counts.items() for _ in range(count)]


def config(**data: Any) -> Config:
    return validate(Config, {"data": data})


def drawn(seed: int, places: int, size: int = 8, **counts: int) -> list[str]:
    held = examples(**(counts or {"gsm8k": 700, "math": 300, "relay": 7}))
    mix = Mix(held, SHARES, seed)
    return [held[i].task.name for step in range(places // size) for i in mix.batch(step, size)]


@pytest.mark.parametrize("seed", range(3))
def test_a_block_holds_every_source_in_its_share(seed: int) -> None:
    names = drawn(seed, 2 * BLOCK)
    for begin in (0, BLOCK):
        assert Counter(names[begin : begin + BLOCK]) == {"gsm8k": 500, "math": 300, "relay": 200}


def test_short_stretches_come_close_to_the_shares() -> None:
    names = drawn(0, 3 * BLOCK, 50)
    for begin in range(0, 3 * BLOCK, 50):
        found = Counter(names[begin : begin + 50])
        assert all(abs(found[name] - 50 * share) <= 3 for name, share in SHARES.items())
    assert len({tuple(names[begin : begin + 10]) for begin in range(0, BLOCK, 10)}) > 50  # no fixed rhythm


def test_a_small_source_comes_round_evenly_while_a_large_one_is_still_new() -> None:
    held = examples(gsm8k=5000, math=3000, relay=7)
    counts = Counter(i for step in range(400) for i in Mix(held, SHARES, 0).batch(step, 10))
    by_name = {name: [counts[i] for i, e in enumerate(held) if e.task.name == name and counts[i]] for name in SHARES}
    assert set(by_name["gsm8k"]) == set(by_name["math"]) == {1}
    assert len(by_name["relay"]) == 7 and max(by_name["relay"]) - min(by_name["relay"]) <= 1


def test_any_place_can_be_asked_for_alone() -> None:
    held = examples(gsm8k=70, math=30, relay=7)
    whole = [Mix(held, SHARES, 3).draw(place) for place in range(2500)]
    late = Mix(held, SHARES, 3)
    assert [late.draw(place) for place in range(2499, 1800, -1)] == whole[2499:1800:-1]
    assert late.batch(100, 16) == whole[1600:1616]


def test_order_depends_on_seed_and_block_but_not_on_how_the_table_is_written() -> None:
    held = examples(gsm8k=70, math=30, relay=7)
    assert len({tuple(Mix(held, SHARES, seed).batch(0, 40)) for seed in range(9)}) == 9
    assert drawn(0, 2 * BLOCK)[:BLOCK] != drawn(0, 2 * BLOCK)[BLOCK:]
    turned = dict(reversed(SHARES.items()))
    assert Mix(held, turned, 0).batch(0, 300) == Mix(held, SHARES, 0).batch(0, 300)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_quotas_fill_a_block_and_leave_no_source_out(weights: list[float]) -> None:
    shares = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    found = quotas(shares, BLOCK)
    assert sum(found.values()) == BLOCK
    assert min(found.values()) >= 1
    assert all(abs(found[name] - share * BLOCK) <= len(weights) for name, share in shares.items())


def test_a_source_without_an_example_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.mix.math: no item"):
        Mix(examples(gsm8k=3, relay=3), SHARES, 0)


def test_weights_become_shares_and_zero_drops_a_source() -> None:
    data = config(dataset="gsm8k, math", mix={"gsm8k": 2, "relay": 1, "math": 0, "arc": 1}).data
    assert data.shares() == {"gsm8k": 0.5, "relay": 0.25, "arc": 0.25}
    assert (data.names(), data.learnt()) == (["gsm8k", "math"], ["gsm8k", "relay", "arc"])
    plain = config(dataset="gsm8k, math").data
    assert (plain.mix, plain.shares(), plain.learnt()) == (None, {}, ["gsm8k", "math"])


@pytest.mark.parametrize("mix", [{"gsm8k": -1}, {"gsm8k": 0}, {}, {"gsm8k": float("inf")}, {"gsm8k": "much"}])
def test_weights_that_give_no_share_are_refused(mix: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data"):
        config(mix=mix)


def test_a_mix_can_be_set_on_the_command_line() -> None:
    data = load_config(["lab"], ["data.mix.relay=3", 'data.mix={"jsonl:a.b/c.jsonl" = 1}']).data
    assert data.shares() == {"relay": 0.75, "jsonl:a.b/c.jsonl": 0.25}
