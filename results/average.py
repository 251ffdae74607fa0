"""The mean of two bridges' weights: `python results/average.py RUN RUN OUT`, for a bridge and one that went on from it.

Between two ends of one training lies a bridge that forgot less than the later end and learnt more than the earlier one
(Wortsman et al., 2022, "Model soups"). OUT/bridge.safetensors is used like any other; its description is the second's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    paths = [run / "bridge.safetensors" for run in (given.first, given.second)]
    one, other = (load_file(path) for path in paths)
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        parser.error("these are not bridges of one shape")
    with safe_open(paths[1], "pt") as file:
        described = file.metadata()
    given.out.mkdir(parents=True, exist_ok=True)
    mean = {name: ((value.double() + other[name].double()) / 2).to(value.dtype) for name, value in one.items()}
    save_file(mean, given.out / "bridge.safetensors", described)


if __name__ == "__main__":
    main()
