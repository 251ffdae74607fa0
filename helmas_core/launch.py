"""`--processes N`: the same command line in N processes of this machine, through accelerate's launcher.

The launcher starts them, lets them find each other and ends all of them when one fails. What a person at a terminal
needs beyond that is here: each signal reaches every process once, and the exit code is that of the one that failed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from helmas_core.errors import TrainingError
from helmas_core.processes import LostError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK = 0.1  # seconds between two looks at what was asked for


def launch(module: str, arguments: Sequence[str], processes: int) -> int:
    """Run `python -m module arguments` in `processes` processes; returns the exit code of the first that failed, or 0.

    TrainingError for one that was killed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL + 1)  # the processes speak for themselves
    given = launch_command_parser().parse_args([*_settings(processes), "--module", module, *arguments])
    ended: list[BaseException] = []

    def run() -> None:
        try:
            launch_command(given)
        except BaseException as error:
            ended.append(error)

    # not in the main thread: there the launcher would take the signals, and ask all processes to end within seconds
    thread = threading.Thread(target=run, daemon=True)
    with _passed_on() as asked:
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK)
            _pass_on(asked)
    return _exit_code(ended[0]) if ended else 0


def _settings(processes: int) -> list[str]:
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes)
    given = {
        "num_processes": processes,
        "num_machines": 1,
        "gpu_ids": "all",
        "main_process_port": 0,  # any that is free
        "num_cpu_threads_per_process": threads,
        "mixed_precision": "no",  # train.amp says
        "dynamo_backend": "no",
    }
    return ["--multi_gpu", *(f"--{name}={value}" for name, value in given.items())]  # its launcher of several, CPUs too


@contextmanager
def _passed_on() -> Iterator[list[int]]:
    """Signals that come are noted, not obeyed: the processes decide what they mean."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(asked: list[int]) -> None:
    """Every process gets what was asked for, once; what was asked before there were any waits for them."""
    import psutil

    workers = psutil.Process().children()
    while asked and workers:
        number = asked.pop(0)
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)


def _exit_code(ended: BaseException) -> int:
    """That of the first process that failed: the others follow it, or were ended for it."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(ended, ChildFailedError):
        raise ended
    codes = {int(rank): int(failure.exitcode) for rank, failure in ended.failures.items()}
    if told := [code for code in codes.values() if code > 0 and code != LostError.exit_code]:
        return told[0]
    return _killed(codes)


def _killed(codes: Mapping[int, int]) -> int:
    """None of them told what happened: some were ended from outside."""
    signals = {rank: signal.Signals(-code).name for rank, code in codes.items() if code < 0}
    first = next((rank for rank, name in signals.items() if name != "SIGTERM"), None)
    if first is None and signals:
        return 128 + signal.SIGTERM
    what = "the processes lost each other" if first is None else f"process {first} was ended by {signals[first]}"
    raise TrainingError(what, fix="look for lack of memory or a broken connection; --resume goes on with a run")
