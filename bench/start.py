"""How soon the command line answers, and how long the demonstration trains: seconds over one second."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch

from bench.measure import Ratio, in_turn

CPU = torch.device("cpu")
COMPLETE = {"_HELMAS_COMPLETE": "complete_bash", "COMP_WORDS": "helmas tr", "COMP_CWORD": "1"}
PROGRAM = "import sys; sys.argv[0] = 'helmas'; from helmas_cli.app import main; sys.exit(main())"


def call(*words: str, **more: str) -> None:
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env={**os.environ, **more}, capture_output=True, check=False
    )


def command_line(repeats: int) -> Iterator[Ratio]:
    for name, goal, words, more in (
        ("helmas --help", 0.3, ("--help",), {}),
        ("completion of a word", 0.2, (), COMPLETE),
    ):
        times, _ = in_turn(lambda words=words, more=more: call(*words, **more), lambda: None, CPU, repeats)
        yield Ratio(name, "seconds", "1 s", times, [1.0] * repeats, goal, ceiling=True)


def lab_training() -> Iterator[Ratio]:
    """The training of `make demo`, without the evaluation after it."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ("train", "-q", "-p", "lab", "-s", "train.eval_samples=0", "-o", f"{scratch}/run")
        times, _ = in_turn(lambda: call(*words), lambda: None, CPU, 1, warm=0)
        yield Ratio("lab demo, training only", "seconds", "1 s", times, [1.0], 60.0, ceiling=True)
