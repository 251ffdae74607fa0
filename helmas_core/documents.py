"""What the files of a run folder must hold before a command shows or reckons with it. No torch here.

More keys than these may stand there; a document that does not fit is as good as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helmas_core.config import LARGEST

Count = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Figure = Count | float | None
Figures = dict[str, Figure]
Interval = Annotated[list[Figure], Field(min_length=2, max_length=2)]


class Document(BaseModel):
    """Read as it stands: no text is taken for a number, and nothing is no number."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Arm(Document):
    accuracy: Figure
    ci: Interval | None = None
    n: Figure = None
    unparsed: Figure = None
    truncated: Figure = None
    seconds_p50: Figure = None
    seconds_p95: Figure = None
    tokens_per_second: Figure = None


class Contrast(Document):
    delta: Figure = None
    ci: Interval | None = None
    p: Figure = None


class Cost(Document):
    seconds: Figures
    cold: Figures | None = None
    warm: Figures | None = None
    teacher_bytes: Figure = None
    bridged_bytes: Figure = None
    peak_memory_gib: Figure = None
    joules: Figure = None


class Reasoning(Document):
    names_answer: float | None = None
    items: Count


class Verdict(Document):
    text: str


class Report(Document):
    """One data set's evaluation."""

    dataset: str
    split: str
    n: Count
    arms: dict[str, Arm]
    contrasts: dict[str, Contrast] | None = None
    costs: dict[str, Cost] | None = None
    reasoning: Reasoning | None = None
    verdict: Verdict | None = None


class Outcomes(Document):
    items: list[list[str]]
    right: dict[str, str]


class Exactness(Document):
    compared: Count
    differ: list[Any] = []


class Whole(Document):
    """A contrast without a gap."""

    delta: float
    ci: Annotated[list[float], Field(min_length=2, max_length=2)]


class Poolable(Document):
    """An evaluation with all that pooling takes."""

    schema_version: Count = Field(alias="schema")
    dataset: str
    split: str
    n: Count
    arms: dict[str, Arm]
    reasoning: Reasoning | None = None
    pair: dict[str, Any]
    bridge: dict[str, Any] | None
    contrasts: dict[str, Whole]
    costs: dict[str, Cost] | None
    outcomes: Outcomes
    exactness: Exactness | None = None
    manifest: dict[str, Any]


class Several(Document):
    reports: list[Report]


class Training(Document):
    """What `helmas train` reports; it may have skipped its validation."""

    eval: Report | None = None


class StoredPair(Document):
    teacher: str | None = None
    student: str | None = None


class StoredData(Document):
    dataset: str | None = None


class Stored(Document):
    """config.json, as far as it is shown; `Config` checks the rest before anything is done with it."""

    pair: StoredPair = StoredPair()
    data: StoredData = StoredData()


class Manifest(Document):
    status: str
    argv: list[str]
    seed: Count
    started: str | None = None
    finished: str | None = None
    resumed: list[str] = []


class Row(Document):
    """One line of metrics.jsonl."""

    step: Annotated[int, Field(ge=0, le=LARGEST)]
    event: str | None = None


class Answer(Document):
    right: bool


class Item(Document):
    """One line of items.jsonl."""

    task: str
    id: str
    question: str
    arms: dict[str, Answer]


def fits(kind: type[Document], document: Any) -> bool:
    return misfit(kind, document) is None


def misfit(kind: type[Document], document: Any) -> str | None:
    """The first thing in `document` that is not of `kind`; None for one that fits."""
    try:
        kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"]))[:80], first["msg"]]))
    return None


def is_report(document: Mapping[str, Any]) -> bool:
    """Whether report.json holds what some command of ours wrote there."""
    kind = Several if "reports" in document else Report if "arms" in document else Training
    return fits(kind, document)
