"""Files that anyone may have written: what is no plain, whole, sober file is refused before it costs anything."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helmas_core.errors import ConfigError
from helmas_core.foreign import DEPTH, inside, parse_object, read_bytes, read_object, why
from helmas_core.layering import load_config
from helmas_core.runs import Run, check_links, create_run, read_metrics
from helmas_core.tensors import read_header

pytestmark = pytest.mark.unit


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            read_bytes(path, 10)


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="1,099,511,627,776 bytes, at most"):
            read_object(tmp_path / "huge")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_small_file_takes_little_room(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text('{"a": 1}')
    tracemalloc.start()
    try:
        assert read_object(tmp_path / "small.json") == {"a": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("[1]", "a JSON list, not an object"),
        ('{"a": 1', "not JSON"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "no number"),
        ('{"a": 1e999}', "1e999 is no number"),
        ('{"a": 12345678901234567890123}', "an integer of 23 digits"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ('{"a": 1, "b": 2, "a": 3}', 'the key "a" stands there twice'),
        ('{"a": {"b": 1, "b": 1}}', 'the key "b" stands there twice'),
        ('{"a": ' + "[" * 100_000, "levels deep"),
        ('{"a": ' + "[" * (DEPTH + 1) + "]" * (DEPTH + 1) + "}", "levels deep"),
        ('{"a": "\\ud800"}', "surrogates"),
        ("\x00", "not JSON"),
    ],
)
def test_what_is_no_sober_document_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        parse_object(text)
    assert "\n" not in why(caught.value)


def test_what_is_one_is_read() -> None:
    text = '\n{"a": [1, 2.5, null, true, "\\ud83d\\ude00", {"b": {}}], "c": -9007199254740992}'
    assert parse_object(text) == json.loads(text)
    deep = '{"a": ' + "[" * (DEPTH - 1) + "]" * (DEPTH - 1) + "}"
    assert parse_object(deep) == json.loads(deep)
    assert parse_object('{"a": NaN}', finite=False)["a"] != 0


def test_no_link_leads_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "run/out").symlink_to(tmp_path / "secret.json")
    (tmp_path / "run/round").symlink_to("round")
    (tmp_path / "run/within").symlink_to("other")
    for name in ("out", "../secret.json", str(tmp_path / "secret.json"), "round"):
        with pytest.raises(ValueError, match="leads"):
            inside(tmp_path / "run", name)
    assert inside(tmp_path / "run", "within").name == "within"


def _run(folder: Path) -> Run:
    return create_run(folder, load_config(["lab"]), ["helmas"])


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "report.json"])
def test_a_run_reads_nothing_outside_it(tmp_path: Path, name: str) -> None:
    run = _run(tmp_path / "run")
    run.write_report({"eval": None})
    read = {"manifest.json": lambda: run.manifest, "config.json": lambda: run.config, "report.json": lambda: run.report}
    assert read[name]() is not None
    (run.path / name).rename(tmp_path / name)
    (run.path / name).symlink_to(tmp_path / name)
    assert read[name]() is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "figures", "tracking"])
def test_a_run_writes_nothing_outside_it(tmp_path: Path, name: str) -> None:
    run = _run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    check_links(run.path)
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{name} leads out of its folder"):
        create_run(run.path, load_config(["lab"]), resume=True)
    assert read_metrics(run.metrics) == []


@pytest.mark.parametrize(
    "document",
    [
        {"status": 3, "argv": [], "seed": 0},
        {"status": "done", "argv": "rm", "seed": 0},
        {"status": "done", "argv": [], "seed": 2**70},
    ],
)
def test_a_manifest_of_another_form_is_none(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert Run(tmp_path).manifest is None


def _tensors(header: object, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _one(dtype: Any = "F32", shape: Any = (2,), place: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": place}}


BAD = {
    "nothing": b"",
    "no header": b"\0" * 8,
    "length beyond the file": _tensors(_one(), length=2**40),
    "length of all ones": b"\xff" * 64,
    "not JSON": _tensors(b"{{"),
    "not UTF-8": _tensors(b'{"\xff": 1}'),
    "twice": _tensors(b'{"a": 1, "a": 2}'),
    "nesting": _tensors(b'{"a":' * 5000),
    "dtype": _tensors(_one("OBJECT")),
    "dtype of a list": _tensors(_one(["F32"])),
    "huge shape": _tensors(_one(shape=[2**40, 2**20])),
    "negative shape": _tensors(_one(shape=[-1, -2])),
    "many dimensions": _tensors(_one(shape=[1] * 40 + [2])),
    "true shape": _tensors(_one(shape=[True, 2])),
    "place beyond": _tensors(_one(shape=[4], place=[0, 16])),
    "place backwards": _tensors(_one(place=[8, 0])),
    "hole": _tensors(_one(place=[4, 12]), b"\0" * 12),
    "more behind": _tensors(_one(), b"\0" * 9),
    "one over the other": _tensors({**_one(), "b": _one()["a"]}),
    "a key more": _tensors({"a": {**_one()["a"], "code": "x"}}),
    "metadata that is no text": _tensors({**_one(), "__metadata__": {"a": 1}}),
    "a tensor that is none": _tensors({"a": []}),
    "too many": _tensors(
        {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(2**16 + 1)}, b""
    ),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - each of them says something else
        read_header(tmp_path / "x.safetensors")
    assert "\n" not in why(caught.value)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(0, 5, dtype=torch.bfloat16), "c": torch.tensor(1)}
    tensors["d"] = torch.zeros(7, dtype=torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "x.safetensors", {"who": "me"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {"a": ("F32", (2, 3)), "b": ("BF16", (0, 5)), "c": ("I64", ()), "d": ("F8_E4M3", (7,))}
    assert header.metadata == {"who": "me"} and header.values == 14
