"""The teacher's thoughts on disk: resumed, never written twice, and skipped where a file is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helmas_core.config import Config
from helmas_core.handoff import reasoning
from helmas_core.handoff.keys import digest
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.thoughts import Thoughts
from helmas_core.layering import load_config
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from tests.unit.test_reasoning import Notes

pytestmark = pytest.mark.unit


def _thinking(folder: Path, data: Path, *more: str) -> Config:
    settings = ["data.dataset=gsm8k", "data.handoff=reasoning", "data.reasoning=generate", "data.reasoning_tokens=5"]
    return load_config(["lab"], [*settings, f"data.data_dir={data}", "eval.batch=2", f"train.store={folder}", *more])


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    rows = [f'{{"question": "What is {n} * 2?", "answer": "#### {2 * n}"}}\n' for n in (1, 22, 333, 4444, 55555)]
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("".join(rows))
    return tmp_path / "data"


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that the teacher writes; -1 in it means: interrupted there."""
    real, sizes = reasoning.generate, list[int]()

    def counted(model: Any, cache: Any, ids: Any, *rest: Any, **more: Any) -> Any:
        if -1 in sizes:
            raise KeyboardInterrupt
        sizes.append(len(ids))
        return real(model, cache, ids, *rest, **more)

    monkeypatch.setattr(reasoning, "generate", counted)
    return sizes


def test_thoughts_are_resumed_and_never_written_twice(
    unequal: Pair, tmp_path: Path, questions: Path, generated: list[int]
) -> None:
    class StopAfterFirst(Notes):
        def update(self, done: int, **_: float | str) -> None:
            generated.append(-1)

    config = _thinking(tmp_path / "store", questions)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, unequal, "test", None, 0, StopAfterFirst())
    generated.clear()
    prepared = prepare(config, unequal, "test", None, 0, notes := Notes())
    assert generated == [2, 1]
    assert notes.notes[0] == "store: 2 of 5 thoughts about gsm8k known"
    generated.clear()
    again = prepare(config, unequal, "test", None, 0, Silent())
    assert generated == []
    assert [e.thought for e in again] == [e.thought for e in prepared]
    fresh = prepare(_thinking(tmp_path / "other", questions), unequal, "test", None, 0, Silent())
    assert [e.source for e in fresh] == [e.source for e in prepared]


def test_thoughts_ignore_the_byte_budget_and_heed_their_length(
    unequal: Pair, tmp_path: Path, questions: Path, generated: list[int]
) -> None:
    for _ in range(2):
        config = _thinking(tmp_path / "store", questions, "train.store_gib=0")
        prepare(config, unequal, "test", 2, 0, Silent())
    assert generated == [2]
    prepare(_thinking(tmp_path / "store", questions, "data.reasoning_tokens=6"), unequal, "test", 2, 0, Silent())
    assert generated == [2, 2]


def test_broken_thoughts_are_skipped(tmp_path: Path) -> None:
    thought = reasoning.Thought("Twice\u2028nine.", 5, 0.25, False)
    Thoughts(tmp_path).put({digest(1): thought, digest(2): thought})
    Thoughts(tmp_path).put({digest(3): thought})
    assert [Thoughts(tmp_path).get(digest(n)) for n in (1, 2, 3)] == [thought] * 3
    [victim] = [path for path in tmp_path.iterdir() if digest(3) in path.read_text()]
    victim.write_text(victim.read_text()[:-9])
    (tmp_path / "mine.jsonl").write_text("no thought")
    notes: list[str] = []
    left = Thoughts(tmp_path, notes.append)
    assert left.get(digest(3)) is None and left.get(digest(2)) == thought
    assert len(notes) == 1
    left.put({digest(3): thought})
    assert Thoughts(tmp_path).get(digest(3)) == thought
