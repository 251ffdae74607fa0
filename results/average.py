"""The mean of two bridges' weights: `python results/average.py RUN RUN OUT`, for a bridge and one that went on from it.

Between two ends of one training lies a bridge that forgot less than the later end and learnt more than the earlier one
(Wortsman et al., 2022, "Model soups"). OUT/bridge.safetensors is used like any other; its description is the second's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from helmas_core.bridges.artefact import check_pair, read_tensors, write_tensors
from helmas_core.errors import CheckpointError, HelmasError

STATISTICS = ("source.", "target.")


def mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each tensor. CheckpointError for bridges of other shapes, or whose states are in other units."""
    units = {name for name in one if name.startswith(STATISTICS)}
    alike = {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    if not alike or any(not one[name].equal(other[name]) for name in units):
        raise CheckpointError(
            "these bridges have no start in common", fix="train the second with train.init = the first"
        )
    return {name: ((value.double() + other[name].double()) / 2).to(value.dtype) for name, value in one.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    try:
        (one, earlier), (other, later) = (
            read_tensors(run / "bridge.safetensors") for run in (given.first, given.second)
        )
        check_pair(earlier["pair"], later["pair"], str(given.first))
        made = mean(one, other)
    except HelmasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    write_tensors(given.out / "bridge.safetensors", made, later)
    return 0


if __name__ == "__main__":
    sys.exit(main())
