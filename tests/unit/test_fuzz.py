"""The short version of `python -m tests.fuzz`, and that its guards can fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from helmas_core.errors import DataError
from helmas_core.tensors import read_header
from tests.fuzz import guard
from tests.fuzz.__main__ import Fuzzer, table
from tests.fuzz.corpus import FORMATS
from tests.fuzz.mutate import mutate

pytestmark = pytest.mark.unit
COUNT = 1500


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.filterwarnings("ignore")
def test_harmed_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, seed=0)
    fuzzer.run(COUNT)
    tallies = fuzzer.tallies.values()
    assert not [tally for tally in tallies if tally.faults], table(fuzzer.tallies)
    assert sum(tally.files for tally in tallies) == COUNT and len(tallies) == len(FORMATS)
    assert (
        0.05 < sum(tally.read for tally in tallies) / COUNT < 0.6
    )  # harms are neither all fatal nor all without effect


def test_a_harm_follows_from_its_seed() -> None:
    data = [b'{"a": [1, 2, {"b": "c"}]}', b"[pair]\nx = 1\n"]

    def harms(seed: int) -> list[bytes]:
        return [
            mutate(Random(f"{seed}/{i}"), data[0], data, kind)
            for i in range(50)
            for kind in ("bytes", "json", "tensors")
        ]

    assert harms(1) == harms(1) != harms(2)


def _refuse(_: Path) -> None:
    raise DataError("no", where="x", fix="y")


def _execute(_: Path) -> None:
    exec(compile("pass", "<from the file>", "exec"))


def _greedy(_: Path) -> None:
    bytearray(3 * 2**20)
    raise DataError("no")


def _touching(_: Path) -> None:
    with open("/etc/hostname"):  # noqa: PTH123
        pass


def _writing(folder: Path) -> None:
    (folder.parent / "outside").write_text("x")


def _importing(folder: Path) -> None:
    (folder / "of_the_file.py").write_text("x = 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        __import__("of_the_file")


def _many_lines(_: Path) -> None:
    raise DataError("one\ntwo")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "traceback": (lambda _: [].pop(), "IndexError"),
    "exit": (lambda _: exit(1), "SystemExit"),
    "code": (_execute, "executed or touched: compile"),
    "shell": (lambda _: os.system("true"), "executed or touched: os.system"),
    "memory": (_greedy, "allocated 3,1"),
    "another file": (_touching, "open '/etc/hostname'"),
    "a file outside": (_writing, "outside"),
    "a module": (_importing, "of_the_file"),
    "several lines": (_many_lines, "several lines"),
    "hang": (lambda _: _spin(), "still reading"),
    "wait": (lambda _: time.sleep(9), "still reading"),
}


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(("read", "word"), FAULTS.values(), ids=FAULTS.keys())
def test_each_guard_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], word: str
) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    (tmp_path / "in").mkdir()
    found = guard.observe(lambda: read(tmp_path / "in"), 100, guard.watch(tmp_path / "in"))
    assert found.fault is not None and word in found.fault


def test_a_file_that_is_refused_or_read_has_no_fault(tmp_path: Path) -> None:
    refused = guard.observe(lambda: _refuse(tmp_path), 100, guard.watch(tmp_path))
    assert (refused.read, refused.fault) == (False, None)
    read = guard.observe(lambda: (tmp_path / "x").touch(), 100, guard.watch(tmp_path))
    assert (read.read, read.fault) == (True, None)


def test_the_header_check_is_what_refuses(tmp_path: Path) -> None:
    """Files that once passed: each was found by the fuzzer."""
    for text in (b'{"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}', b'{"a": 1, "a": 2}'):
        path = tmp_path / "x.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
        with pytest.raises(ValueError):  # noqa: PT011
            read_header(path)
