"""What a report shows, put together from an evaluation and what lies beside it: figures with words for those who cannot
see them, categories, examples. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from helmas_core.evaluation import figures as draw

Record = Mapping[str, Any]
EXAMPLES = 400  # on the page; items.jsonl holds all
CATEGORIES = 60
UNNAMED = "(none)"
_LAYER_LINES = {
    "cosine": (
        {"k_cosine": "keys", "v_cosine": "values", "attention_cosine": "attention output"},
        "Likeness to the student's own cache",
        "cosine",
    ),
    "rms": ({"k_rms_ratio": "keys", "v_rms_ratio": "values"}, "RMS, bridged over own (1 is healthy)", "ratio"),
    "rank": (
        {"k_rank": "keys", "k_rank_own": "keys, own", "v_rank": "values", "v_rank_own": "values, own"},
        "Effective rank",
        "rank",
    ),
    "mass": (
        {"mass": "bridged", "mass_own": "own"},
        "Attention on what was handed over",
        "share of attention",
    ),
}


@dataclass(frozen=True)
class Evidence:
    """An evaluation, its items as evaluation.items makes them, and evaluation.diagnose's document if there is one."""

    report: Record
    items: Sequence[Record] = ()
    diagnostics: Record | None = None


@dataclass(frozen=True)
class Picture:
    """A figure, what it is called in file names, and what it shows in words."""

    name: str
    words: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """One data set: its evaluation, pictures, categories (name, n, accuracy by arm) and the examples to show."""

    evidence: Evidence
    pictures: list[Picture]
    diagnostics: list[Picture]
    categories: list[tuple[str, int, dict[str, float]]]
    examples: Sequence[Record]

    @property
    def report(self) -> Record:
        return self.evidence.report


@dataclass(frozen=True)
class Document:
    """A whole report; `validations` are the rows of metrics.jsonl that scored something."""

    sections: list[Section]
    curves: Picture | None = None
    validations: list[Record] = field(default_factory=list)

    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            yield from (*section.pictures, *section.diagnostics)
        if self.curves is not None:
            yield self.curves


def build(evidence: Sequence[Evidence], metrics: Sequence[Record] = ()) -> Document:
    """The report on `evidence`; `metrics` are the rows of the bridge's metrics.jsonl."""
    stems = [draw.file_stem(str(one.report["dataset"])) for one in evidence]
    places = [stem if stems.count(stem) == 1 else f"{stem}-{i}" for i, stem in enumerate(stems)]
    sections = [_section(one, place) for one, place in zip(evidence, places, strict=True)]
    trained = [row for row in metrics if row.get("event") == "train"]
    curves = None
    if trained:
        words = f"Losses and validation accuracy over {trained[-1]['step']} training steps."
        curves = Picture("curves", words, draw.curve_figure({"": metrics}))
    return Document(sections, curves, [row for row in metrics if row.get("event") == "validation"])


def _section(evidence: Evidence, stem: str) -> Section:
    groups = categories(evidence.items)
    return Section(
        evidence,
        list(_pictures(evidence.report, groups, stem)),
        list(diagnostic_pictures(evidence.diagnostics, stem)),
        groups,
        evidence.items[:EXAMPLES],
    )


def categories(items: Sequence[Record]) -> list[tuple[str, int, dict[str, float]]]:
    """(category, n, {arm: accuracy}) in the order of the alphabet; none where all items are of one."""
    groups: dict[str, list[Record]] = {}
    for item in items:
        groups.setdefault(str(item.get("category") or UNNAMED), []).append(item)
    if len(groups) < 2:
        return []
    return [(name, len(group), _accuracy(group)) for name, group in sorted(groups.items())]


def _accuracy(group: Sequence[Record]) -> dict[str, float]:
    arms = group[0]["arms"]
    return {arm: round(sum(bool(item["arms"][arm]["right"]) for item in group) / len(group), 4) for arm in arms}


def _pictures(report: Record, groups: Sequence[tuple[str, int, dict[str, float]]], stem: str) -> Iterator[Picture]:
    arms = report["arms"]
    said = ", ".join(f"{name} {arm['accuracy']:.3f}" for name, arm in arms.items())
    yield Picture(
        f"accuracy-{stem}", f"Accuracy of each arm with its 95 % interval: {said}.", draw.accuracy_figure(report)
    )
    timed = ", ".join(f"{name} {arm['seconds_p50']:.4g} s" for name, arm in arms.items() if arm.get("seconds_p50"))
    if (tradeoff := draw.tradeoff_figure(report)) and (latency := draw.latency_figure(report)):
        yield Picture(f"tradeoff-{stem}", f"Accuracy over the median time per item: {timed}.", tradeoff)
        yield Picture(f"latency-{stem}", f"Median and 95th percentile of the time per item: {timed}.", latency)
    if groups:
        rows = [(f"{draw.shortened(name, 20)} ({n})", scores) for name, n, scores in groups[:CATEGORIES]]
        shown = [arm for arm in ("student", "teacher", "text", "bridge", "deranged") if arm in arms]
        yield Picture(f"categories-{stem}", "Accuracy by category, as in the table.", draw.category_figure(rows, shown))


def diagnostic_pictures(found: Record | None, stem: str) -> Iterator[Picture]:
    """What `found`, diagnostics or an inspection, holds by layer; nothing for None."""
    if not found:
        return
    for name, (lines, title, y) in _LAYER_LINES.items():
        if figure := draw.layer_figure(found["layers"], lines, title, y):
            yield Picture(f"{name}-{stem}", f"{title}, by layer, as in the table.", figure)
    for name, matrix in (found.get("blend") or {}).items():
        side = {"k": "keys", "v": "values"}[name]
        figure = draw.matrix_figure(matrix, f"Blend weights, {side}", "teacher layer", "student layer")
        yield Picture(
            f"blend-{name}-{stem}", f"How much of each teacher layer the student's {side} are made of.", figure
        )
    for name, matrix in (found.get("teachers") or {}).items():
        side = {"k": "keys", "v": "values"}[name]
        figure = draw.matrix_figure(
            matrix, f"Shares of the teachers, {side}", "teacher (0: the first)", "student layer", 1.0
        )
        yield Picture(f"teachers-{name}-{stem}", f"How much of the student's {side} each teacher gives.", figure)
    if found.get("gate"):
        yield Picture(f"gates-{stem}", "Gates by layer, a dot for every head.", draw.gate_figure(found["gate"]))
    if found.get("mass"):
        figure = draw.matrix_figure(found["mass"], "Attention on the injected span", "query head", "student layer", 1.0)
        yield Picture(f"heads-{stem}", "Share of attention on what was injected, by layer and query head.", figure)
