"""What a model keeps after reading: its cache, computed once and kept in memory under a byte budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from helmas_core.models.cache import KVCache, capture
from helmas_core.models.pair import Member
from helmas_core.models.tokens import pad_left

Ids = tuple[int, ...]


class States:
    """Reads sources with one frozen model, [B, H, T, D] per layer, left-padded, on the model's device.

    `fill` keeps what fits in `budget` bytes, row by row without padding, in the model's own dtype on the host, so
    that later epochs never run the model again. What is kept depends on the sources alone and not on the order in
    which they are read: last digits differ between batches, and a resumed run must see the same ones.
    """

    def __init__(self, member: Member, pad: int, budget: float = 0.0) -> None:
        self.member, self.pad, self.budget = member, pad, budget
        self.kept: dict[Ids, KVCache] = {}
        self.used = 0

    def fill(self, sources: Iterable[Ids], batch: int, on_read: Callable[[int], None] = lambda _: None) -> None:
        """Read `sources` in groups of like length until the budget is used up; `on_read` gets each group's size."""
        waiting = sorted(set(sources), key=lambda ids: (len(ids), ids))
        for begin in range(0, len(waiting), batch):
            group = waiting[begin : begin + batch]
            if self.used < self.budget:
                self._keep(group)
            on_read(len(group))

    def read(self, sources: Sequence[Ids]) -> KVCache:
        """The batch of caches of `sources`; the model runs only for those that are not in memory."""
        missing = [source for source in sources if source not in self.kept]
        if len(missing) == len(sources):
            return self._run(sources)
        device = self.member.model.device
        fresh = self._run(missing) if missing else None
        rows = iter([] if fresh is None else [fresh.row(index) for index in range(len(missing))])
        return KVCache.join([self.kept[s].to(device) if s in self.kept else next(rows) for s in sources])

    def _run(self, sources: Sequence[Ids]) -> KVCache:
        model = self.member.model
        with torch.autocast(model.device.type, enabled=False):  # the same numbers inside training as outside
            return capture(model, *pad_left(sources, self.pad, model.device))

    def _keep(self, group: Sequence[Ids]) -> None:
        read = self._run(group)
        for index, source in enumerate(group):
            row = read.row(index).to("cpu").map(lambda t: t.contiguous())
            self.kept[source] = row
            self.used += row.bytes
