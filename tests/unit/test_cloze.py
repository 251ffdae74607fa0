"""Reading plain text exactly: the word asked for stands once in the passage and not in the question."""

from __future__ import annotations

import logging
import random
from itertools import combinations
from pathlib import Path

import pytest

from helmas_core.data.cloze import QUESTION, choose
from helmas_core.data.item import Item, pool
from helmas_core.data.parse import same_answer
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task, load_items
from helmas_core.errors import DataError
from helmas_core.evaluation.items import item_records
from helmas_core.handoff.examples import Example

pytestmark = pytest.mark.unit
SPLITS = ("train", "validation", "test")
TOWNS = tuple(
    a + b for a in ("Ald", "Bris", "Cor", "Dun", "East", "Far", "Gors") for b in ("mere", "holt", "vale", "ley")
)
SENTENCES = (
    "The old ferry {boat} to {town} carried {n} crates of apples and a sleepy dog.",
    'Mr. Pell said to the clerk of {boat} in {town}, "We shall need {n} more ropes before the storm."',
    "Nobody on the quay at that hour had heard of {town} or of its {n} lamps.",
    "When the bell of the {boat} rang in {town}, all of the {n} lanterns went out at once.",
)


def story(seed: int, paragraphs: int = 40) -> str:
    """Paragraphs of five sentences in lines of unlike length, as files of plain text have them."""
    rng = random.Random(seed)
    told = [[_sentence(rng) for _ in range(5)] for _ in range(paragraphs)]
    return "\n\n".join(
        " ".join(lines).replace(" and a ", "\nand a ").replace(" at that ", "\nat that ") for lines in told
    )


def _sentence(rng: random.Random) -> str:
    boat = "".join(rng.choices("abcdefgh", k=5))
    return rng.choice(SENTENCES).format(boat=boat, town=rng.choice(TOWNS), n=rng.randrange(100, 9999))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("a.txt", "b.txt")):
        (tmp_path / name).write_text(story(index), "utf-8")
    return tmp_path


def items(folder: Path, split: str = "all") -> list[Item]:
    return load_items(get_task(f"cloze:{folder}"), split)


def start(item: Item) -> str:
    assert item.question == QUESTION and item.cue.startswith("\n")
    return item.cue[1:]


def test_the_answer_stands_once_in_the_passage_and_not_in_the_question(folder: Path) -> None:
    task = get_task(f"cloze:{folder}")
    for item in items(folder):
        assert item.private.lower().count(item.answer.lower()) == 1
        assert item.answer.lower() not in (item.question + item.cue).lower()
        assert same_answer(task, task.parse(f" {item.answer.upper()}, and so on.\nmore"), item.answer)
        assert not same_answer(task, task.parse(f" x{item.answer}"), item.answer)
        assert not same_answer(task, task.parse(f" some {item.answer}"), item.answer)
        assert not same_answer(task, task.parse(" \n"), item.answer)
        assert (item.reasoning, item.choices) == ("", ())


def test_the_answer_is_begun_with_the_sentence_up_to_the_word(folder: Path) -> None:
    found = items(folder)
    for item in found:
        assert item.private.count(start(item)) == 1
        assert f"{start(item)} {item.answer}" in item.private
        assert start(item).startswith(("The old", "Mr. Pell", "Nobody", "When"))
        assert len(start(item).split()) >= 4
        assert "\n" not in start(item)
    assert {item.answer.isdigit() for item in found} == {True, False}


def test_splits_are_disjoint_whole_and_the_same_each_time(folder: Path) -> None:
    parts = {split: {(item.private, item.cue) for item in items(folder, split)} for split in SPLITS}
    assert all(parts.values())
    assert not any(
        {text for text, _ in one} & {text for text, _ in two} for one, two in combinations(parts.values(), 2)
    )
    assert set.union(*parts.values()) == {(item.private, item.cue) for item in items(folder)}
    for split, part in parts.items():
        assert {pool(text) for text, _ in part} == {split}
        assert part == {(item.private, item.cue) for item in items(folder, split)}
    assert all(600 <= len(item.private) <= 1200 for item in items(folder))
    assert max(len(item.private) for item in load_items(get_task(f"cloze:{folder}"), "all", piece=500)) <= 500


def test_a_record_says_what_the_answer_is_begun_with(folder: Path) -> None:
    task = get_task(f"cloze:{folder}")
    item = load_items(task, "test", 1)[0]
    (record,) = item_records([Example(item, task, (1,), (1,), (1,), (1,), (), ())], {})
    assert record["cue"] == item.cue


def test_the_student_is_not_told_the_passage(folder: Path) -> None:
    task = get_task(f"cloze:{folder}")
    for item in load_items(task, "test", 5):
        prompt = render(task, item, "reasoning")
        assert prompt.source == item.private
        assert prompt.query == f"\n{item.question}{item.cue}"
        assert item.answer not in prompt.alone
        assert prompt.target == f" {item.answer}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("We all went up to Rome.", ("We all went up to", "Rome")),
        ("It was built for the king in 1,849 (or so).", ("It was built for the king in", "1,849")),
        ("First. The boat that came in late belonged to her.", ("The boat that came in late", "belonged")),
        ("Then at last we saw Mr. Pell again.", ("Then at last we saw Mr.", "Pell")),
        ('"Do come in!" Then he said to Ann: "sit"', ("Then he said to", "Ann")),
        (
            "They rang the bell of Holt.\nThe town of Holt woke up to see Farrow.",
            ("The town of Holt woke up to see", "Farrow"),
        ),
        ("Off to Rome we go at last.", None),  # too near the start of its sentence
        ("We all went up to Rome. Rome was far.", None),
        ("We all went up to Rome, and Romeo too.", ("We all went up to Rome, and", "Romeo")),
        ("We all came up to see what a sentence is.", None),  # the question itself says "sentence"
        ("We all went up to [the](https://a.b) `Rome` and so on.", None),
        ("we were as far up as the old oak", None),
    ],
)
def test_a_number_or_a_name_told_once_comes_before_a_long_word(text: str, found: tuple[str, str] | None) -> None:
    assert choose(text) == found


def test_passages_without_a_word_are_left_out_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = len(items(folder))
    (folder / "c.txt").write_text("We go on and on. " * 50 + "\n\n" + "so it is now. " * 50)
    with caplog.at_level(logging.WARNING):
        assert len(items(folder)) == before
    assert "pieces are too short or hold no word to ask for" in caplog.text


def test_where_nothing_can_be_asked_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cloze:/nowhere: no such file or folder.*write cloze:PATH"):
        get_task("cloze:/nowhere")
    (tmp_path / "short.txt").write_text("We all went up to Rome.")
    with pytest.raises(DataError, match=r"short.txt: no word to ask for in 1 pieces.*600 characters"):
        items(tmp_path / "short.txt")
    (tmp_path / "short.txt").write_text(" \n")
    with pytest.raises(DataError, match="no text here"):
        items(tmp_path / "short.txt")
