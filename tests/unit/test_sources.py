"""Rows from local files and, through a stand-in for `datasets`, from the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helmas_core.data.sources import Hub, data_folders, read_jsonl, read_rows
from helmas_core.errors import DataError


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELMAS_DATA", raising=False)


def put(folder: Path, text: str, name: str = "train.jsonl") -> Path:
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    path = folder / "toy" / name
    path.write_text(text, "utf-8")
    return path


def stand_in(monkeypatch: pytest.MonkeyPatch, rows: object) -> list[tuple[object, ...]]:
    """`datasets.load_dataset` that records its arguments and returns or raises `rows`."""
    calls: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> object:
        calls.append((name, config, split, streaming))
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_local_file_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, [{"a": "hub"}])
    path = put(tmp_path, '{"a": "local"}\n\n{"a": "line\u2028separator"}\r\n')
    rows = read_rows("toy", "train", Hub("x/toy"), tmp_path)
    assert rows == [(f"{path}:1", {"a": "local"}), (f"{path}:3", {"a": "line\u2028separator"})]
    assert calls == []


def test_data_dir_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "given", '{"a": 1}')
    put(tmp_path / "set", '{"a": 2}')
    put(tmp_path / "set", '{"a": 3}', "test.jsonl")
    monkeypatch.setenv("HELMAS_DATA", str(tmp_path / "set"))
    assert read_rows("toy", "train", None, tmp_path / "given")[0][1] == {"a": 1}
    assert read_rows("toy", "train", None)[0][1] == {"a": 2}
    assert read_rows("toy", "test", None, tmp_path / "given")[0][1] == {"a": 3}


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"--data-dir.*nowhere"):
        data_folders(tmp_path / "nowhere")
    monkeypatch.setenv("HELMAS_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"HELMAS_DATA.*gone"):
        data_folders(None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1}\n{"a": \n', "train.jsonl:2: not JSON"),
        ('{"a": 1}\n[1, 2]\n', "train.jsonl:2: a JSON list, not an object"),
        ("\n\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_jsonl(put(tmp_path, text))


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match=r"train.jsonl:1: not JSON.*UTF-8"):
        read_jsonl(path)


def test_an_unreadable_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_the_hub_gets_its_own_split_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, ({"n": n} for n in range(100)))
    rows = read_rows("toy", "train", Hub("x/toy", "main", {"train": "train_1M"}, stream=3))
    assert calls == [("x/toy", "main", "train_1M", True)]
    assert [row["n"] for _, row in rows] == [0, 1, 2]
    assert rows[2][0] == "x/toy:main:train_1M[2]"


def test_without_a_limit_the_hub_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, [{"n": n} for n in range(100)])
    assert len(read_rows("toy", "test", Hub("x/toy"))) == 100
    assert calls == [("x/toy", None, "test", False)]


def test_an_offline_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, ConnectionError("cannot reach the hub\nand a long tail"))
    with pytest.raises(DataError) as caught:
        read_rows("toy", "test", Hub("x/toy"), tmp_path)
    message = str(caught.value)
    assert "cannot reach the hub" in message
    assert "long tail" not in message
    assert str(tmp_path / "toy" / "test.jsonl") in message
    assert "--data-dir or HELMAS_DATA" in message


def test_a_hub_stream_that_breaks_or_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken():
        yield {"n": 0}
        raise OSError("connection reset")

    stand_in(monkeypatch, broken())
    with pytest.raises(DataError, match="connection reset"):
        read_rows("toy", "train", Hub("x/toy"))
    stand_in(monkeypatch, [])
    with pytest.raises(DataError, match="no rows"):
        read_rows("toy", "train", Hub("x/toy"))


def test_no_hub_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy/train.jsonl: no such file"):
        read_rows("toy", "train", None, tmp_path)
