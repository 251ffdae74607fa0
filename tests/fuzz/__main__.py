"""`python -m tests.fuzz --count 100000 --seed 0`: harm valid files and see that each is read or refused in one line.

The corpus and every harm follow from the seed. A failure is kept in --keep with the line that repeats it; exit 1.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

from tests.fuzz.corpus import Format, formats
from tests.fuzz.guard import ALLOWANCE, Outcome, observe, watch
from tests.fuzz.mutate import mutate

STRIDE = 1000
HEADROOM = 2 * 2**30  # bytes of address space beyond what is in use: an absurd allocation fails instead of swapping


@dataclass
class Tally:
    """What became of one format's files. `ratio`: most bytes beyond ALLOWANCE per byte of a file that was refused."""

    files: int = 0
    read: int = 0
    ratio: float = 0.0
    peak: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, found: Outcome, size: int) -> None:
        self.files += 1
        self.read += found.read
        self.slowest = max(self.slowest, found.seconds)
        self.seconds += found.seconds
        if found.fault is None and not found.read:
            self.peak = max(self.peak, found.peak)
            self.ratio = max(self.ratio, (found.peak - ALLOWANCE) / max(1, size))
        if found.fault:
            self.faults[found.fault] += 1

    def join(self, other: Tally) -> None:
        self.files, self.read = self.files + other.files, self.read + other.read
        self.ratio, self.peak = max(self.ratio, other.ratio), max(self.peak, other.peak)
        self.slowest, self.seconds = max(self.slowest, other.slowest), self.seconds + other.seconds
        self.faults += other.faults


class Fuzzer:
    """Whole files of every format in `folder`, harmed one at a time; failures are copied to `keep`."""

    def __init__(self, folder: Path, seed: int, only: str = "", keep: Path | None = None) -> None:
        self.folder, self.seed, self.keep = folder, seed, keep
        self.formats, self.whole = list(formats(only)), dict[str, dict[str, bytes]]()
        self.tallies = {one.name: Tally() for one in self.formats}
        for one in self.formats:
            place = self._place(one)
            place.mkdir(parents=True)
            one.make(place)
            self.whole[one.name] = {name: (place / name).read_bytes() for name in one.names}
            one.read(place)  # what is read must be whole, and what is imported lazily must be there
        self.watch = watch(folder)

    def _place(self, one: Format) -> Path:
        return self.folder / one.name.replace(" ", "-").replace(":", "")

    def run(self, count: int, first: int = 0) -> None:
        for index in range(first, first + count):
            self.once(index)

    def once(self, index: int) -> Outcome:
        """The harm number `index`: all of it follows from the seed."""
        chance = Random(f"{self.seed}/{index}")
        one = chance.choices(self.formats, [each.share for each in self.formats])[0]
        name = chance.choice(one.names)
        whole, others = self.whole[one.name][name], list(self.whole[one.name].values())
        others += self.whole[chance.choice(self.formats).name].values()
        kind = one.kind if not name.endswith(".json") else "json"
        harmed, path = mutate(chance, whole, others, kind), self._place(one) / name
        path.write_bytes(harmed)
        try:
            found = observe(lambda: one.read(self._place(one)), len(harmed), self.watch)
        finally:
            path.write_bytes(whole)
        self.tallies[one.name].add(found, len(harmed))
        if found.fault and self.keep:
            self._keep(one, index, name, harmed, found.fault)
        return found

    def _keep(self, one: Format, index: int, name: str, harmed: bytes, fault: str) -> None:
        assert self.keep is not None
        self.keep.mkdir(parents=True, exist_ok=True)
        stem = self.keep / f"{one.name.replace(' ', '-').replace(':', '')}-{index}"
        stem.with_suffix(".bin").write_bytes(harmed)
        again = f"python -m tests.fuzz --seed {self.seed} --first {index} --count 1"
        stem.with_suffix(".txt").write_text(f"{name}\n{fault}\n{again}\n")


def table(tallies: dict[str, Tally]) -> str:
    words = ("files", "read", "refused", "faults", "peak KiB", "ratio", "slowest s", "mean ms")
    head = f"{'format':<18}" + "".join(f"{word:>10}" for word in words)
    rows = [
        f"{name:<18}{t.files:>10}{t.read:>10}{t.files - t.read:>10}{t.faults.total():>10}"
        f"{t.peak / 1024:>10.0f}{max(0.0, t.ratio):>10.2f}{t.slowest:>10.3f}{1000 * t.seconds / max(1, t.files):>10.2f}"
        for name, t in tallies.items()
    ]
    faults = [f"{name}: {count} x {fault}" for name, t in tallies.items() for fault, count in t.faults.most_common()]
    return "\n".join([head, *rows, *faults])


def limit_memory() -> None:
    """Let whatever asks for far more than there is fail at once."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))


def part(asked: argparse.Namespace, first: int, count: int) -> dict[str, Tally]:
    """`count` harms in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), asked.seed, asked.only, asked.keep)
        limit_memory()
        gc.freeze()
        for begin in range(first, first + count, STRIDE):
            fuzzer.run(min(STRIDE, first + count - begin), begin)
            faults = sum(tally.faults.total() for tally in fuzzer.tallies.values())
            print(f"{begin - first + STRIDE} of {count}, {faults} faults", file=sys.stderr, flush=True)
    return fuzzer.tallies


def joined(parts: list[dict[str, Tally]]) -> dict[str, Tally]:
    """The tallies of several processes as one."""
    whole = {name: Tally() for name in parts[0]}
    for name, tally in whole.items():
        for one in (each[name] for each in parts):
            tally.join(one)
    return whole


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    words.add_argument("--count", type=int, default=2000)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--first", type=int, default=0, help="number of the first harm")
    words.add_argument("--only", default="", help="part of a format's name")
    words.add_argument("--keep", type=Path, help="folder for what fails")
    words.add_argument("--processes", type=int, default=1)
    asked = words.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    borders = [asked.first + asked.count * i // asked.processes for i in range(asked.processes + 1)]
    slices = [(asked, begin, end - begin) for begin, end in pairwise(borders)]
    with multiprocessing.get_context("fork").Pool(asked.processes) as workers:
        tallies = joined(workers.starmap(part, slices, chunksize=1))
    print(table(tallies))
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
