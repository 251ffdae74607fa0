"""What a model keeps after reading: its cache, computed once, kept in memory and on disk under byte budgets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch

from helmas_core import processes
from helmas_core.config import TrainConfig
from helmas_core.handoff.shelf import Shelf
from helmas_core.handoff.store import GIB, Store
from helmas_core.handoff.told import Ids, One, Told, ids_of, over_student, told_to
from helmas_core.models.cache import KVCache
from helmas_core.models.joint import together
from helmas_core.models.pair import Member, Pair


class States:
    """Reads sources with one frozen model, [B, H, T, D] per layer, left-padded, on the pair's device.

    `fill` keeps what fits in `budget` bytes, row by row without padding, in the model's own dtype on the host, so
    that later epochs never run the model again. What is kept depends on the sources alone and not on the order in
    which they are read: last digits differ between batches, and a resumed run must see the same ones.

    A `shelf` keeps the same rows on disk. It is filled in the same groups, whole groups at a time, and groups are made
    of what is missing: a run that is repeated, or was killed while it filled, finds or computes the very digits that
    it would have without a shelf and with memory for all. Rows that another run read in other groups keep that
    run's last digits. Several processes with a shelf share the groups, and find on it what the others have read.

    `hidden` names the hidden states that come with the caches, as `models.cache.read` counts them.

    A source may be `Aligned`: what is read, kept and stored are the teacher's own ids; what `read` returns is over the
    student's tokens, with RoPE off.
    """

    def __init__(
        self, member: Member, pad: int, budget: float = 0.0, shelf: Shelf | None = None, hidden: Sequence[int] = ()
    ) -> None:
        self.member, self.pad, self.budget, self.shelf, self.hidden = member, pad, budget, shelf, hidden
        self.kept: dict[Ids, KVCache] = {}
        self.used = 0

    def fill(self, sources: Iterable[One], batch: int, on_read: Callable[[int], None] = lambda _: None) -> None:
        """Read `sources` in groups of like length until the budgets are used up; `on_read` gets each group's size.

        Of several processes all must ask for the same ones, if there is a shelf.
        """
        if self.shelf is not None:
            self.shelf.store.refresh()
        ordered = sorted(set(map(ids_of, sources)), key=lambda ids: (len(ids), ids))
        missing = [index for index, source in enumerate(ordered) if not self._fetch(source)]
        on_read(len(ordered) - len(missing))
        shared = self.shelf is not None and processes.count() > 1
        missing = processes.broadcast(missing) if shared else missing  # another run may write to the folder meanwhile
        groups = [[ordered[i] for i in missing[begin : begin + batch]] for begin in range(0, len(missing), batch)]
        for group in processes.mine(groups) if shared else groups:
            if self.used < self.budget or self._shelf_open():
                self._keep(group)
            on_read(len(group))
        if shared:
            on_read(self._take(groups))

    def read(self, sources: Sequence[One]) -> KVCache:
        """The batch of caches of `sources`; the model runs only for those that are neither in memory nor on disk."""
        return over_student(self._read([ids_of(source) for source in sources]), self.member, sources)

    def _read(self, sources: Sequence[Ids]) -> KVCache:
        known = [self._recall(source) for source in sources]
        missing = [source for source, row in zip(sources, known, strict=True) if row is None]
        if len(missing) == len(sources):
            return self._run(sources)
        device = self.member.device
        fresh = self._run(missing) if missing else None
        rows = iter([] if fresh is None else [fresh.row(index) for index in range(len(missing))])
        return KVCache.join([next(rows) if row is None else row.to(device) for row in known])

    def readings(self, sources: Iterable[One]) -> int:
        """How many `sources` there are to be read."""
        return len(set(map(ids_of, sources)))

    def known(self, sources: Iterable[One]) -> int:
        """How many of `sources` are on disk."""
        return 0 if self.shelf is None else sum(ids in self.shelf for ids in set(map(ids_of, sources)))

    def _run(self, sources: Sequence[Ids]) -> KVCache:
        with torch.autocast(self.member.device.type, enabled=False):  # the same numbers inside training as outside
            return self.member.read_many(sources, self.pad, self.hidden)

    def _keep(self, group: Sequence[Ids]) -> None:
        read = self._run(group)
        rows = [read.row(index).to("cpu").map(lambda t: t.contiguous()) for index in range(len(group))]
        if self.shelf is not None:
            rows = self.shelf.write(group, rows)
        if self.used < self.budget:
            for source, row in zip(group, rows, strict=True):
                self._remember(source, row)

    def _take(self, groups: Sequence[Sequence[Ids]]) -> int:
        """Find on the shelf what the other processes have read, when all have; returns how many sources that is."""
        assert self.shelf is not None
        processes.agree(False)
        self.shelf.store.refresh()
        own = {source for group in processes.mine(groups) for source in group}
        theirs = [source for group in groups for source in group if source not in own]
        return len([self._fetch(source) for source in theirs])

    def _fetch(self, source: Ids) -> bool:
        """Whether `source` is on disk; it is taken into memory while there is room."""
        if self.shelf is None or source not in self.shelf:
            return False
        if self.used < self.budget:
            row = self.shelf.read(source)
            if row is None:
                return False
            self._remember(source, row.map(lambda t: t.clone()))
        return True

    def _recall(self, source: Ids) -> KVCache | None:
        row = self.kept.get(source)
        return self.shelf.read(source) if row is None and self.shelf is not None else row

    def _remember(self, source: Ids, row: KVCache) -> None:
        self.kept[source] = row
        self.used += row.bytes

    def _shelf_open(self) -> bool:
        return self.shelf is not None and not self.shelf.store.closed


class TeacherStates:
    """What all teachers of a pair keep after reading: the States of each, asked as one."""

    def __init__(self, states: Sequence[States]) -> None:
        self.by_teacher = tuple(states)

    def fill(self, sources: Iterable[Told], batch: int, on_read: Callable[[int], None] = lambda _: None) -> None:
        """`States.fill` of one teacher after the other."""
        for states, own in self._each(tuple(sources)):
            states.fill(own, batch, on_read)

    def read(self, sources: Sequence[Told]) -> KVCache:
        """The batch of caches of `sources`, over the student's tokens: a JointCache where several teachers read."""
        return together([states.read(own) for states, own in self._each(sources)])

    def readings(self, sources: Collection[Told]) -> int:
        """How often `sources` are read in all."""
        return sum(states.readings(own) for states, own in self._each(sources))

    def known(self, sources: Collection[Told]) -> int:
        """How many of these readings are on disk."""
        return sum(states.known(own) for states, own in self._each(sources))

    def _each(self, sources: Collection[Told]) -> Iterator[tuple[States, list[One]]]:
        """The States of each teacher, and what that one reads."""
        for place, states in enumerate(self.by_teacher):
            yield states, [told_to(source, place) for source in sources]


def both_states(
    pair: Pair, config: TrainConfig, store: Store | None = None, hidden: Sequence[Sequence[int]] = ()
) -> tuple[TeacherStates, States]:
    """The teachers', with the `hidden` states that are asked of each, and the student's: half of train.state_gib for
    them and half for it, and a shelf each where there is a store."""

    def states(member: Member, budget: float, hidden: Sequence[int] = ()) -> States:
        shelf = None if store is None else Shelf(store, pair, member, config.store_dtype, hidden)
        return States(member, pair.seen_by(member).pad, budget, shelf, hidden)

    half, count = config.state_gib * GIB / 2, len(pair.teachers)
    asked = zip(pair.teachers, hidden or [()] * count, strict=True)
    return TeacherStates([states(member, half / count, layers) for member, layers in asked]), states(pair.student, half)
