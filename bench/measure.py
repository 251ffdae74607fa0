"""Two things timed in turn, and what the ratio of their times came to."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from helmas_core.models.hardware import clock

Work = Callable[[], object]
Times = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Ratio:
    """`slow` over `fast`, each a list of seconds of the same length; `goal` is what the ratio should reach.

    With `ceiling` the goal is an upper bound (a cost), else a lower one (a gain).
    """

    name: str
    above: str
    below: str
    slow: list[float]
    fast: list[float]
    goal: float | None = None
    ceiling: bool = False
    note: str = ""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Ratio:
        """One that `document` was made of."""
        return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})

    @property
    def repeats(self) -> list[float]:
        return [s / f for s, f in zip(self.slow, self.fast, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.repeats)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.median <= self.goal if self.ceiling else self.median >= self.goal

    def document(self) -> dict[str, Any]:
        spread = [round(min(self.repeats), 4), round(max(self.repeats), 4)]
        return {**asdict(self), "ratio": round(self.median, 4), "spread": spread, "met": self.met}


def in_turn(above: Work, below: Work, device: torch.device, repeats: int, warm: int = 1) -> Times:
    """Seconds of both, one after the other `repeats` times, so that a slow minute of the machine hits both."""
    times: Times = ([], [])
    for turn in range(-warm, repeats):
        for work, kept in zip((above, below), times, strict=True):
            begin = clock(device)
            work()
            if turn >= 0:
                kept.append(clock(device) - begin)
    return times


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@torch.no_grad()
def peak(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """What this machine does at best: FLOP/s of a square matrix product, bytes/s of a copy in memory."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.empty(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = in_turn(lambda: a @ b, lambda: target.copy_(source), device, 5)
    return 2 * size**3 / min(product), 2 * source.numel() / min(copy)
