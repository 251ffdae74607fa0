"""How long `helmas --help` takes, beside an interpreter that only imports Typer and Rich: `python bench/start.py`.

Medians in seconds and their ratio, all in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from time import perf_counter

COMMANDS = {
    "bare python": ["-c", "pass"],
    "typer and rich": ["-c", "import typer, rich.console, rich.table"],
    "helmas --help": ["-m", "helmas_cli", "--help"],
}


def seconds(arguments: list[str]) -> float:
    begin = perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    rounds = [{name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(repeats)]
    medians = {name: round(statistics.median(each[name] for each in rounds), 3) for name in COMMANDS}
    ratio = medians["helmas --help"] / medians["typer and rich"]
    print(json.dumps({"seconds": medians, "ratio to typer and rich": round(ratio, 2), "repeats": repeats}, indent=2))


if __name__ == "__main__":
    main()
