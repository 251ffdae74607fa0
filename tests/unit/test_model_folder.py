"""A local model is looked through before a library opens it: no pickle, no code, no way out, no made-up weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helmas_core.errors import PairError
from helmas_core.layering import load_config
from helmas_core.models.folder import weights_held
from helmas_core.models.gguf_header import gguf_values
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.loading import find_problems, load_pair
from helmas_core.models.sources import read_config, read_tokenizer
from helmas_core.models.tokens import ChatTemplate
from tests.fuzz.models import make_gguf
from tests.tiny import tiny_model

pytestmark = pytest.mark.unit
LAB = Path(__file__).parents[2] / "helmas_core/lab/student"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(vocab_size=64, layers=1).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(LAB / name, tmp_path / name)
    return tmp_path


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _load(folder: Path) -> None:
    config = load_config(["lab"], [f"pair.teacher={folder}", f"pair.student={folder}"])
    load_pair(config, resolve_hardware(config))


def test_a_whole_folder_is_loaded(folder: Path) -> None:
    _load(folder)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def _index(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "out.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    return harm


def _pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (_pickle, "pickled weights are never loaded"),
    "index that leads out": (_index("../out.safetensors"), "no safetensors file of this folder"),
    "index of a pickle": (_index("model.bin"), "no safetensors file of this folder"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "/x"}'), "an adapter"),
    "weights by name": (lambda f: _change(f / "config.json", transformers_weights="../x.safetensors"), "leads out"),
    "attention from a hub": (lambda f: _change(f / "config.json", attn_implementation="a/b"), "names code"),
    "code": (lambda f: _change(f / "config.json", model_type="me", auto_map={"AutoConfig": "x.C"}), "cannot load"),
    "layers": (lambda f: _change(f / "config.json", num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "width": (lambda f: _change(f / "config.json", hidden_size=10**12), "hidden_size is 1000000000000"),
    "vocabulary": (lambda f: _change(f / "config.json", vocab_size=2**30), "asks for"),
    "no weights of one layer": (lambda f: _change(f / "config.json", num_hidden_layers=2), "asks for"),
    "tokenizer elsewhere": (lambda f: _change(f / "tokenizer_config.json", tokenizer_file="/etc/passwd"), "leads out"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), "cannot load"),
    "pipe": (_pipe, "not a regular file"),
    "nesting": (lambda f: (f / "config.json").write_text('{"a":' * 9000), "levels deep"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99), "a header of"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "word"), HARMS.values(), ids=HARMS.keys())
def test_what_is_not_plain_is_refused(folder: Path, harm: Callable[[Path], object], word: str) -> None:
    harm(folder)
    with pytest.raises(PairError, match=word) as caught:
        _load(folder)
    assert "\n" not in str(caught.value)


def test_a_huge_tokenizer_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(PairError, match=r"tokenizer\.json is larger"):
        read_tokenizer(str(folder))


def test_strange_settings_are_problems_not_tracebacks(folder: Path) -> None:
    _change(folder / "config.json", layer_types=3, sliding_window="x")
    config = load_config(["lab"], [f"pair.teacher={folder}", f"pair.student={folder}"])
    assert [problem for problem in find_problems(config) if problem.severity == "error"]


def test_a_template_that_fails_is_one_line(folder: Path) -> None:
    tokenizer = read_tokenizer(str(folder))
    for text in ("{{ 1 / 0 }}", "{% for %}", "{{ messages[0].__class__.__mro__ }}", "nothing of the question"):
        tokenizer.chat_template = text
        with pytest.raises(PairError, match="chat template cannot be used"):
            ChatTemplate(tokenizer)("hello")


def test_gguf_is_walked_within_its_size(tmp_path: Path) -> None:
    make_gguf(tmp_path)
    path = tmp_path / "model.gguf"
    whole = path.read_bytes()
    assert gguf_values(path) == weights_held(path) == 4 * 16
    for begin, number, word in ((8, 2**60, "a count of"), (16, 2**60, "a count of"), (24, 2**40, "a count of")):
        path.write_bytes(whole[:begin] + number.to_bytes(8, "little") + whole[begin + 8 :])
        with pytest.raises(ValueError, match=word):
            gguf_values(path)
    for kept in range(0, len(whole) - 64, 7):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"ends early|not a GGUF|beyond its end"):
            gguf_values(path)
    path.write_bytes(whole[:20])
    with pytest.raises(PairError, match="ends early"):
        read_config(str(path))
