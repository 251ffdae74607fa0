"""The cost ledger: what each arm spent, part by part, where it was spent.

Times are seconds per item, an item counting with an equal part of its batch; a GPU is waited for at both ends of every
part. `cold` is all that an answer takes, the teacher's written reasoning included; `warm` is the same where the
teacher's states are there already.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from helmas_core.handoff.examples import Example
from helmas_core.models.cache import KVCache
from helmas_core.models.hardware import GIB, clock

PARTS = ("reasoning", "teacher_prefill", "teacher_decode", "bridge", "student_prefill", "student_decode")
_TEACHERS = ("reasoning", "teacher_prefill")  # what a warm hand-off has behind it


@dataclass
class Ledger:
    """One batch's costs, filled in by the arm that runs; `told` is whether it had the reasoning, if there is any."""

    device: torch.device
    told: bool = True
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    teacher_bytes: int | None = None
    bridged_bytes: int | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = clock(self.device)
        yield
        self.seconds[name] += clock(self.device) - begin

    @contextmanager
    def generating(self, who: str) -> Iterator[Callable[[], None]]:
        """Reading up to the first token, then writing; what is yielded is to be called between the two."""
        begin = middle = clock(self.device)

        def read() -> None:
            nonlocal middle
            middle = clock(self.device)

        yield read
        self.seconds[f"{who}_prefill"] += middle - begin
        self.seconds[f"{who}_decode"] += clock(self.device) - middle


def real_bytes(cache: KVCache, dtype: torch.dtype | None = None) -> int:
    """Bytes of the real tokens of a cache, or of all teachers' caches, in its own dtype or in `dtype`."""
    tensors = [tensor for one in cache.by_teacher for tensor in (*one.keys, *one.values)]
    per_token = sum(t[0, :, 0].numel() * (dtype or t.dtype).itemsize for t in tensors)
    return per_token * int(cache.mask.sum())


@dataclass
class Costs:
    """One arm's ledgers, added up."""

    arm: str
    rows: list[dict[str, float]] = field(default_factory=list)
    moved: dict[str, int] = field(default_factory=dict)
    peak: float | None = None
    joules: float | None = None

    def add(self, ledger: Ledger, examples: Sequence[Example], peak: float | None, joules: float | None) -> None:
        each = {name: seconds / len(examples) for name, seconds in ledger.seconds.items()}
        for example in examples:
            thought = example.thought if ledger.told else None
            self.rows.append(each | ({} if thought is None else {"reasoning": thought.seconds}))
        for name, count in (("teacher", ledger.teacher_bytes), ("bridged", ledger.bridged_bytes)):
            if count is not None:
                self.moved[name] = self.moved.get(name, 0) + count
        self.peak = peak if self.peak is None else max(self.peak, peak or 0.0)
        self.joules = joules if self.joules is None else self.joules + (joules or 0.0)

    @classmethod
    def joined(cls, parts: Sequence[Costs]) -> Costs:
        """One arm's ledgers of several processes; the peak is that of the device that had the highest."""
        whole = cls(parts[0].arm)
        for part in parts:
            whole.rows += part.rows
            for name, count in part.moved.items():
                whole.moved[name] = whole.moved.get(name, 0) + count
        whole.peak = max((part.peak for part in parts if part.peak is not None), default=None)
        spent = [part.joules for part in parts if part.joules is not None]
        whole.joules = sum(spent) if spent else None
        return whole

    def summary(self, timed: bool) -> dict[str, Any]:
        """The arm's entry under `costs`; times and energy are null unless `timed`, bytes are per item.

        `warm` is null for the teacher, which reads source and question in one pass.
        """
        n = len(self.rows)
        warm = None if self.arm == "teacher" else [_total(row, without=_TEACHERS) for row in self.rows]
        return {
            "seconds": {part: _mean(self.rows, part) if timed else None for part in PARTS},
            "cold": _spread([_total(row) for row in self.rows] if timed else None),
            "warm": _spread(warm if timed else None),
            "teacher_bytes": _share(self.moved.get("teacher"), n),
            "bridged_bytes": _share(self.moved.get("bridged"), n),
            "peak_memory_gib": None if self.peak is None else round(self.peak, 3),
            "joules": round(self.joules / n, 3) if timed and self.joules is not None else None,
        }


def _total(row: dict[str, float], without: Sequence[str] = ()) -> float:
    return sum(seconds for part, seconds in row.items() if part not in without)


def _mean(rows: Sequence[dict[str, float]], part: str) -> float | None:
    """None for a part that the arm does not have."""
    found = [row[part] for row in rows if part in row]
    return round(sum(found) / len(rows), 6) if found else None


def _spread(seconds: Sequence[float] | None) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p95 = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95]).double()).tolist()
    return {"p50": round(p50, 6), "p95": round(p95, 6)}


def _share(total: int | None, n: int) -> int | None:
    return None if total is None else round(total / n)


class Gauge:
    """Peak memory and energy of a GPU between `reset` and a reading; None on a CPU, which tells neither per arm."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.meter = device, _energy_meter(device)
        self.before: float | None = None

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.before = self.meter()

    def peak(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None

    def joules(self) -> float | None:
        now = self.meter()
        return None if now is None or self.before is None else now - self.before


def _energy_meter(device: torch.device) -> Callable[[], float | None]:
    """Joules since the driver was loaded, from NVML; always None where no card, driver or library tells."""
    if device.type != "cuda":
        return lambda: None
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return lambda: None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # no driver, no permission, or a card that does not count
        return lambda: None
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
