"""Memory that is freed stays with the process, so that the next temporary finds its pages there."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from helmas_core.layering import load_config
from helmas_core.models import hardware
from helmas_core.models.heap import KEPT, keep_freed

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc that tells of its heap"),
]

# blocks that are mapped on their own, and what the heap still holds once they are free
BLOCKS = """
import ctypes
from helmas_core.models.heap import keep_freed
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
print(keep_freed() if {kept} else None)
before = libc.mallinfo2().hblks
blocks = [libc.malloc(ctypes.c_size_t({size})) for _ in range(5)]
print(libc.mallinfo2().hblks - before)
for block in blocks: libc.free(block)
print(libc.mallinfo2().fordblks)
"""


def _blocks(size: int, kept: bool) -> tuple[str, int, int]:
    told = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = [sys.executable, "-c", BLOCKS.format(kept=kept, size=size)]
    said = subprocess.run(run, env=told, capture_output=True, text=True, check=True).stdout.split()
    return said[0], int(said[1]), int(said[2])


def test_blocks_come_from_the_heap_and_stay_there() -> None:
    size = 48 * 2**20
    _, mapped, left = _blocks(size, kept=False)
    assert mapped == 5
    assert left < size
    said, mapped, left = _blocks(size, kept=True)
    assert (said, mapped) == ("True", 0)
    assert left >= 5 * size


def test_what_is_beyond_that_is_given_back() -> None:
    assert _blocks(KEPT // 4, kept=True)[2] < KEPT // 4


def test_a_cpu_keeps_what_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(hardware, "keep_freed", lambda: asked.append(True))
    hardware.resolve_hardware(load_config(["lab"], ["hardware.device=cpu"]))
    assert asked == [True]


HELD = """
import ctypes, os
from helmas_core.models.heap import give_back, keep_freed
assert keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
size = 48 * 2**20
blocks = [(libc.malloc(ctypes.c_size_t(size)), libc.malloc(ctypes.c_size_t(64))) for _ in range(4)]
for block, _ in blocks: ctypes.memset(block, 1, size)
for block, _ in blocks: libc.free(block)
before = resident()
print(give_back(), (before - resident()) / (4 * size))
"""


def test_free_pages_between_blocks_in_use_go_back() -> None:
    told = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    said = subprocess.run([sys.executable, "-c", HELD], env=told, capture_output=True, text=True, check=True).stdout
    done, share = said.split()
    assert done == "True" and float(share) > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.cpu.x=1:glibc.malloc.mmap_max=9")],
)
def test_what_the_environment_says_comes_first(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert keep_freed() is False
