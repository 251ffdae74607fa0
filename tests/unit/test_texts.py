"""Plain text: cut without loss, read from files, folders and the hub, continued in training, never scored."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helmas_core.config import Config, TrainConfig
from helmas_core.data.prompts import render
from helmas_core.data.tasks import get_task, load_items, scored_task
from helmas_core.data.texts import cut, read_texts
from helmas_core.errors import DataError
from helmas_core.evaluation.baseline import baseline
from helmas_core.evaluation.evaluate import evaluate
from helmas_core.handoff import examples as handoff_examples
from helmas_core.handoff.examples import SHORTEST_TEXT
from helmas_core.handoff.prepare import prepare
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.training.following import choose
from helmas_core.training.losses import IGNORE
from helmas_core.validation import validate

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELMAS_DATA", raising=False)


def prose(seed: int, paragraphs: int = 40) -> str:
    """Paragraphs of one to six numbered sentences, so that no two pieces are alike."""
    rng = random.Random(seed)
    made = [
        " ".join(f"Boat {seed}.{n}.{k} came in with {rng.randrange(9999)} fish." for k in range(rng.randint(1, 6)))
        for n in range(paragraphs)
    ]
    return "\n\n".join(made) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three texts in two folders, and what is no text: binaries, a blank file, hidden ones."""
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for index, name in enumerate(("b/one.md", "a.txt", "c.py")):
        (tmp_path / name).write_text(prose(index), "utf-8")
    for name, content in (("z.bin", b"\xff\xfe\0"), ("nul.txt", b"a\0b"), ("blank.txt", b" \n\n")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".git" / "config").write_text("hidden " * 50)
    return tmp_path


@given(st.text(alphabet="ab .!\n\té", max_size=400), st.integers(1, 60))
def test_cutting_loses_nothing_and_keeps_the_bound(text: str, limit: int) -> None:
    pieces = cut(text, limit)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert len(cut(text, max(1, len(text)))) == bool(text)


def test_pieces_end_where_the_text_does() -> None:
    text = prose(0)
    pieces = cut(text, 400)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    assert cut("One is. Two is.\nThree is.", 12) == ["One is. ", "Two is.\n", "Three is."]
    assert cut("some words here", 6) == ["some ", "words ", "here"]
    assert cut("abcdefgh", 3) == ["abc", "def", "gh"]


def test_a_folder_is_read_in_order_without_binaries(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_texts(folder)
    assert [Path(place).relative_to(folder).as_posix() for place, _ in found] == ["a.txt", "b/one.md", "c.py"]
    assert [text for _, text in found] == [prose(1), prose(0), prose(2)]
    assert "3 of 6 files hold no text" in caplog.text


def test_splits_share_no_piece_and_leave_none_out(folder: Path) -> None:
    task = get_task(f"text:{folder}")
    parts = [{item.private for item in load_items(task, s, piece=300)} for s in ("train", "validation", "test")]
    whole = {item.private for item in load_items(task, "all", piece=300)}
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(whole)
    assert max(map(len, whole)) <= 300
    told = "\n\n".join(item.private for item in load_items(task, "all", piece=300))
    assert told == "\n\n".join(text.strip("\n") for _, text in read_texts(folder))


def test_items_are_drawn_by_seed_and_hold_no_question(folder: Path) -> None:
    task = get_task(f"text:{folder}")
    first = load_items(task, "train", 5, seed=1, piece=300)
    assert first == load_items(task, "train", 5, seed=1, piece=300)
    assert first != load_items(task, "train", 5, seed=2, piece=300)
    assert {(item.question, item.answer, item.reasoning) for item in first} == {("", "", "")}


@pytest.mark.parametrize("name", ["", "empty", "blank.txt", "nul.txt"])
def test_where_there_is_no_text_the_place_is_named(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    if not name:
        with pytest.raises(DataError, match=r"text:/nowhere: no such file or folder"):
            get_task("text:/nowhere")
        return
    with pytest.raises(DataError, match=f"{name}: no text here"):
        load_items(get_task(f"text:{folder / name}"), "train")


def test_line_breaks_of_another_system_are_ours(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    assert read_texts(tmp_path / "w.txt") == [(str(tmp_path / "w.txt"), "one\n\ntwo\n")]


def test_a_column_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def load_dataset(id: str, config: str | None, split: str, streaming: bool) -> object:
        calls.append((id, config, split, streaming))
        return [{"id": 1, "body": prose(n), "text": prose(50 + n)} for n in range(3)]

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    plain = load_items(get_task("hub-text:x/toy"), "all", piece=300)
    named = load_items(get_task("hub-text:x/toy:main:body"), "all", piece=300)
    assert calls == [("x/toy", None, "train", True), ("x/toy", "main", "train", True)]
    assert plain[0].private.startswith("Boat 50.0.0")
    assert named[0].private.startswith("Boat 0.0.0")
    assert load_items(get_task("hub-text:x/toy::body"), "all", piece=300)[0].private == named[0].private
    with pytest.raises(DataError, match=r'no text in field "id".*fields with text: body, text'):
        load_items(get_task("hub-text:x/toy::id"), "all")


def test_an_offline_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset(*_: object, **__: object) -> object:
        raise ConnectionError("cannot reach the hub")

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"cannot reach the hub.*x/toy/train.jsonl.*--data-dir"):
        load_items(get_task("hub-text:x/toy"), "train", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["hub-text:toy", "hub-text:x/toy:a:b:c", "hub-text:", "hub-text:x/to y"])
def test_other_names_on_the_hub_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="OWNER/NAME"):
        get_task(name)


def _config(folder: Path) -> Config:
    return load_config(["lab"], [f"data.dataset=text:{folder}", "data.max_source_tokens=300"])


@pytest.mark.parametrize("handoff", ["prompt", "reasoning"])
@pytest.mark.parametrize("reasoning", ["gold", "generate"])
def test_a_text_is_all_source_in_every_handoff(folder: Path, lab_pair: Pair, handoff: str, reasoning: str) -> None:
    config = _config(folder)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"handoff": handoff, "reasoning": reasoning})}
    )
    for example in prepare(config, lab_pair, "train", 3, 0, Silent()):
        assert lab_pair.tokenizer.decode(list(example.source)) == example.item.private
        assert (example.query, example.alone, example.target, example.choices) == ((), (), (), ())
        assert example.thought is None


def test_a_text_stands_in_no_chat_turn(folder: Path, lab_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer's beginning token is left to a template only where one is used."""
    used: list[object] = []
    monkeypatch.setattr(handoff_examples, "encode_start", lambda _t, text, template: used.append(template) or [1])
    chat = replace(lab_pair, template=lambda user, earlier=(): (f"<user>{user}", "<answer>"))
    task = get_task(f"text:{folder}")
    item = load_items(task, "train", 1)[0]
    handoff_examples.make_example(chat, task, item, render(task, item, "prompt", chat.template))
    assert used == [None, None]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_text_is_always_continued(folder: Path, lab_pair: Pair, share: float) -> None:
    examples = prepare(_config(folder), lab_pair, "train", 8, 0, Silent())
    train = validate(TrainConfig, {"continuation": share, "continuation_tokens": 20})
    following = choose(examples, train, random.Random(0), 0, torch.device("cpu"))
    for row, example in enumerate(examples):
        ids = following.ids[row][following.mask[row].bool()].tolist()
        visible = int(following.visible[row])
        assert ids == list(example.source[visible : visible + len(ids)])
        assert visible >= SHORTEST_TEXT // 2 and len(ids) >= SHORTEST_TEXT // 2
        assert (following.labels[row] != IGNORE).sum() == len(ids) - 1


def test_texts_too_short_to_continue_are_left_out_aloud(tmp_path: Path, lab_pair: Pair) -> None:
    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    (tmp_path / "long.txt").write_text(prose(0, 1) * 2)
    (tmp_path / "short.txt").write_text("Hi.")
    found = prepare(_config(tmp_path), lab_pair, "all", None, 0, Notes())
    assert [len(e.source) >= SHORTEST_TEXT for e in found] == [True] * len(found) and found
    assert notes == [f"1 pieces of text:{tmp_path} are under 16 tokens; left out"]
    (tmp_path / "long.txt").unlink()
    with pytest.raises(DataError, match="no items"):
        prepare(_config(tmp_path), lab_pair, "all", None, 0, Silent())


def test_accuracy_on_texts_is_refused_with_the_way_out(folder: Path, lab_pair: Pair) -> None:
    with pytest.raises(DataError, match=r"no accuracy.*data\.mix"):
        evaluate(_config(folder), lab_pair, None, Silent())
    with pytest.raises(DataError, match=r"no accuracy.*data\.mix"):
        baseline(_config(folder), lab_pair, Silent())
    assert scored_task("relay") is get_task("relay")
