"""Control caches: what is left of a bridged cache when one thing is taken from it.

Each keeps mask, positions and shape, treats every row by itself and sees no padding, so that a batch equals its
singles; what is random follows from a seed and the row's source tokens. Shapes: B batch, L layers, H KV heads,
T tokens, D head dim.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from helmas_core.handoff.states import Ids
from helmas_core.models.cache import KVCache
from helmas_core.models.rope import Rope

FILLER = (
    "The path goes on beside the water for a while and then turns towards the trees. It is neither warm nor cold, and "
    "the light is grey. A gate stands open. Someone has left a chair under the window, as people do. The wind moves "
    "the grass a little and then it is quiet again. Nothing else is to be seen from here, and there is no hurry. "
)


def generator(seed: int, source: Ids) -> torch.Generator:
    """Random numbers that belong to one source, in whatever batch it stands."""
    return torch.Generator().manual_seed(random.Random(f"{seed}/{source}").getrandbits(63))


def zeroed(cache: KVCache) -> KVCache:
    """Zero keys and values: tokens that are attended evenly and say nothing."""
    return cache.map(torch.zeros_like)


def halves(keys: KVCache, values: KVCache) -> KVCache:
    """The keys of one cache over the values of another of the same shape.

    For `k_only` the values, for `v_only` the keys come from the neutral filler of the same length, through the same
    bridge and at the same positions. Both halves are then what the bridge makes of real text: a zero or a mean would
    be a thing that the student never meets, and its failure would say nothing of keys or values.
    """
    return replace(keys, values=values.values)


def shuffle_keys(cache: KVCache, rope: Rope, sources: Sequence[Ids], seed: int) -> KVCache:
    """Every token's value under another token's key: contents stay, addresses are destroyed.

    Keys move with RoPE off and are rotated to their new positions, so that each position still has its own angle.
    One cycle through a row's real tokens, the same in all layers and heads, so that none keeps its key. Keys alone:
    attention does not see a permutation of both.
    """
    plain = rope.unrotate(cache)
    order = torch.arange(cache.length, device=cache.mask.device).repeat(cache.batch, 1)
    for row, source in enumerate(sources):
        real = cache.mask[row].nonzero()[:, 0]
        cycle = real[torch.randperm(len(real), generator=generator(seed, source)).to(real.device)]
        order[row, cycle] = cycle.roll(1)
    index = order[:, None, :, None]
    moved = tuple(k.gather(2, index.expand_as(k)) for k in plain.keys)
    return _placed(replace(plain, keys=moved), cache, rope)


def moment_matched(cache: KVCache, rope: Rope, sources: Sequence[Ids], seed: int) -> KVCache:
    """Gaussian noise with each row's mean and standard deviation per layer and head, of keys with RoPE off.

    Over a head's tokens and channels together: a mean per channel would be a summary of what the tokens say.
    """
    plain = rope.unrotate(cache)
    draws = [generator(seed, source) for source in sources]

    def noise(tensor: Tensor) -> Tensor:
        return _noise_like(tensor, cache.mask, draws)

    keys, values = tuple(map(noise, plain.keys)), tuple(map(noise, plain.values))
    return _placed(replace(plain, keys=keys, values=values), cache, rope)


def _noise_like(tensor: Tensor, mask: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """[B, H, T, D] → noise on the real tokens, the tensor's own values on padding."""
    made = tensor.float().clone()
    for row, draw in enumerate(draws):
        real = made[row][:, mask[row]]
        drawn = torch.randn(real.shape, generator=draw).to(real.device)
        mean, std = real.mean((1, 2), keepdim=True), real.std((1, 2), keepdim=True, correction=0)
        made[row][:, mask[row]] = mean + std * drawn
    return made.to(tensor.dtype)


def _placed(plain: KVCache, cache: KVCache, rope: Rope) -> KVCache:
    """RoPE on again, in the cache's own dtype."""
    return replace(rope.rotate(plain).to(cache.mask.device, cache.keys[0].dtype), values=plain.values)


Change = Callable[[KVCache, Rope, Sequence[Ids], int], KVCache]
CHANGES: dict[str, Change] = {
    "zero": lambda cache, _rope, _sources, _seed: zeroed(cache),
    "shuffle_k": shuffle_keys,
    "moment_matched": moment_matched,
}
