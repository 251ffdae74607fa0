"""Kill a lab training over and over, and see that it comes out as if nothing had been: `python -m tests.killer`.

Each training is killed (SIGKILL) at a random moment of its life, or at a random write, and resumed, until it is done;
then its weights, its best bridge and its metrics must equal those of a training that nobody killed, bit for bit. So it
goes on until `--kills` kills have been made. Exit code 0 only if all are equal.

With `--fork` trainings are forks of a process that has imported the libraries, so that kills fall into the training
itself; without it they are processes of their own, and most kills fall into their imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from helmas_core.runs import Run, read_metrics
from helmas_core.training import checkpoint
from tests.faults import failing, killed_at

EVERY = 3  # steps between checkpoints
SETTINGS = {
    "train.steps": 14,
    "train.batch": 4,
    "train.calibration_items": 16,
    "train.checkpoint_every": EVERY,
    "train.eval_every": 7,
    "train.eval_samples": 2,
    "train.log_every": 1,
    "data.limit": 40,
    "eval.batch": 4,
    "eval.max_new_tokens": 3,
}
WALL_CLOCK = ("seconds", "tokens_per_second")


@dataclass
class Tally:
    """What was done, and the most steps that were ever done twice."""

    kills: int = 0
    resumes: int = 0
    starts: int = 0
    trainings: int = 0
    longest: int = 0
    unequal: list[str] = field(default_factory=list)


def command(run: Path, resume: bool) -> list[str]:
    sets = [word for key, value in SETTINGS.items() for word in ("-s", f"{key}={value}")]
    return ["train", "-p", "lab", "-q", "-o", str(run), *sets, *(["--resume"] if resume else [])]


def start(argv: Sequence[str], run: Path, log: Path, fork: bool, kill_at_write: int | None = None) -> int:
    """A training in a process of its own, which kills itself at a write if it is told to; its process id."""
    if (pid := os.fork()) != 0:
        return pid
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    words = [*argv] if kill_at_write is None else [*argv, "--kill-at-write", str(kill_at_write)]
    if not fork:
        os.execv(sys.executable, [sys.executable, "-m", "tests.killer", "--child", str(run), *words])
    os._exit(child(run, words))


def child(run: Path, words: Sequence[str]) -> int:
    """`helmas` with these words; the last two may name the write at which it dies. Its exit code, and how many writes
    it made, in a file beside the run."""
    from helmas_cli.app import main

    argv, k = ([*words[:-2]], int(words[-1])) if "--kill-at-write" in words else ([*words], None)
    if k is None:
        return main(argv)
    with failing(run, killed_at(k)) as disk:
        code = main(argv)
    run.with_suffix(".writes").write_text(str(disk.count))
    return code


def wait(pid: int, life: float | None) -> tuple[int, float]:
    """(exit code, negative for a signal; CPU seconds) of a process that is killed once it has used `life` of them."""
    process, used = psutil.Process(pid), 0.0
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used
        used = sum(process.cpu_times()[:2])
        if life is not None and used >= life:
            os.kill(pid, signal.SIGKILL)
            life = None
        time.sleep(0.003)


def result(run: Run) -> dict[str, Any]:
    """What a training gave, without what a clock says."""
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {
        "bridge": checkpoint.sha256(run.bridge),
        "best": checkpoint.sha256(run.checkpoints / checkpoint.BEST),
        "metrics": [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in rows],
        "checkpoints": [path.name for path in checkpoint.steps(run.checkpoints)],
    }


def redo(run: Run) -> int:
    """How many steps a resumed run will do again: every step was logged."""
    whole = checkpoint.newest(run.checkpoints)
    done = max((row["step"] for row in read_metrics(run.metrics)), default=0)
    return done - (int(whole.name[5:]) if whole else 0)


def drill(folder: Path, kills: int, seed: int, fork: bool, writes: float, say: Callable[[str], None]) -> Tally:
    """Train once in peace, then with `kills` kills in all, of which a share of `writes` falls on a write."""
    rng, tally, log = random.Random(seed), Tally(), folder / "log"
    whole = Run(folder / "whole")
    code, life = wait(start(command(whole.path, False), whole.path, log, fork, 10**9), None)
    if code:
        raise SystemExit(f"the training that nobody killed failed: {log.read_text()}")
    count = int(whole.path.with_suffix(".writes").read_text())
    say(f"uninterrupted: {life:.1f} s of CPU, {count} writes")
    expected = result(whole)
    while tally.kills < kills:
        run = Run(folder / f"killed-{tally.trainings}")
        while not _done(run, (rng, life, count, writes), fork, log, tally):
            pass
        tally.trainings += 1
        found = result(run)
        if different := [key for key in expected if found[key] != expected[key]]:
            tally.unequal.append(f"{run.name}: {', '.join(different)}")
        else:
            shutil.rmtree(run.path)
        say(f"{tally}")
    return tally


def _done(run: Run, chance: tuple[random.Random, float, int, float], fork: bool, log: Path, tally: Tally) -> bool:
    """Start or resume `run` with one kill before it; True if it was done before that."""
    rng, life, count, writes = chance
    resume = (run.path / "manifest.json").exists() and (run.path / "config.json").exists()
    k, moment = (rng.randint(1, count), None) if rng.random() < writes else (None, rng.uniform(0, life))
    tally.resumes += resume
    tally.starts += not resume
    code, _ = wait(start(command(run.path, resume), run.path, log, fork, k), moment)
    if code == -signal.SIGKILL:
        tally.kills += 1
        if run.metrics.exists():
            tally.longest = max(tally.longest, redo(run))
        return False
    if code:
        raise SystemExit(f"exit code {code}: {log.read_text()[-2000:]}")
    return True


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        return child(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m tests.killer", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writes", type=float, default=0.5, help="share of the kills that fall on a write")
    parser.add_argument("--fork", action="store_true", help="fork trainings from a process with the libraries in it")
    parser.add_argument("--out", type=Path, help="folder for the runs; kept")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="helmas-kill-"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", flush=True)

    if given.fork:
        for name in ("models.loading", "training.session"):
            import_module(f"helmas_core.{name}")
    tally = drill(folder, given.kills, given.seed, given.fork, given.writes, say)
    print(f"{tally.kills} kills, {tally.resumes} resumes, {tally.starts} starts, {tally.trainings} trainings")
    print(f"longest redo: {tally.longest} steps (a checkpoint every {EVERY})")
    print("all equal" if not tally.unequal else f"UNEQUAL: {tally.unequal}")
    return 1 if tally.unequal else 0


if __name__ == "__main__":
    sys.exit(main())
