"""Training data from several sources, each with its share: what comes at which place, as a function of the place.

Draws come in blocks of `BLOCK`. A block holds every source in its share, spread evenly over the block with seeded
jitter, so that each batch comes close to the shares as well. A source hands out its items in seeded permutations, one
after the other: a small one comes round again while a large one is still new. Every stage draws from the start, as does
the closed-form start before them: what one of them had the models read, the others need not have read again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache

from helmas_core.errors import DataError
from helmas_core.handoff.examples import Example

BLOCK = 1000


class Mix:
    """Draws from a list of examples by `shares`, which names tasks and adds up to 1.

    Raises DataError for a source of which the list has no example.
    """

    def __init__(self, examples: Sequence[Example], shares: Mapping[str, float], seed: int) -> None:
        names = [example.task.name for example in examples]
        self.seed, self.quotas = seed, quotas(shares, BLOCK)
        self.places = {name: [i for i, own in enumerate(names) if own == name] for name in shares}
        if empty := [name for name, places in self.places.items() if not places]:
            fix = "give it longer texts, raise data.max_source_tokens, or set its weight to 0"
            raise DataError("no item of this source is left to train on", where=f"data.mix.{empty[0]}", fix=fix)

    def batch(self, step: int, size: int) -> list[int]:
        """The indices of the examples in batch `step`."""
        return [self.draw(place) for place in range(step * size, (step + 1) * size)]

    def draw(self, place: int) -> int:
        """The index of the example at `place`, counted from 0."""
        block, offset = divmod(place, BLOCK)
        name, before = _block(self.seed, block, tuple(self.quotas.items()))[offset]
        own = self.places[name]
        turn, position = divmod(block * self.quotas[name] + before, len(own))
        return own[_permutation(self.seed, name, turn, len(own))[position]]


def quotas(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided by `shares`, at least 1 each, by largest remainders; the same whatever the order of the names."""
    names = sorted(shares)
    whole = {name: max(1, int(shares[name] * total)) for name in names}
    by_lack = sorted(names, key=lambda name: whole[name] - shares[name] * total)
    for step in range(total - sum(whole.values())):
        whole[by_lack[step % len(names)]] += 1
    for _ in range(sum(whole.values()) - total):  # where many tiny shares were rounded up to 1
        whole[max(names, key=lambda name: whole[name])] -= 1
    return whole


@lru_cache(maxsize=4)
def _block(seed: int, block: int, parts: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """For each place in a block: the source, and how many of its draws came before in this block."""
    rng = random.Random(f"mix/{seed}/{block}")
    spread = [((number + rng.random()) / quota, name, number) for name, quota in parts for number in range(quota)]
    return [(name, number) for _, name, number in sorted(spread)]


@lru_cache(maxsize=32)
def _permutation(seed: int, name: str, turn: int, count: int) -> list[int]:
    return random.Random(f"mix/{seed}/{name}/{turn}").sample(range(count), count)
