"""The `train.shuffled` control: the same bridge, trained so that its teacher cache tells of another item.

Whatever such a bridge scores, it has not learnt to carry content: what is left is a prefix, a format, a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

from helmas_core.errors import ConfigError
from helmas_core.evaluation.arms import batches
from helmas_core.handoff.examples import Example
from helmas_core.handoff.told import Ids, Told, fit


def deranged_sources(examples: Sequence[Example]) -> dict[Ids, Told]:
    """For each source another item's, cut or repeated to its length, so that every loss still compares like shapes.

    Donors are those of the `deranged` arm. ConfigError where all items of a kind have the same source.
    """
    found: dict[Ids, Told] = {}
    for batch in batches(examples, len(examples)):
        for example, donor in zip(batch.examples, batch.donors, strict=True):
            found[example.source] = fit(donor.told, len(example.source))
    own = {example.source: fit(example.told, len(example.source)) for example in examples}
    if alike := [source for source, donor in found.items() if own[source] == donor]:
        what = f"{len(alike)} of {len(found)} sources have no other to be exchanged with"
        raise ConfigError(what, where="train.shuffled", fix="train on more items")
    return found
