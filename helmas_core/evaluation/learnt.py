"""Which of the items to evaluate a bridge has learnt, by the hashes that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helmas_core.config import Config
from helmas_core.data.overlap import overlapping, unpack_hashes
from helmas_core.data.tasks import get_task, load_items
from helmas_core.errors import DataError


def learnt_items(config: Config, training: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"trained_on": hashes that the bridge carries, "items": ids of those to evaluate that are among them}.

    `training` is what its metadata tell of it. None for a bridge that carries no hashes. DataError for overlap that was
    not allowed.
    """
    if "hashes" not in training:
        return None
    known, task = unpack_hashes(training["hashes"]), get_task(config.data.dataset)
    data = config.data
    items = load_items(
        task, config.eval.split, config.eval.limit, config.train.seed, data.data_dir, data.max_source_tokens
    )
    ids = overlapping(items, known)
    if ids and not config.eval.allow_overlap:
        some = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
        what = f"the bridge was trained on {len(ids)} of the {len(items)} items to evaluate: {some}"
        raise DataError(what, where=data.dataset, fix="evaluate on others, or go on with --allow-overlap")
    return {"trained_on": len(known), "items": ids}
