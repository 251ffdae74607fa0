"""The store: what comes back, how much smaller forms lose, and every way in which a folder can be in disorder."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helmas_core.errors import ConfigError
from helmas_core.handoff import packing
from helmas_core.handoff.packing import Form
from helmas_core.handoff.shelf import Ids, Shelf
from helmas_core.handoff.states import States
from helmas_core.handoff.store import GIB, Store
from helmas_core.models.cache import KVCache
from helmas_core.models.pair import Pair
from tests.tiny import tiny_model, tiny_pair

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
SOURCES: list[Ids] = [tuple(range(5, 5 + n)) for n in (3, 4, 6, 7, 9, 12, 13)]


def _states(pair: Pair, folder: Path, form: Form = "model", gib: float = 1.0, memory: float = 0.0) -> States:
    shelf = Shelf(Store(folder, gib), pair, pair.teacher, form)
    return States(pair.teacher, pair.pad, memory, shelf)


def _equal(ours: KVCache, theirs: KVCache) -> bool:
    pairs = zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True)
    same = torch.equal(ours.mask, theirs.mask) and torch.equal(ours.positions, theirs.positions)
    return same and all(torch.equal(a, b) for a, b in pairs)


def _entry(seed: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"data": torch.full((2, size), float(seed))}


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


class Refuses(torch.nn.Module):
    """In a model's place where no model may run."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the model runs")


@pytest.fixture
def no_teacher(unequal: Pair, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Call `undo` to let it run again."""
    monkeypatch.setattr(unequal.teacher.model.base_model, "forward", Refuses().forward)
    return monkeypatch


# --- what comes back


@pytest.mark.parametrize("memory", [0.0, 1e9])
def test_what_is_read_back_is_what_memory_would_hold(unequal: Pair, tmp_path: Path, memory: float) -> None:
    plain = States(unequal.teacher, unequal.pad, 1e9)
    plain.fill(SOURCES, 3)
    cold = _states(unequal, tmp_path, memory=memory)
    cold.fill(SOURCES, 3)
    warm = _states(unequal, tmp_path, memory=memory)
    warm.fill(SOURCES, 3)
    picked = [SOURCES[5], SOURCES[0], SOURCES[6]]
    assert _equal(cold.read(picked), plain.read(picked))
    assert _equal(warm.read(picked), plain.read(picked))
    assert warm.known(SOURCES) == len(SOURCES) and len(_shards(tmp_path)) == 3


def test_a_filled_store_needs_no_model(unequal: Pair, tmp_path: Path, no_teacher: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="the model runs"):
        _states(unequal, tmp_path).fill(SOURCES, 3)
    no_teacher.undo()
    _states(unequal, tmp_path).fill(SOURCES, 3)
    no_teacher.setattr(unequal.teacher.model.base_model, "forward", Refuses().forward)
    warm, counted = _states(unequal, tmp_path), []
    warm.fill(SOURCES, 3, counted.append)
    assert warm.read(SOURCES).length == 13
    assert counted == [len(SOURCES)]


def test_a_fill_that_was_cut_off_ends_in_the_same_digits(unequal: Pair, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _states(unequal, whole).fill(SOURCES, 3)

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _states(unequal, cut).fill(SOURCES, 3, stop)
    assert len(_shards(cut)) == 1
    _states(unequal, cut).fill(SOURCES, 3)
    assert [path.name for path in _shards(cut)] == [path.name for path in _shards(whole)]
    assert _equal(_states(unequal, cut).read(SOURCES), _states(unequal, whole).read(SOURCES))


def test_new_sources_join_known_ones(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path).fill(SOURCES[::2], 2)
    more = _states(unequal, tmp_path)
    assert more.known(SOURCES) == 4
    counted: list[int] = []
    more.fill(SOURCES, 2, counted.append)
    assert counted == [4, 2, 1]
    mixed = _states(unequal, tmp_path).read([*SOURCES, (90, 91)])  # the last is in no store
    expected = States(unequal.teacher, unequal.pad).read([*SOURCES, (90, 91)])
    for ours, theirs in zip(mixed.keys, expected.keys, strict=True):
        real = expected.mask[:, None, :, None]
        torch.testing.assert_close(ours * real, theirs * real, rtol=1e-4, atol=1e-4)


def test_only_the_same_model_tokenizer_and_form_share_states(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path).fill(SOURCES, 3)
    sibling = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    with torch.no_grad():
        sibling.model.norm.weight.add_(0.25)
    theta = {"rope_type": "default", "rope_theta": 500.0}
    turned = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1, rope_parameters=theta)
    same = tiny_model("qwen3", layers=5, heads=4, kv_heads=4, head_dim=16, seed=1)
    known = [
        _states(tiny_pair(model, unequal.student.model), tmp_path).known(SOURCES) for model in (same, sibling, turned)
    ]
    assert known == [len(SOURCES), 0, 0]
    assert _states(unequal, tmp_path, "bf16").known(SOURCES) == 0
    student = Shelf(Store(tmp_path, 1.0), unequal, unequal.student, "model")
    assert States(unequal.student, 0, 0, student).known(SOURCES) == 0


# --- smaller forms


def _row(dtype: torch.dtype, length: int = 40) -> KVCache:
    """Channels of very different means and widths, as real keys have."""
    generator = torch.Generator().manual_seed(0)
    means, widths = (torch.randn(4, 3, 1, 8, generator=generator) for _ in range(2))
    data = [(torch.randn(4, 3, length, 8, generator=generator) * widths.exp() + 20 * means).to(dtype) for _ in "kv"]
    mask = torch.ones(1, length, dtype=torch.bool)
    return KVCache(data[0].split(1), data[1].split(1), mask, torch.arange(length)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_models_own_dtype_loses_nothing(dtype: torch.dtype) -> None:
    row = _row(dtype)
    assert _equal(packing.unpack(packing.pack(row, "model"), dtype), row)
    if dtype == torch.bfloat16:
        assert _equal(packing.unpack(packing.pack(row, "bf16"), dtype), row)


def test_bf16_keeps_a_two_hundred_and_fifty_sixth() -> None:
    row = _row(torch.float32)
    back = packing.unpack(packing.pack(row, "bf16"), torch.float32)
    errors = [((a - b).abs() / a.abs()).max().item() for a, b in zip(row.keys, back.keys, strict=True)]
    assert 0 < max(errors) <= 1 / 256


@pytest.mark.parametrize("length", [1, 2, 40])
def test_fp8_keeps_a_sixteenth_of_what_differs_from_the_channels_mean(length: int) -> None:
    row = _row(torch.float32, length)
    back = packing.unpack(packing.pack(row, "fp8"), torch.float32)
    errors = []
    for ours, theirs in zip((*row.keys, *row.values), (*back.keys, *back.values), strict=True):
        centred = ours - ours.mean(2, keepdim=True)
        scale = centred.abs().amax(2, keepdim=True) / 448
        rounding = 4e-7 * ours.abs()  # of fp32 itself, where the mean is large
        assert ((ours - theirs).abs() <= centred.abs() / 16 + scale / 1024 + rounding).all()
        errors.append(((ours - theirs).norm() / centred.norm().clamp(min=1e-6)).item())
    assert max(errors) < 0.04
    assert length < 3 or max(errors) > 0.001  # two values are the ends of the scale, and exact


def test_fp8_takes_channels_that_never_change() -> None:
    constant = (torch.full((1, 2, 5, 4), 200.0), torch.zeros(1, 2, 5, 4))
    row = KVCache(constant, constant, torch.ones(1, 5, dtype=torch.bool), torch.arange(5)[None])
    assert _equal(packing.unpack(packing.pack(row, "fp8"), torch.float32), row)


@pytest.mark.parametrize("form", ["model", "bf16", "fp8"])
@pytest.mark.parametrize("memory", [0.0, 1e9])
def test_what_is_kept_in_a_smaller_form_is_used_so_from_the_start(
    unequal: Pair, tmp_path: Path, form: Form, memory: float
) -> None:
    cold = _states(unequal, tmp_path, form, memory=memory)
    cold.fill(SOURCES, 3)
    warm = _states(unequal, tmp_path, form, memory=memory)
    warm.fill(SOURCES, 3)
    assert _equal(cold.read(SOURCES), warm.read(SOURCES))


def test_smaller_forms_are_smaller() -> None:
    row = _row(torch.float32, 400)
    sizes = [sum(t.nbytes for t in packing.pack(row, form).values()) for form in ("model", "bf16", "fp8")]
    assert sizes[1] * 2 == sizes[0] and sizes[2] < 0.27 * sizes[0]


# --- disorder


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_truncated_shard_is_skipped_and_replaced(unequal: Pair, tmp_path: Path, kept: int) -> None:
    states = _states(unequal, tmp_path)
    states.fill(SOURCES, 3)
    expected, victim = states.read(SOURCES), _shards(tmp_path)[0]
    victim.write_bytes(victim.read_bytes()[:kept])
    notes: list[str] = []
    again = States(
        unequal.teacher, unequal.pad, 0, Shelf(Store(tmp_path, 1.0, notes.append), unequal, unequal.teacher, "model")
    )
    assert again.known(SOURCES) < len(SOURCES)
    assert len(notes) == 1 and victim.name[:12] in notes[0] and "computed again" in notes[0]
    again.fill(SOURCES, 3)
    assert _equal(_states(unequal, tmp_path).read(SOURCES), expected)
    assert len(_shards(tmp_path)) == 3


def test_a_shard_that_breaks_under_a_reader_is_computed_again(unequal: Pair, tmp_path: Path) -> None:
    states = _states(unequal, tmp_path)
    states.fill(SOURCES, 3)
    expected = states.read(SOURCES)
    reader = _states(unequal, tmp_path)
    for path in _shards(tmp_path):
        path.unlink()
    assert reader.known(SOURCES) == len(SOURCES)
    torch.testing.assert_close(reader.read(SOURCES).keys, expected.keys, rtol=1e-4, atol=1e-4)
    assert reader.known(SOURCES) == 0


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


def test_old_leftovers_are_swept_and_a_living_writers_are_not(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".partial-abcdefgh", tmp_path / ".partial-ijklmnop"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "x").write_text("half")
    long_ago = time.time() - 7200
    os.utime(dead / "x", (long_ago, long_ago))
    os.utime(dead, (long_ago, long_ago))
    os.utime(alive, (long_ago, long_ago))  # but its file has just grown
    Store(tmp_path, 1.0)
    assert not dead.exists() and (alive / "x").exists()


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


def test_a_store_that_goes_away_under_a_writer_costs_only_time(unequal: Pair, tmp_path: Path) -> None:
    states = _states(unequal, tmp_path / "store", memory=1e9)
    shutil.rmtree(tmp_path / "store")
    states.fill(SOURCES[:1], 3)
    assert states.read(SOURCES[:1]).length == 3
    assert _states(unequal, tmp_path / "store").known(SOURCES) == 1


# --- the budget


def test_a_full_store_takes_nothing_more_and_is_read_on(unequal: Pair, tmp_path: Path) -> None:
    _states(unequal, tmp_path / "all").fill(SOURCES, 3)
    sizes = [path.stat().st_size for path in _shards(tmp_path / "all")]
    budget = (sum(sizes) - 100) / GIB
    store = Store(tmp_path / "some", budget, (notes := list[str]()).append)
    cold = States(unequal.teacher, unequal.pad, 1e9, Shelf(store, unequal, unequal.teacher, "model"))
    cold.fill(SOURCES, 3)
    assert store.closed and store.bytes() <= budget * GIB
    assert len(notes) == 1 and "train.store_gib" in notes[0]
    assert cold.known(SOURCES) == 6 and len(cold.kept) == 7
    warm = _states(unequal, tmp_path / "some", gib=budget, memory=1e9)
    warm.fill(SOURCES, 3)
    assert _equal(cold.read(SOURCES), warm.read(SOURCES))


def test_without_any_room_the_model_is_not_asked(unequal: Pair, tmp_path: Path, no_teacher: pytest.MonkeyPatch) -> None:
    states = _states(unequal, tmp_path)
    assert states.shelf is not None
    states.shelf.store.closed = True
    counted: list[int] = []
    states.fill(SOURCES, 3, counted.append)
    assert sum(counted) == len(SOURCES)


# --- several processes

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
