"""Ctrl-C and SIGTERM while training: once finishes the step and saves, twice stops now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from helmas_core.processes import count, first

CODE = 130
_STDERR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt(KeyboardInterrupt):
    """A signal that stops now; `code` is what to exit with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = exit_code(number)


class Stop:
    """What `stop_on_interrupt` gives: the signal that asked to stop, and the exit code for it."""

    number: int = signal.SIGINT

    @property
    def code(self) -> int:
        return exit_code(self.number)


@contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[Stop]:
    """The first signal sets `stop`; the second raises Interrupt. The old handlers always come back."""
    asked = Stop()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield asked
        return

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise Interrupt(number)
        asked.number = number
        stop.set()
        # not through sys.stderr: the signal may have come in the middle of a write to it
        if first() and (count() == 1 or number == signal.SIGINT):  # a launcher sends SIGTERM where another has failed
            os.write(_STDERR, b"\nstopping after this step; Ctrl-C again stops now\n")

    before = [(number, signal.signal(number, handle)) for number in _SIGNALS]
    try:
        yield asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def exit_code(number: int) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, as shells count."""
    return 128 + number
