"""What a bridge must not learn from: test items, and items that it is validated on."""

from __future__ import annotations

from collections.abc import Sequence

from helmas_core.config import Config
from helmas_core.data.overlap import item_hash
from helmas_core.data.task import share_items
from helmas_core.data.tasks import get_task
from helmas_core.errors import ConfigError, DataError
from helmas_core.handoff.examples import Example


def refuse_test_split(config: Config) -> None:
    """Training on a split that is called test, or holds test items, is refused unless it is asked for by name."""
    split = config.data.split
    shared = any(share_items(get_task(name).splits, split, "test") for name in config.data.learnt())
    if ("test" in split or shared) and not config.train.allow_test_split:
        fix = "train on another split, or set train.allow_test_split = true"
        raise ConfigError(f'training on the split "{split}", which holds test items', where="data.split", fix=fix)


def refuse_overlap(train: Sequence[Example], held_out: Sequence[Example]) -> None:
    """The two must not share an item, in whatever dress and data set: same private text, question and choices."""
    seen = {item_hash(e.item): e.item.id for e in train}
    if shared := [e.item.id for e in held_out if item_hash(e.item) in seen]:
        first = next(e.item for e in held_out if e.item.id == shared[0])
        raise DataError(
            f"{len(shared)} validation items are training items, first {shared[0]} ({seen[item_hash(first)]})",
            fix="use another split or leave the data set out; helmas overlap lists them, train.allow_overlap goes on",
        )
