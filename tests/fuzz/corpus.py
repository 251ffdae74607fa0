"""Every format that helmas reads: the readers that the commands use."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz import bridges, data, models, runs
from tests.fuzz.format import Format

FORMATS: tuple[Format, ...] = (*bridges.FORMATS, *data.FORMATS, *runs.FORMATS, *models.FORMATS)


def formats(only: str = "") -> Iterator[Format]:
    return (one for one in FORMATS if only in one.name)
