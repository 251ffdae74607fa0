"""The `train.shuffled` control: the same bridge, trained so that its teacher cache tells of another item.

Whatever such a bridge scores, it has not learnt to carry content: what is left is a prefix, a format, a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

from helmas_core.errors import ConfigError
from helmas_core.evaluation.arms import batches, fit
from helmas_core.handoff.examples import Example
from helmas_core.handoff.states import Ids


def deranged_sources(examples: Sequence[Example]) -> dict[Ids, Ids]:
    """For each source another item's, cut or repeated to its length, so that every loss still compares like shapes.

    Donors are those of the `deranged` arm. ConfigError where all items of a kind have the same source.
    """
    found: dict[Ids, Ids] = {}
    for batch in batches(examples, len(examples)):
        for example, donor in zip(batch.examples, batch.donors, strict=True):
            found[example.source] = fit(donor.source, len(example.source))
    if alike := [source for source, donor in found.items() if source == donor]:
        what = f"{len(alike)} of {len(found)} sources have no other to be exchanged with"
        raise ConfigError(what, where="train.shuffled", fix="train on more items")
    return found
