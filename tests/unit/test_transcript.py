"""Saved conversations: what is written is read, and anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helmas_core.errors import ConfigError, DataError
from helmas_core.transcript import Exchange, Settings, Transcript, read_transcript, write_transcript

pytestmark = pytest.mark.unit
TURN = Exchange(question="wer?\x1b[2J", answer="Bo \u00e9\U0001f600", bridged=True, stopped=True)
SAVED = Transcript(
    system="be brief", bridged=True, settings=Settings(temperature=0.5), models={"bridge": None}, turns=(TURN,)
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "talk.json"
    write_transcript(path, SAVED)
    assert read_transcript(path) == SAVED
    assert json.loads(path.read_text())["schema"] == 1
    write_transcript(path, SAVED)  # a saved conversation may be saved again


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema": 2}, "schema 2, this helmas reads 1"),
        ({"kind": "report"}, "no saved conversation"),
        ({"turns": [{"question": "x"}]}, "turns.0.answer"),
        ({"settings": {"temperature": -1}}, "settings.temperature"),
        ({"settings": {"heat": 1}}, "settings.heat"),
        ({"turns": None}, "turns"),
    ],
)
def test_another_document_is_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({**SAVED.model_dump(mode="json", by_alias=True), **change}))
    with pytest.raises(DataError, match=word):
        read_transcript(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"[" * 100_000, b"{"])
def test_what_is_no_document_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"notes\.txt"):
        read_transcript(path)
    with pytest.raises(ConfigError, match="is kept"):
        write_transcript(path, SAVED)
    assert path.read_bytes() == content


def test_a_folder_is_no_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_transcript(tmp_path, SAVED)
