"""Training text for the lab pair: the train splits of `relay` and `arithmetic`, with many questions per text."""

from __future__ import annotations

import random
from collections.abc import Iterator

from helmas_core.data import arithmetic, relay

Piece = tuple[str, bool]  # text, and whether it is an answer
STEP_END = ";"
EVERYBODY = relay.names("train", "validation", "test")  # a model knows the names of its world; a bridge need not


def relay_document(rng: random.Random, facts: int = relay.FACTS) -> list[Piece]:
    """A story and as many questions as facts; some come twice, or what was not yet asked would give it away."""
    text, known = relay.story(rng, "train", EVERYBODY, facts)
    pieces: list[Piece] = [(text, False)]
    for question, cue, answer in rng.choices(known, k=facts):
        pieces += [(f"\n{question}{cue}", False), (f" {answer}", True)]
    return [*pieces, ("\n", True)]


def arithmetic_document(rng: random.Random, steps: int) -> tuple[list[Piece], list[int]]:
    """A program and the value of its last variable, and the value that each `STEP_END` in it closes."""
    program, values = arithmetic.split_chain(rng, "train", steps)
    name, value = values[-1]
    pieces = [(f"mod 10: {program}", False), (f"\n{name}=", False), (str(value), True), ("\n", True)]
    return pieces, [value for _, value in values]


def copy_document(rng: random.Random, vocabulary: int, length: int = 24) -> tuple[list[int], list[bool]]:
    """Token ids of a random run that comes twice, at a random distance, and which of them are to be predicted."""

    def some(count: int) -> list[int]:
        return [rng.randrange(1, vocabulary) for _ in range(count)]

    before, run, between = some(rng.randrange(20)), some(length), some(rng.randrange(1, 20))
    ids = [*before, *run, *between, *run]
    return ids, [False] * (len(ids) - length + 1) + [True] * (length - 1)


def texts(count: int, seed: int) -> Iterator[str]:
    """Plain text to fit the tokenizer on."""
    rng = random.Random(seed)
    for index in range(count):
        document = relay_document(rng) if index % 2 else arithmetic_document(rng, 5)[0]
        yield "".join(text for text, _ in document)
