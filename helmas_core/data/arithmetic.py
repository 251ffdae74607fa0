"""`arithmetic`: a chain of assignments modulo 10, each using the one before.

Every step needs the last one's result, so a model must spend depth on it: a deep teacher answers after one
forward pass, a shallow student cannot.
"""

from __future__ import annotations

import random
from itertools import pairwise

from helmas_core.data.item import Item, pool

STEPS = 4
_LETTERS = "abcdefghkmnprstuvwxyz"
_UNITS = "379"  # multipliers that are invertible modulo 10, so no step erases the chain


def _step(value: int, op: str, digit: int) -> int:
    return (value + digit if op == "+" else value - digit if op == "-" else value * digit) % 10


def chain(rng: random.Random, steps: int = STEPS) -> tuple[str, str, list[tuple[str, int]]]:
    """(program, signature without variable names, [(variable, value), …] in order)."""
    names = rng.sample(_LETTERS, steps)
    value = rng.randrange(10)
    program, signature, values = [f"{names[0]}={value};"], str(value), [(names[0], value)]
    for before, name in pairwise(names):
        op = rng.choice("+-*")
        digit = int(rng.choice(_UNITS)) if op == "*" else rng.randrange(1, 10)
        value = _step(value, op, digit)
        program.append(f"{name}={before}{op}{digit};")
        signature += f"{op}{digit}"
        values.append((name, value))
    return " ".join(program), signature, values


def split_chain(rng: random.Random, split: str, steps: int = STEPS) -> tuple[str, list[tuple[str, int]]]:
    """A chain whose numbers and operators belong to `split`."""
    while True:
        program, signature, values = chain(rng, steps)
        if pool(signature) == split:
            return program, values


def items(split: str, count: int, seed: int = 0) -> list[Item]:
    """`count` items of `split`; the question asks for the last variable."""
    rng = random.Random(f"arithmetic/{split}/{seed}")
    made = []
    for index in range(count):
        program, values = split_chain(rng, split)
        name, value = values[-1]
        made.append(Item(f"arithmetic-{split}-{seed}-{index}", f"mod 10: {program}", str(value), cue=f"\n{name}="))
    return made
