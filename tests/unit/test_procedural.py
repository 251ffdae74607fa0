"""Puzzles of reasoning-gym, over a stand-in and, where it is installed, over the package itself."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from helmas_core.data.parse import same_answer
from helmas_core.data.tasks import get_task, load_items
from helmas_core.errors import ConfigError, DataError

pytestmark = pytest.mark.unit
SPLITS = ("train", "validation", "test")


def rows(name: str, size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Like the package: row i is a function of seed + i. `small` knows 40 questions, `open` has no one answer."""
    for index in range(size):
        number = random.Random(seed + index).randrange(40 if name == "small" else 10**6)
        yield {
            "question": f"What is {number} + 1?\n",
            "answer": {"open": None, "long": "1\n2"}.get(name, f"{number + 1}"),
        }


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = SimpleNamespace(DATASETS={"chain_sum": 0, "small": 0, "open": 0, "long": 0})
    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=rows, factory=factory))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)


def test_items_are_a_function_of_split_and_seed(gym: None) -> None:
    task = get_task("gym:chain_sum")
    assert load_items(task, "train", 20, seed=1) == load_items(task, "train", 20, seed=1)
    assert load_items(task, "train", 20, seed=1)[:5] == load_items(task, "train", 5, seed=1)
    questions = [{item.question for item in load_items(task, "train", 20, seed)} for seed in (1, 2)]
    assert not questions[0] & questions[1]
    assert load_items(task, "test", 20, seed=1) == load_items(task, "test", 20, seed=2)


def test_splits_share_no_question_even_where_there_are_few(gym: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        items = [load_items(get_task("gym:small"), split, 40) for split in SPLITS]
    parts = [[item.question for item in part] for part in items]
    assert len({item.id for part in items for item in part}) == 40
    assert all(parts)
    assert sum(map(len, parts)) == len({q for part in parts for q in part}) == 40
    assert "of 40 test puzzles can be had" in caplog.text


def test_an_answer_is_compared_as_text(gym: None) -> None:
    task = get_task("gym:chain_sum")
    item = load_items(task, "test", 1)[0]
    assert item.question == f"What is {int(item.answer) - 1} + 1?"
    assert same_answer(task, task.parse(f" {item.answer}\nmore"), item.answer)
    assert not same_answer(task, task.parse(f" {item.answer}0"), item.answer)


@pytest.mark.parametrize("name", ["open", "long"])
def test_puzzles_without_one_line_as_answer_are_refused(gym: None, name: str) -> None:
    with pytest.raises(DataError, match="no test puzzle with a line"):
        load_items(get_task(f"gym:{name}"), "test", 5)


def test_unknown_puzzles_and_a_missing_package_are_named(gym: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match='did you mean "chain_sum"'):
        get_task("gym:chain_sums")
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ConfigError, match=r"pip install .helmas\[procedural\]"):
        get_task("gym:chain_sum")


def test_the_package_itself() -> None:
    pytest.importorskip("reasoning_gym")
    items = {split: load_items(get_task("gym:chain_sum"), split, 30) for split in SPLITS}
    assert [len(part) for part in items.values()] == [30, 30, 30]
    assert len({item.question for part in items.values() for item in part}) == 90
    for item in items["test"]:
        expression = item.question.rpartition(": ")[2].removesuffix("=")
        assert eval(expression) == int(item.answer)
