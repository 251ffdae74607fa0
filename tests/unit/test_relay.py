"""The built-in relay task: told once, asked once, and nothing shared between train and test."""

from __future__ import annotations

import random
import re

import pytest

from helmas_core.data.relay import ATTRIBUTES, FACTS, items, story

SPLITS = ("train", "validation", "test")
FACT = re.compile(r"([A-Z][a-z]+) (\d+)")


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_told_once_beside_the_name_asked_for(split: str) -> None:
    for item in items(split, 100):
        told = dict(FACT.findall(item.private))
        assert len(told) == len({value[:2] for value in told.values()}) == FACTS
        assert item.cue == f"\nAnswer: {next(name for name, value in told.items() if value == item.answer)}"
        assert item.cue.split()[-1] in item.question
        assert sum(attribute in item.question and attribute in item.private.lower() for attribute in ATTRIBUTES) == 1
        assert item.answer not in item.question


def test_splits_share_no_name_and_no_value() -> None:
    seen = {split: FACT.findall(" ".join(item.private for item in items(split, 400))) for split in SPLITS}
    for one, two in (("train", "test"), ("train", "validation"), ("validation", "test")):
        for part in (0, 1):
            assert not {fact[part] for fact in seen[one]} & {fact[part] for fact in seen[two]}


def test_test_questions_and_openings_are_phrased_anew() -> None:
    def bare(text: str) -> str:
        return re.sub(
            "|".join(ATTRIBUTES),
            "{a}",
            re.sub(r"\b[BDFGKLMNPRSTVZ][aio](ra|na|mi|ken|lor|vik)\b", "{n}", text),
            flags=re.I,
        )

    forms = {}
    for split in ("train", "test"):
        made = items(split, 300)
        forms[split] = {bare(i.question) for i in made} | {bare(i.private).split("{n}")[0] for i in made}
    assert len(forms["train"]) == 9
    assert len(forms["test"]) == 5
    assert not forms["train"] & forms["test"]


def test_items_are_a_function_of_split_count_and_seed() -> None:
    assert items("train", 20, seed=3) == items("train", 20, seed=3)
    assert items("train", 20, seed=3)[:5] == items("train", 5, seed=3)
    assert items("train", 20, seed=3) != items("train", 20, seed=4)
    assert len({item.private for item in items("test", 300)}) == 300


def test_a_story_can_be_asked_about_every_fact() -> None:
    text, asked = story(random.Random(0), "train", facts=3)
    assert [(cue.split()[-1], answer) for _, cue, answer in asked] == FACT.findall(text)
    assert len({question for question, _, _ in asked}) == 3


def test_people_can_be_named() -> None:
    text, _ = story(random.Random(0), "test", ("Ada", "Bob", "Cyd", "Dot"))
    assert {name for name, _ in FACT.findall(text)} == {"Ada", "Bob", "Cyd", "Dot"}
