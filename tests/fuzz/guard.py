"""What a reader did with one file: whether it read or refused it, how long that took, what it allocated and touched."""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import sys
import threading
import time
import traceback
import tracemalloc
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helmas_core.errors import HelmasError

SECONDS = 5.0
TIMES = 4  # as much as the file itself
ALLOWANCE = 2**20  # what a refusal takes whatever the file's size: messages, validators, small buffers
NATIVE = 8 * 2**20  # resident pages come and go by more than Python's own count
ROOT = Path(__file__).parents[2]
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn", "pickle.find_class")
_RUNS += ("socket.connect", "socket.getaddrinfo", "ctypes.dlopen", "webbrowser.open", "code.__new__")
_MOVES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
_MAKERS = tuple(
    one.__file__ for one in (collections, dataclasses, typing)
)  # they write methods of classes of libraries
_KNOWN = tuple(str(Path(one).resolve()) for one in (sys.prefix, sys.base_prefix, ROOT))


class Hang(BaseException):
    """Not an Exception: nothing that is tested may catch it."""


@dataclass
class Outcome:
    """`fault` is None where the file was read or refused as it should be."""

    read: bool
    seconds: float
    peak: int  # bytes that Python allocated on top of what was there
    native: int  # bytes of resident memory on top
    fault: str | None = None


@dataclass
class Watch:
    """Events of the interpreter while a file is read; one per process, since an audit hook stays for good."""

    folder: str = ""
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            self._opened(arguments)
        elif event in ("exec", "compile"):
            self._compiled(event, arguments)
        elif event.startswith(_RUNS):
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event in _MOVES and not self._ours(arguments[0]):
            self.seen.append(f"{event} {arguments[0]!r:.200}")

    def _opened(self, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        if isinstance(path, int) or self._ours(path):
            return
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
        if writes or not str(os.fsdecode(path)).startswith((*_KNOWN, "/proc/", "/sys/", "/dev/null", "/usr/")):
            self.seen.append(f"open {path!r:.200} {flags:o}")

    def _compiled(self, event: str, arguments: tuple[Any, ...]) -> None:
        code = arguments[0] if event == "exec" else arguments[1]
        name = getattr(code, "co_filename", code)
        text = os.fsdecode(name) if isinstance(name, str | bytes) else repr(name)
        if text == "<string>" and sys._getframe(2).f_code.co_filename in _MAKERS:
            return
        if not text.startswith((*_KNOWN, "<frozen")):
            self.seen.append(f"{event} {text:.200}")

    def _ours(self, path: Any) -> bool:
        return isinstance(path, int) or os.path.abspath(os.fsdecode(path)).startswith(self.folder)  # noqa: PTH100


_WATCH: list[Watch] = []


def watch(folder: Path) -> Watch:
    """The process's watch, over `folder`."""
    if not _WATCH:
        _WATCH.append(Watch())
        sys.addaudithook(_WATCH[0])
    _WATCH[0].folder = str(folder.resolve())
    return _WATCH[0]


def observe(read: Callable[[], object], size: int, over: Watch) -> Outcome:
    """Run one reader over a file of `size` bytes."""
    over.seen.clear()
    modules, resident = len(sys.modules), _resident()
    _forget_peak()
    tracemalloc.start()
    begin = time.process_time()
    found = fault = _guarded(read, over)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    native = _grown(resident)
    if found == "" and (peak > TIMES * size + ALLOWANCE or native > TIMES * size + NATIVE):
        fault = f"allocated {peak:,} bytes ({native:,} resident) before it refused {size:,}"
    if over.seen:
        fault = f"executed or touched: {over.seen[0]}"
    if len(sys.modules) > modules and (strange := _strange(modules)):
        fault = f"imported {strange}"
    return Outcome(found is None, seconds, peak, native, fault or None)


def _guarded(read: Callable[[], object], over: Watch) -> str | None:
    """None: read; "": refused by a HelmasError of one line; else what went wrong."""
    try:
        with _alarm():
            over.armed = True
            try:
                read()
            finally:
                over.armed = False
    except HelmasError as error:
        return "" if "\n" not in str(error).strip() else f"a refusal of several lines: {str(error)[:300]}"
    except Hang:
        return f"still reading after {SECONDS:g} s"
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
    return None


@contextmanager
def _alarm() -> Iterator[None]:
    """Hang after SECONDS of work or of waiting for something; not of waiting for a processor that others use."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    begin = time.monotonic() - _queued()

    def ring(*_: object) -> None:
        if time.monotonic() - _queued() - begin > SECONDS:
            raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS / 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _queued() -> float:
    """Seconds for which this thread was ready and did not run; 0 where the system does not tell."""
    with suppress(OSError, IndexError), open("/proc/thread-self/schedstat", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) / 1e9
    return 0.0


def _strange(before: int) -> str | None:
    """A module that is new and comes from elsewhere than the environment or this repository."""
    new = list(sys.modules.items())[before:]
    files = {name: getattr(module, "__file__", None) for name, module in new}
    return next((name for name, file in files.items() if file and not file.startswith(_KNOWN)), None)


def _forget_peak() -> None:
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - thousands of times
        file.write("5")


def _resident() -> tuple[int, int, int]:
    """Bytes of resident memory: now, at most since `_forget_peak`, and of files that are mapped."""
    with suppress(OSError), open("/proc/self/status", "rb") as file:  # noqa: PTH123
        text = file.read()
        now, most, mapped = (text.partition(name)[2].split(None, 1)[0] for name in (b"VmRSS:", b"VmHWM:", b"RssFile:"))
        return int(now) * 1024, int(most) * 1024, int(mapped) * 1024
    return 0, 0, 0


def _grown(before: tuple[int, int, int]) -> int:
    """By how much memory rose at most; pages of libraries that were touched for the first time do not count."""
    after = _resident()
    return max(0, after[1] - before[0] - max(0, after[2] - before[2]))
