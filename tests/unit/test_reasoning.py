"""The teacher's own reasoning: what it is asked, where it is cut, who needs none, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helmas_core.config import Config
from helmas_core.data.prompts import thinking_prompt
from helmas_core.data.tasks import get_task, load_items
from helmas_core.evaluation.evaluate import evaluate
from helmas_core.handoff import reasoning
from helmas_core.handoff.prepare import prepare
from helmas_core.layering import load_config
from helmas_core.models.inject import Generation
from helmas_core.models.pair import Pair
from helmas_core.models.tokens import decode, encode, encode_start, pad_left
from helmas_core.progress import Silent

pytestmark = pytest.mark.unit
QUESTIONS = ("What is 9 * 2?", "How many are 3 apples and 4 more?")
ROWS = [
    {"question": QUESTIONS[0], "answer": "9*2=18.\n#### 18"},
    {"question": QUESTIONS[1], "answer": "3+4=7.\n#### 7"},
]


class Notes(Silent):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return _config(tmp_path, "gsm8k")


def _config(folder: Path, dataset: str, *more: str) -> Config:
    data = [f"data.dataset={dataset}", f"data.data_dir={folder}", "data.handoff=reasoning", "data.reasoning=generate"]
    return load_config(["lab"], [*data, 'eval.arms=["student", "text"]', "eval.batch=2", *more])


Written = list[tuple[str, bool]]


@pytest.fixture
def says(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> Callable[[Written], list[str]]:
    """Let the teacher write (text, truncated) for each item of one batch; returns what it was asked."""

    def script(written: Written) -> list[str]:
        asked: list[str] = []

        def write(_model: Any, _cache: Any, ids: Any, mask: Any, *_: Any, **options: Any) -> Generation:
            asked.extend(decode(unequal.tokenizer, row[m.bool()].tolist()) for row, m in zip(ids, mask, strict=True))
            rows = [encode(unequal.tokenizer, text) for text, _ in written]
            assert [not options["finished"](row) for row in rows] == [truncated for _, truncated in written]
            return Generation(rows, [truncated for _, truncated in written])

        monkeypatch.setattr(reasoning, "generate", write)
        monkeypatch.setattr(reasoning, "read_shared", lambda _, prompts, pad, *__: (None, *pad_left(prompts, pad)))
        return asked

    return script


def test_the_teacher_is_shown_examples_and_the_students_source_is_not(
    unequal: Pair, config: Config, says: Callable[[Written], list[str]]
) -> None:
    asked = says([("It is 18.\nThe final answer is: 18", False), ("It is 7.\nThe final answer is: 7", False)])
    examples = prepare(config, unequal, "test", None, 0, Silent())
    items = load_items(get_task("gsm8k"), "test", data_dir=config.data.data_dir)
    assert asked == [thinking_prompt(get_task("gsm8k"), item).alone for item in items]
    assert all("few short sentences" in text and text.count("Question:") == 4 for text in asked)
    expected = [f"{QUESTIONS[0]}\nIt is 18.", f"{QUESTIONS[1]}\nIt is 7."]
    assert [list(e.source) for e in examples] == [encode_start(unequal.tokenizer, text, None) for text in expected]


@pytest.mark.parametrize(
    "end",
    [
        "\nThe final answer is: 18",
        "\n\n**The final answer is:** 18",
        "\nTHE FINAL ANSWER IS 18",
        " The final answer is 18.",
        "\n\nQuestion: And 9 * 3?\nAnswer:",
    ],
)
def test_a_thought_is_cut_before_the_answer(
    unequal: Pair, config: Config, says: Callable[[Written], list[str]], end: str
) -> None:
    says([(f" Twice nine, 9 * 2.{end}", False), ("It is 7.\nThe final answer is: 7", False)])
    first, _ = prepare(config, unequal, "test", None, 0, Silent())
    assert first.thought is not None
    assert first.thought.text == "Twice nine, 9 * 2."


def test_a_word_of_the_cue_does_not_end_a_thought() -> None:
    end = reasoning.end_of_thought(get_task("openhermes").cue)
    assert not end.search("The answer follows from")
    assert end.search("done.\nAnswer: 3")


def test_items_that_take_no_reasoning_are_not_thought_about(
    unequal: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Generation:
        raise AssertionError("the teacher thinks")

    monkeypatch.setattr(reasoning, "generate", refuse)
    examples = prepare(_config(tmp_path, "relay,arithmetic"), unequal, "test", 2, 0, Silent())
    assert [e.thought for e in examples] == [None] * 4
    assert reasoning.summary_of_thoughts(examples) is None


def test_the_teacher_thinks_about_private_text(
    unequal: Pair, tmp_path: Path, says: Callable[[Written], list[str]]
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "What is Bo's code?", "answer": "18", "private": "Bo's code is 9 * 2."}))
    asked = says([("Twice nine.\nThe final answer is: 18", False)])
    [example] = prepare(_config(tmp_path, f"jsonl:{path}"), unequal, "all", None, 0, Silent())
    assert "Bo's code is 9 * 2.\nWhat is Bo's code?" in asked[0]
    assert decode(unequal.tokenizer, example.source) == "Bo's code is 9 * 2.\nWhat is Bo's code?\nTwice nine."


def test_thoughts_are_counted_and_their_loss_is_said_aloud(
    unequal: Pair, config: Config, says: Callable[[Written], list[str]]
) -> None:
    texts: Written = [("It is 18, or", True), ("The final answer is: 7", False)]
    says(texts)
    progress = Notes()
    figures = evaluate(config, unequal, None, progress)["reasoning"]
    tokens = [len(encode(unequal.tokenizer, text)) for text, _ in texts]
    assert figures.pop("seconds") >= 0
    counts = {"items": 2, "generated": 2, "truncated": 0.5, "empty": 0.5, "names_answer": 0.5, "holds_answer": 0.5}
    assert figures == {**counts, "tokens": sum(tokens) / 2}
    assert progress.notes == [
        "1 of 2 thoughts about gsm8k were cut off at data.reasoning_tokens = 320; raise it",
        "1 of 2 thoughts about gsm8k are empty; these hand over the prompt",
    ]


def test_a_teacher_that_never_stops_is_truncated(unequal: Pair, config: Config) -> None:
    """With a real model: random weights do not come to an end in five tokens."""
    short = config.model_copy(update={"data": config.data.model_copy(update={"reasoning_tokens": 5})})
    progress = Notes()
    figures = evaluate(short, unequal, None, progress)["reasoning"]
    assert (figures["generated"], figures["truncated"], figures["tokens"]) == (2, 1.0, 5.0)
    assert figures["seconds"] > 0
    assert "2 of 2 thoughts" in progress.notes[0]


def _gold(config: Config, **data: Any) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"reasoning": "gold", **data})})


def test_gold_reasoning_says_how_often_it_holds_the_answer(unequal: Pair, config: Config) -> None:
    found = evaluate(_gold(config), unequal, None, Silent())
    assert found["reasoning"] == {"items": 2, "empty": 0.0, "names_answer": 1.0, "holds_answer": 1.0}
    assert found["manifest"]["cut_last_step"] is False
    assert evaluate(_gold(config, handoff="prompt"), unequal, None, Silent())["reasoning"] is None


def test_the_last_step_is_cut_and_said_to_be(unequal: Pair, config: Config) -> None:
    rows = [{"question": QUESTIONS[0], "answer": f"{steps}\n#### 18"} for steps in ("Twice nine.\n9*2=18.", "18.")]
    assert config.data.data_dir is not None
    (config.data.data_dir / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut = _gold(config, cut_last_step=True)
    sources = [decode(unequal.tokenizer, e.source) for e in prepare(cut, unequal, "test", None, 0, Silent())]
    assert sources == [f"{QUESTIONS[0]}\nTwice nine.\nThe final answer is", QUESTIONS[0]]
    found = evaluate(cut, unequal, None, Silent())
    assert found["reasoning"] == {"items": 2, "empty": 0.5, "names_answer": 0.0, "holds_answer": 0.0}
    assert found["manifest"]["cut_last_step"] is True


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("He pays $1,234.", "1234", True),
        ("It is 18. Then 20.", "18", True),
        ("It is 180, or 3.18, or 18.5.", "18", False),
        ("-5 it is", "-5", True),
    ],
)
def test_an_answer_stands_by_itself(text: str, answer: str, holds: bool) -> None:
    assert reasoning._holds(text, answer) is holds
