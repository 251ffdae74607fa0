"""Ctrl-C while training: once finishes the step and saves, twice stops now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from helmas_core.processes import first

CODE = 130
_STDERR = 2


@contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT sets `stop`; the second raises KeyboardInterrupt. The old handler always comes back."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # not through sys.stderr: the signal may have come in the middle of a write to it
        if first():
            os.write(_STDERR, b"\nstopping after this step; Ctrl-C again stops now\n")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
