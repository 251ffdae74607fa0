"""The store's folder: foreign, broken and left-over files, a full disk, and several processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helmas_core.errors import ConfigError
from helmas_core.files import scratch
from helmas_core.handoff.store import Store

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _entry(seed: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"data": torch.full((2, size), float(seed))}


INDEX = '{"format": 1, "entries": {"%s": {"data": ["float32", [2, 1000]]}}}' % ("a" * 64)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"helmas_store": "{"},
        {"helmas_store": INDEX.replace('"format": 1', '"format": 99')},
        {"helmas_store": INDEX.replace("a" * 64, "../../etc/passwd")},
        {"helmas_store": INDEX.replace("1000", "1001")},
        {"helmas_store": INDEX.replace('"data"', '"more"')},
        {"helmas_store": INDEX.replace("float32", "float16")},
    ],
)
def test_a_foreign_or_lying_shard_is_skipped(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({f"{'a' * 64}.data": torch.zeros(2, 1000)}, tmp_path / f"{'b' * 64}.safetensors", metadata=metadata)
    notes: list[str] = []
    store = Store(tmp_path, 1.0, notes.append)
    assert store.layout("a" * 64) is None and store.get("a" * 64) is None
    assert len(notes) == 1 and store.bytes() > 0
    store.put({"c" * 64: _entry(1)})
    assert Store(tmp_path, 1.0).get("c" * 64) is not None


def test_a_shard_of_that_name_would_have_been_read(tmp_path: Path) -> None:
    save_file({f"{'a' * 64}.data": torch.zeros(2, 1000)}, tmp_path / f"{'b' * 64}.safetensors", {"helmas_store": INDEX})
    assert Store(tmp_path, 1.0).get("a" * 64) is not None


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "model.safetensors", ".tmpAbCdEf", f"{'B' * 64}.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / f"{'d' * 64}.safetensors").mkdir()
    before, notes = sorted(tmp_path.iterdir()), list[str]()
    store = Store(tmp_path, 1.0, notes.append)
    assert notes == [] and store.bytes() == 0
    assert sorted(tmp_path.iterdir()) == before


def test_leftovers_are_swept_whatever_the_clock_says_and_a_living_writers_are_not(tmp_path: Path) -> None:
    (dead := tmp_path / ".partial-abcdefgh").mkdir()
    (dead / "x").write_text("half")
    with scratch(tmp_path) as alive:
        (alive / "x").write_text("half")
        for path in (alive / "x", alive):
            os.utime(path, (1, 1))
        Store(tmp_path, 1.0)
        assert not dead.exists() and (alive / "x").exists()
    assert not alive.exists()


def test_a_folder_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"train\.store"):
        Store(tmp_path / "file", 1.0)


def test_a_disk_that_is_full_stops_the_writing_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    notes: list[str] = []
    store = Store(tmp_path, 1.0, notes.append)
    store.put({"a" * 64: _entry(1)})
    monkeypatch.setattr("helmas_core.handoff.store.save_file", full)
    store.put({"b" * 64: _entry(2)})
    assert "No space" in notes[0] and store.closed
    assert store.get("a" * 64) is not None and store.get("b" * 64) is None
    assert len(list(tmp_path.iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
import torch
from helmas_core.handoff.store import Store
torch.set_num_threads(1)
store = Store(Path(sys.argv[1]), 1.0)
print("ready", flush=True)
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    store.put({format(i, "064x"): {"data": torch.full((2, 300_000), float(i))}})
    print(i, flush=True)
"""


def _writer(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(last)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _values(store: Store, numbers: Sequence[int]) -> list[float | None]:
    entries = [store.get(format(number, "064x")) for number in numbers]
    return [None if e is None else e["data"].unique().item() for e in entries]


def test_two_processes_write_one_folder(tmp_path: Path) -> None:
    early = Store(tmp_path, 1.0)
    writers = [_writer(tmp_path, 0, 30), _writer(tmp_path, 20, 50)]  # ten entries are both's
    assert [writer.communicate(timeout=120)[0].count("\n") for writer in writers] == [31, 31]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert _values(early, [3]) == [None]
    early.refresh()
    for store in (early, Store(tmp_path, 1.0)):
        assert _values(store, range(50)) == [float(i) for i in range(50)]
    assert len(list(tmp_path.iterdir())) == 50


@pytest.mark.slow
def test_a_killed_writer_loses_the_shard_in_progress_and_nothing_else(tmp_path: Path) -> None:
    chance, done = random.Random(0), 0
    for _ in range(5):
        writer = _writer(tmp_path, done, 10**6)
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.3))
        writer.kill()
        said = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        done = max([done, *(number + 1 for number in said)])
        notes: list[str] = []
        store = Store(tmp_path, 1.0, notes.append)
        assert _values(store, range(done)) == [float(i) for i in range(done)]
        assert notes == []
        assert len(_shards(tmp_path)) in (done, done + 1)  # killed between the rename and saying so
        others = {path.name[:9] for path in tmp_path.iterdir()} - {path.name[:9] for path in _shards(tmp_path)}
        assert others <= {".partial-"}  # nothing that a later sweep would not know
    assert done > 5
