"""The built-in arithmetic task, checked by running its programs."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from helmas_core.data.arithmetic import STEPS, chain, items, split_chain
from helmas_core.data.item import Item, pool

SPLITS = ("train", "validation", "test")


def run(program: str) -> dict[str, int]:
    """The variables after `program`, by Python's own arithmetic."""
    variables: dict[str, int] = {}
    exec(program, {"__builtins__": {}}, variables)
    return {name: value % 10 for name, value in variables.items()}


def signature(item: Item) -> str:
    first, *rest = item.question.removeprefix("mod 10: ").split()
    return first[2:-1] + "".join(step[3:-1] for step in rest)


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_what_the_program_computes(split: str) -> None:
    for item in items(split, 200):
        program = item.question.removeprefix("mod 10: ")
        asked = re.fullmatch(r"\n([a-z])=", item.cue)
        assert asked is not None
        assert program.split()[-1].startswith(f"{asked[1]}=")
        assert run(program)[asked[1]] == int(item.answer)


def test_every_value_on_the_way_is_right_and_every_step_uses_the_last() -> None:
    for seed in range(50):
        program, _, values = chain(random.Random(seed), steps=5)
        assert run(program) == dict(values)
        steps = program.split()
        assert len(steps) == len(values) == 5
        assert all(step[2] == before[0] for before, step in pairwise(steps))


def test_changing_the_first_number_always_changes_the_answer() -> None:
    for item in items("train", 100):
        program = item.question.removeprefix("mod 10: ")
        changed = re.sub(r"(?<==)\d", lambda m: str((int(m[0]) + 1) % 10), program, count=1)
        assert run(changed)[item.cue[1]] != int(item.answer)


def test_splits_share_no_chain() -> None:
    chains = {split: {signature(item) for item in items(split, 300)} for split in SPLITS}
    for split, found in chains.items():
        assert {pool(one) for one in found} == {split}


def test_answers_cover_the_digits_evenly() -> None:
    counts = Counter(item.answer for item in items("test", 1000))
    assert len(counts) == 10
    assert max(counts.values()) < 160


def test_items_are_a_function_of_split_count_and_seed() -> None:
    assert items("test", 20, seed=1) == items("test", 20, seed=1)
    assert items("test", 20, seed=1)[:5] == items("test", 5, seed=1)
    assert items("test", 20, seed=1) != items("test", 20, seed=2)
    assert all(item.question.count("=") == STEPS for item in items("test", 20))


def test_split_chain_takes_its_length() -> None:
    program, values = split_chain(random.Random(0), "validation", steps=2)
    assert program.count(";") == len(values) == 2
