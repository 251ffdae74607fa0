"""Tasks: the public formats, the splits, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from helmas_core.data.item import Item, pool
from helmas_core.data.prompts import render
from helmas_core.data.tasks import REGISTRY, get_task, load_items
from helmas_core.errors import DataError

LETTERED = {"choices": {"text": ["ice", "rain", "steam", "frost"], "label": ["1", "2", "3", "4"]}, "answerKey": "2"}


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELMAS_DATA", raising=False)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def word_problem(number: int) -> dict[str, str]:
    return {"question": f"What is {number} + 1?", "answer": f"It is <<{number}+1={number + 1}>>it.\n#### {number + 1}"}


def convert(name: str, row: dict[str, Any]) -> Item | None:
    to_item = get_task(name).to_item
    assert to_item is not None
    return to_item(row, 7)


def test_gsm8k_row() -> None:
    row = {"question": " How many? ", "answer": "16-3 = <<16-3=13>>13.\n13*100 = $<<13*100=1300>>1300\n#### 1,300"}
    assert convert("gsm8k", row) == Item("7", "How many?", "1300", reasoning="16-3 = 13.\n13*100 = $1300")


def test_math_row_takes_the_last_box() -> None:
    row = {
        "problem": "P",
        "level": "Level 2",
        "type": "Algebra",
        "solution": "\\boxed{1} no, $\\boxed{\\dfrac{3}{4}}$.",
    }
    item = convert("math", row)
    assert item is not None
    assert (item.answer, item.reasoning) == ("\\frac{3}{4}", row["solution"])


def test_numbered_choices_become_letters() -> None:
    item = convert("arc", {"id": "x", "question": "Liquid?", **LETTERED})
    assert item is not None
    assert (item.answer, item.choices) == ("B", ("ice", "rain", "steam", "frost"))
    lettered = {**LETTERED, "choices": {"text": ["a", "b", "c", "d", "e"], "label": list("ABCDE")}, "answerKey": "E"}
    five = convert("openbookqa", {"question_stem": "Q", **lettered})
    assert five is not None
    assert five.answer == "E"
    assert len(five.choices) == 5


def test_mmlu_answer_is_an_index() -> None:
    row = {"question": "Q", "subject": "astronomy", "choices": ["w", "x", "y", "z"], "answer": 3}
    assert convert("mmlu", row) == Item("7", "Q", "D", choices=("w", "x", "y", "z"), category="astronomy")


@pytest.mark.parametrize(
    ("row", "category"), [({"type": "Algebra"}, "Algebra"), ({"subject": " Sets "}, "Sets"), ({}, "")]
)
def test_a_category_is_what_a_row_calls_it(row: dict[str, str], category: str) -> None:
    item = convert("math", {"problem": "P", "solution": "so \\boxed{1}", **row})
    assert item is not None
    assert item.category == category


PASSAGE = """This question refers to the following information.
"The ferry leaves
at seven."
—Harbour notice, 1911
When does the ferry leave?"""


def about_a_passage(question: str = PASSAGE) -> dict[str, Any]:
    return {"question": question, "subject": "history", "choices": ["at six", "at seven"], "answer": 1}


def test_an_mmlu_passage_is_private_and_nothing_of_the_question_is_lost() -> None:
    item = convert("mmlu-passages", about_a_passage())
    assert item is not None
    assert item.question == "When does the ferry leave?"
    assert (item.answer, item.choices, item.reasoning) == ("B", ("at six", "at seven"), "")
    assert f"{PASSAGE.splitlines()[0]}\n{item.private}\n{item.question}" == PASSAGE
    prompt = render(get_task("mmlu-passages"), item, "prompt")
    assert prompt.source == item.private
    assert "ferry leaves" not in prompt.query + prompt.alone


@pytest.mark.parametrize(
    "question",
    [
        "When does the ferry leave?",
        "At sea.\n" + PASSAGE,
        PASSAGE.splitlines()[0] + "\nWhen does the ferry leave?",
        PASSAGE.replace("\n", " "),
    ],
)
def test_an_mmlu_row_without_a_passage_to_split_off_is_left_out(question: str) -> None:
    assert convert("mmlu-passages", about_a_passage(question)) is None
    assert convert("mmlu", about_a_passage(question)) is not None


def test_mmlu_passages_read_the_files_of_mmlu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "mmlu" / "test.jsonl", about_a_passage("Which?"), about_a_passage())
    with caplog.at_level(logging.WARNING):
        items = load_items(get_task("mmlu-passages"), "test", data_dir=tmp_path)
    assert [item.id for item in items] == ["mmlu-passages-test-1"]
    assert "mmlu-passages: 1 of 2 rows" in caplog.text
    write(path, about_a_passage("Which?"))
    with pytest.raises(DataError, match=r"mmlu-passages: no items for split test among 1 rows"):
        load_items(get_task("mmlu-passages"), "test", data_dir=tmp_path)


def test_instruction_data_rows() -> None:
    response = "Half of 8 is 4.\n#### 4\nThe answer is: 4"
    meta = convert("metamathqa", {"query": "Q", "response": response, "type": "GSM_AnsAug"})
    assert meta is not None
    assert (meta.answer, meta.reasoning) == ("4", "Half of 8 is 4.")
    plain = convert("metamathqa", {"query": "Q", "response": "So it is.\nThe answer is: $\\frac12$"})
    assert plain is not None
    assert (plain.answer, plain.reasoning) == ("\\frac{1}{2}", "So it is.")
    solution = {"problem": "Q", "generated_solution": "S", "expected_answer": "2", "problem_source": "math"}
    assert convert("openmathinstruct2", solution) == Item("7", "Q", "2", reasoning="S")
    turns = [("system", "Be kind."), ("human", "Hi?"), ("gpt", "Hello.\nYou."), ("human", "More?")]
    talk = {"conversations": [{"from": who, "value": said} for who, said in turns]}
    assert convert("openhermes", talk) == Item("7", "Hi?", "Hello.\nYou.")
    assert convert("openhermes", {"conversations": talk["conversations"][:1]}) is None


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("gsm8k", {"question": "Q"}, "missing field answer"),
        ("gsm8k", {"question": "Q", "answer": "no mark"}, "#### number"),
        ("gsm8k", {"question": "Q", "answer": "#### none"}, "#### number"),
        ("gsm8k", {"question": 3, "answer": "#### 1"}, 'field "question" must be text'),
        ("math", {"problem": "P", "solution": "no box"}, "boxed"),
        ("arc", {"question": "Q", **LETTERED, "answerKey": "9"}, "answerKey"),
        ("arc", {"question": "Q", "choices": {"text": ["a"]}, "answerKey": "A"}, "missing field 'label'"),
        ("arc", {"question": "Q", "choices": ["a", "b"], "answerKey": "A"}, "list indices"),
        (
            "arc",
            {"question": "Q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "A"},
            "each with a label",
        ),
        ("mmlu", {"question": "Q", "choices": ["a", "b"], "answer": 2}, "index of a choice"),
        ("mmlu", {"question": "Q", "choices": "ab", "answer": 1}, "choices"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_fields(
    tmp_path: Path, name: str, row: dict[str, Any], what: str
) -> None:
    task = get_task(name)
    good = {"gsm8k": word_problem(1), "math": {"problem": "P", "solution": "\\boxed{1}"}}.get(name)
    path = write(tmp_path / name / "test.jsonl", *([good] if good else []), row)
    with pytest.raises(DataError) as caught:
        load_items(task, "test", data_dir=tmp_path)
    message = str(caught.value)
    assert what in message
    assert f"{path}:{2 if good else 1}" in message
    assert f"a {name} row has the fields {', '.join(task.fields)}" in message


def test_validation_is_a_fixed_part_of_train(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "train.jsonl", *(word_problem(n) for n in range(200)))
    write(tmp_path / "gsm8k" / "test.jsonl", *(word_problem(n) for n in range(1000, 1010)))
    task = get_task("gsm8k")
    parts = {split: load_items(task, split, data_dir=tmp_path) for split in ("train", "validation", "test")}
    questions = {split: {item.question for item in items} for split, items in parts.items()}
    assert {pool(q) for q in questions["validation"]} == {"validation"}
    assert "validation" not in {pool(q) for q in questions["train"]}
    assert len(questions["train"]) + len(questions["validation"]) == 200
    assert len(questions["test"]) == 10
    assert len({item.id for items in parts.values() for item in items}) == 210


def test_train_only_data_keep_rewordings_of_a_question_together(tmp_path: Path) -> None:
    rows = [
        {"query": f"{n}.{m}", "original_question": f"question {n}", "response": f"…\nThe answer is: {n}"}
        for n in range(60)
        for m in range(3)
    ]
    write(tmp_path / "metamathqa" / "train.jsonl", *rows)
    task = get_task("metamathqa")
    groups = {
        split: {item.question.split(".")[0] for item in load_items(task, split, data_dir=tmp_path)}
        for split in ("train", "validation")
    }
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 60


def test_mmlu_trains_on_dev(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "subject": "s", "choices": ["a", "b"], "answer": n % 2} for n in range(40)]
    write(tmp_path / "mmlu" / "dev.jsonl", *rows)
    train = load_items(get_task("mmlu"), "train", data_dir=tmp_path)
    validation = load_items(get_task("mmlu"), "validation", data_dir=tmp_path)
    assert len(train) + len(validation) == 40
    assert validation
    assert all(item.id.startswith("mmlu-dev-") for item in train)


def test_train_is_drawn_by_seed_and_test_is_not(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "gsm8k" / f"{split}.jsonl", *(word_problem(n) for n in range(50)))
    task = get_task("gsm8k")

    def ids(split: str, seed: int, limit: int | None = 8) -> list[str]:
        return [item.id for item in load_items(task, split, limit, seed, tmp_path)]

    assert ids("train", 1) == ids("train", 1)
    assert ids("train", 1) != ids("train", 2)
    assert ids("train", 1) == ids("train", 1, None)[:8]
    assert ids("test", 1) == ids("test", 2) == [f"gsm8k-test-{n}" for n in range(8)]


def test_built_in_tasks_make_what_is_asked_for() -> None:
    for name in ("relay", "arithmetic"):
        task = get_task(name)
        assert len(load_items(task, "test")) == 1000
        assert load_items(task, "test", 5, seed=1) == load_items(task, "test", 5, seed=2)
        assert load_items(task, "train", 5, seed=1) != load_items(task, "train", 5, seed=2)
    assert len(load_items(get_task("relay"), "train")) == 5000


def test_rows_without_a_question_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    talks = [[{"from": "human", "value": f"Q{n}"}, {"from": "gpt", "value": "R"}] for n in range(30)]
    write(tmp_path / "openhermes" / "train.jsonl", *({"conversations": talk} for talk in [*talks, talks[0][:1]]))
    with caplog.at_level(logging.WARNING):
        load_items(get_task("openhermes"), "train", data_dir=tmp_path)
    assert "1 of 31 rows" in caplog.text


def test_own_file_is_split_by_hash_or_read_whole(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Q{n}", "reasoning": "R", "answer": n} for n in range(100)]
    rows[3] = {"prompt": "Q3", "answer": "three", "private": "Secret."}
    task = get_task(f"jsonl:{write(tmp_path / 'own.jsonl', *rows)}")
    parts = [load_items(task, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 100
    assert all(parts)
    everything = load_items(task, "all")
    assert everything[2] == Item("own-train-2", "Q2", "2", reasoning="R")
    assert everything[3] == Item("own-train-3", "Q3", "three", private="Secret.")


def test_own_folder_has_its_own_test_file(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"prompt": "Q", "answer": "1"})
    write(tmp_path / "test.jsonl", {"prompt": "T", "answer": "2"})
    assert [item.question for item in load_items(get_task(f"jsonl:{tmp_path}"), "test")] == ["T"]


@pytest.mark.parametrize("answer", [None, True, "", ["x"]])
def test_own_file_refuses_other_answers(tmp_path: Path, answer: object) -> None:
    path = write(tmp_path / "own.jsonl", {"prompt": "Q", "answer": answer})
    with pytest.raises(DataError, match=r"own.jsonl:1.*answer"):
        load_items(get_task(f"jsonl:{path}"), "all")


def test_unknown_names_are_answered_with_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='unknown dataset "gsm8"') as caught:
        get_task("gsm8")
    assert 'did you mean "gsm8k"?' in str(caught.value)
    with pytest.raises(DataError, match=r'no split "dev" in gsm8k.*train, validation, test'):
        load_items(get_task("gsm8k"), "dev", data_dir=tmp_path)
    with pytest.raises(DataError, match='no split "tset" in relay'):
        load_items(get_task("relay"), "tset")
    with pytest.raises(DataError, match="no such file"):
        get_task("jsonl:/nowhere/x.jsonl")


def test_a_split_without_items_is_refused(tmp_path: Path) -> None:
    question = next(q for q in map(str, range(50)) if pool(q) == "train")
    path = write(tmp_path / "own.jsonl", {"prompt": question, "answer": "1"})
    with pytest.raises(DataError, match="no items for split test among 1 rows"):
        load_items(get_task(f"jsonl:{path}"), "test")


def test_the_registry_is_whole() -> None:
    words, letters = "gsm8k gsm8k-cut math metamathqa openmathinstruct2 openhermes", "arc mmlu mmlu-passages openbookqa"
    assert set(REGISTRY) == {*words.split(), *letters.split(), "relay", "arithmetic"}
    for task in REGISTRY.values():
        assert (task.generator is None) == (task.hub is not None and task.to_item is not None)
        assert {"train", "validation"} <= set(task.splits)
        assert task.cue.startswith("\n")
        assert task.cue.endswith(":")


@pytest.mark.parametrize("name", ["metamathqa", "openmathinstruct2"])
def test_rewordings_of_other_train_sets_are_never_tested_on(name: str) -> None:
    assert get_task(name).splits.keys() == {"train", "validation"}
