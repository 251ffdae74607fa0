"""The built-in relay task: told once, asked once, and nothing shared between train and test."""

from __future__ import annotations

import random
import re

import pytest

from helmas_core.data.relay import ATTRIBUTES, FACTS, items, story

SPLITS = ("train", "validation", "test")


def told(text: str) -> tuple[set[str], set[str]]:
    """(names, values) in a text."""
    names = set(re.findall(r"\b(?!The\b|For\b|Note\b|We\b|What\b|Which\b)[A-Z][a-z]+", text))
    return names, set(re.findall(r"\d+", text))


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_told_in_one_sentence_with_the_name_asked_for(split: str) -> None:
    for item in items(split, 100):
        names, values = told(item.private)
        assert len(names) == len(values) == FACTS
        (asked,) = told(item.question)[0]
        (sentence,) = (part for part in item.private.split(". ") if re.search(rf"\b{asked}\b", part))
        assert told(sentence)[1] == {item.answer}
        assert sum(attribute in item.question and attribute in sentence for attribute in ATTRIBUTES) == 1
        assert item.answer not in item.question


def test_splits_share_no_name_and_no_value() -> None:
    seen = {split: told(" ".join(item.private for item in items(split, 400))) for split in SPLITS}
    for one, two in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not seen[one][0] & seen[two][0]
        assert not seen[one][1] & seen[two][1]


def test_test_questions_and_facts_are_phrased_anew() -> None:
    def bare(text: str) -> str:
        text = re.sub("|".join(ATTRIBUTES), "{a}", re.sub(r"\d+", "{v}", text))
        return re.sub(r"\b(?!The\b|For\b|Note\b|We\b|What\b|Which\b)[A-Z][a-z]+", "{n}", text)

    forms = {}
    for split in ("train", "test"):
        made = items(split, 300)
        forms[split] = {bare(item.question) for item in made} | {
            bare(fact).rstrip(".") for item in made for fact in item.private.split(". ")
        }
    assert not forms["train"] & forms["test"]


def test_items_are_a_function_of_split_count_and_seed() -> None:
    assert items("train", 20, seed=3) == items("train", 20, seed=3)
    assert items("train", 20, seed=3)[:5] == items("train", 5, seed=3)
    assert items("train", 20, seed=3) != items("train", 20, seed=4)
    assert len({item.private for item in items("test", 300)}) == 300


def test_a_story_can_be_asked_about_every_fact() -> None:
    text, asked = story(random.Random(0), "train", facts=3, questions=3)
    assert {answer for _, answer in asked} == told(text)[1]
    assert len({question for question, _ in asked}) == 3
