"""Where a bridge is shared to and from, and what a name may show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helmas_core.errors import ConfigError, HelmasError
from helmas_core.sharing.address import Repository, shared_bridge, target
from helmas_core.sharing.public import Names
from tests.shared import HOME

pytestmark = pytest.mark.unit

TARGETS: dict[str, Any] = {
    "owner/name": Repository("owner/name"),
    "owner/name@v1.0": Repository("owner/name", "v1.0"),
    "https://huggingface.co/owner/name": Repository("owner/name"),
    "https://huggingface.co/owner/name/tree/a/b": Repository("owner/name", "a/b"),
    "./folder": Path("folder"),
    "../folder": Path("../folder"),
    "/a/folder": Path("/a/folder"),
    "name": None,
    "a/b/c": None,
    "owner/..": None,
    "-x/name": None,
    "owner/na me": None,
    "https://example.org/owner/name": None,
    "https://huggingface.co/datasets/owner/name": None,
    "https://huggingface.co.example.org/owner/name": None,
    "file:///etc/passwd": None,
}


@pytest.mark.parametrize(("text", "meant"), TARGETS.items(), ids=TARGETS.keys())
def test_targets(text: str, meant: Any) -> None:
    if meant is None:
        with pytest.raises(ConfigError, match=r"owner/name"):
            target(text)
    else:
        assert target(text) == meant


def test_a_name_that_is_a_folder_too_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"write \./owner/name or https"):
        target("owner/name")
    assert target("https://huggingface.co/owner/name") == Repository("owner/name")
    assert shared_bridge("owner/name") is None  # what is here comes first
    assert shared_bridge("owner/other") is None  # a slip in a path asks nobody
    assert shared_bridge("another/name@v1") == Repository("another/name", "v1")
    assert shared_bridge("another/name.safetensors") is None


@pytest.mark.parametrize("revision", ["../x", "-f", "a b", ""])
def test_revisions_are_names(revision: str) -> None:
    with pytest.raises(ConfigError, match="--revision"):
        target("owner/name", revision)


def test_an_address_shows_no_password() -> None:
    with pytest.raises(HelmasError) as caught:
        target("https://me:hunter2@example.org/owner/name")
    assert "hunter2" not in str(caught.value)


PATHS = {
    f"no such file {HOME}/x.jsonl, sorry": "no such file x.jsonl, sorry",
    "~/notes": "notes",
    "../up/there": "there",
    r"C:\Users\ada\x.toml": "x.toml",
    "bridge/text at 1/2 the cost; Qwen/Qwen3-8B; https://arxiv.org/abs/1": None,
}


@pytest.mark.parametrize(("text", "shown"), PATHS.items())
def test_paths_lose_their_folders(text: str, shown: str | None) -> None:
    assert Names([], []).text(text) == (shown or text)


def test_files_of_one_name_stay_apart() -> None:
    names = Names(["/a/qwen", "/b/qwen"], ["jsonl:/a/x.jsonl", "jsonl:/b/x.jsonl"])
    assert names.of({"jsonl:/a/x.jsonl": "/a/qwen", "jsonl:/b/x.jsonl": ["/b/qwen"]}) == {
        "jsonl:x.jsonl": "qwen", "jsonl:x.jsonl-2": ["qwen-2"],
    }  # fmt: skip
