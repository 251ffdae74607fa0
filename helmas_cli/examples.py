"""Two lines to copy for every command, at the end of its help, and what `helmas` alone says.

They fit a terminal of sixty columns, so that a copied line is a whole one. `lab` is the embedded pair: it needs no
download and no GPU.
"""

from __future__ import annotations

EXAMPLES = {
    "baseline": (
        "helmas baseline -p lab --limit 50",
        "helmas baseline -p lab --dataset relay -o runs/alone",
    ),
    "train": (
        "helmas train -p lab -o runs/first",
        "helmas train -p lab -p h2c -s train.steps=200 --dry-run",
    ),
    "eval": (
        "helmas eval --bridge runs/first --limit 100",
        "helmas eval --bridge runs/first --dataset relay -o out",
    ),
    "compare": (
        "helmas compare -p lab --methods ridge,kava",
        "helmas compare -p lab --preset blending --dry-run",
    ),
    "chat": (
        "helmas chat --bridge runs/first",
        'helmas chat --bridge runs/first --prompt "17 + 4 ="',
    ),
    "inspect-cache": (
        "helmas inspect-cache --bridge runs/first",
        "helmas inspect-cache --bridge runs/first --html it.html",
    ),
    "doctor": (
        "helmas doctor -p lab",
        "helmas doctor -p h200 --json",
    ),
    "plot": (
        "helmas plot first",
        "helmas plot first second -o figures",
    ),
    "overlap": (
        "helmas overlap --dataset relay,arithmetic",
        "helmas overlap --dataset channel:facts --limit 500",
    ),
    "pool": (
        "helmas pool runs/seed0 runs/seed1",
        "helmas pool runs/seed0 runs/seed1 runs/seed2 --json",
    ),
    "push": (
        "helmas push runs/first ./shared --dry-run",
        "helmas push runs/first OWNER/NAME --private",
    ),
    "pull": (
        "helmas pull ./shared -o pulled",
        "helmas pull OWNER/NAME",
    ),
    "profiles list": (
        "helmas profiles list",
        "helmas profiles list --json",
    ),
    "profiles show": (
        "helmas profiles show lab",
        "helmas profiles show lab -s train.batch=4 > mine.toml",
    ),
    "runs list": (
        "helmas runs list",
        "helmas runs list -o elsewhere --limit 5",
    ),
    "runs show": (
        "helmas runs show first",
        "helmas runs show first --json",
    ),
    "runs compare": (
        "helmas runs compare first second",
        "helmas runs compare first second --json",
    ),
    "runs rm": (
        "helmas runs rm second",
        "helmas runs rm first second --yes",
    ),
}

OVERVIEW = """\
helmas hands a teacher's KV cache to a student through a
trained bridge.

Begin with the embedded pair; any CPU will do:
  helmas train -p lab -o runs/first   train a bridge
  helmas eval --bridge runs/first     what does it carry?
  helmas chat --bridge runs/first     talk over it

Then your own:
  helmas profiles list                pairs and settings
  helmas doctor -p cpu                fit, size and memory

helmas --help lists every command, and the help of each
one, as in helmas train --help, ends with examples."""


def examples(command: str) -> str:
    """The end of a command's help."""
    return "\n".join(["Examples:", *EXAMPLES[command]])
