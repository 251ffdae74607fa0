"""Whatever goes wrong while something is written, what was there before still is, and nothing half made stays."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from matplotlib.figure import Figure

from helmas_core.bridges.artefact import write_tensors
from helmas_core.errors import HelmasError, WriteError
from helmas_core.evaluation.figures import save
from helmas_core.files import remove_folder, replacing, replacing_files, swapping_folder, sweep
from helmas_core.json_files import write_text
from helmas_core.layering import load_config
from helmas_core.report.document import Document, Picture, Section
from helmas_core.report.write import write_report
from helmas_core.runs import Run, create_run
from tests.evidence import SAMPLE, evidence
from tests.faults import failing, full_from, until_it_holds

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _text(folder: Path, text: str) -> None:
    write_text(folder / "a.txt", text * 100)


def _tensors(folder: Path, text: str) -> None:
    import torch

    write_tensors(folder / "a.safetensors", {"x": torch.full((9,), float(len(text)))}, {"text": text})


def _folder(folder: Path, text: str) -> None:
    with swapping_folder(folder / "inner") as partial:
        for name in ("a", "b"):
            (partial / name).write_text(text)


def _figure(folder: Path, text: str) -> None:
    save(_drawn(text), folder / "a.png")


def _report(folder: Path, text: str) -> None:
    """With its own way of writing, and with pages and figures that take no time to make."""
    section = Section(evidence(text), [Picture("drawn", text, _drawn(text))], [], [], [])
    made = {"build": Document([section]), "html": text, "markdown": text}
    with ExitStack() as stack:
        for name, value in made.items():
            stack.enter_context(patch(f"helmas_core.report.write.{name}", lambda *_, value=value: value))
        write_report(Run(folder), {"reports": [SAMPLE | {"n": len(text)}]}, [evidence(text)])


@cache
def _drawn(text: str) -> Figure:
    return Figure(figsize=(len(text) / 10, 0.1))


def _new_run(folder: Path, text: str) -> None:
    with patch("helmas_core.runs.now", lambda: "now"):
        create_run(folder / "run", load_config(["lab"]), [text], overwrite=(folder / "run").exists())
    if text == "old":
        write_text(folder / "run/bridge.safetensors", text)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "text": _text,
    "tensors": _tensors,
    "folder": _folder,
    "figure": _figure,
    "report": _report,
    "run": _new_run,
}
FULL = {"full": errno.ENOSPC, "read-only": errno.EROFS}


@pytest.mark.parametrize("code", FULL.values(), ids=FULL.keys())
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_disk_that_fails_at_any_write_leaves_the_old_state(
    tmp_path: Path, write: Callable[[Path, str], None], code: int
) -> None:
    (place := tmp_path / "place").mkdir()
    write(place, "old")
    old, new = tree(place), _after(place, write)
    assert old != new
    found, tries = old, 0
    for disk in until_it_holds(place, code):
        with suppress(WriteError):
            write(place, "other")
        found, tries = tree(place), tries + 1
        assert not list(place.rglob(".partial-*"))
        assert all(found[name] in (old.get(name), new.get(name)) for name in found), disk.places
        begun = disk.places[-1].startswith(("replace", "rename", "fsync"))  # all is written, some may have its place
        assert found == old or begun or not disk.failed, disk.places
    assert tries > 3 and found == new


def _after(place: Path, write: Callable[[Path, str], None]) -> Tree:
    copy = shutil.copytree(place, place.with_name("copy"))
    write(copy, "other")
    return tree(copy)


@pytest.mark.parametrize("code", FULL.values(), ids=FULL.keys())
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_what_could_not_be_written_is_named(tmp_path: Path, write: Callable[[Path, str], None], code: int) -> None:
    for k in (1, 3, 5):
        with failing(tmp_path, full_from(k, code)), pytest.raises(WriteError) as caught:
            write(tmp_path, "new")
        said = str(caught.value)
        assert said.startswith(str(tmp_path)) and os.strerror(code) in said and ".partial" not in said
        assert caught.value.exit_code == 1 and "\n" not in said


def test_many_files_appear_after_all_of_them_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with replacing_files(tmp_path) as staged:
        (staged / "a").write_text("new")
        (staged / "inner").mkdir()
        (staged / "inner/b").write_text("new")
        assert (tmp_path / "a").read_text() == "old" and not (tmp_path / "inner").exists()
    assert tree(tmp_path) == {"a": b"new", "inner/b": b"new"}


def test_an_error_that_names_a_path_is_both_ours_and_the_systems(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/a: cannot be written \(.*\) — ") as caught:
        write_text(tmp_path / "file/a", "x")
    assert isinstance(caught.value, WriteError) and isinstance(caught.value, HelmasError)


DIE = """
import os, sys
from pathlib import Path
from helmas_core.files import replacing
with replacing(Path(sys.argv[1]) / "a") as path:
    path.write_text("half")
    print("READY", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_leaves_is_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"READY\n"
        (partial,) = tmp_path.iterdir()
        sweep(tmp_path)
        assert partial.exists()
        process.send_signal(signal.SIGKILL)
    assert partial.exists()
    sweep(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_writer_whose_folder_is_swept_as_it_makes_it_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    made, make = list[str](), tempfile.mkdtemp

    def unlucky(**options: Any) -> str:
        made.append(make(**options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr("helmas_core.files.tempfile.mkdtemp", unlucky)
    with replacing(tmp_path / "a") as path:
        path.write_text("x")
    assert len(made) == 2 and (tmp_path / "a").read_text() == "x"


def test_a_folder_goes_at_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    assert not any(tmp_path.iterdir())
