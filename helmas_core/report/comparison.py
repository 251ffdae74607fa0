"""A comparison on disk: report.json, report.md, report.html and a figure for each data set. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helmas_core.evaluation.figures import comparison_figure, file_stem, save
from helmas_core.files import replacing_files
from helmas_core.json_files import write_json, write_text
from helmas_core.report.document import Picture
from helmas_core.report.html import render
from helmas_core.report.markdown import escape, table
from helmas_core.report.tables import Table, chance, number, spread
from helmas_core.runs import check_links
from helmas_core.secrets import hidden

Document = Mapping[str, Any]


def write_comparison(folder: Path, document: Document) -> list[Path]:
    """Write everything that shows the comparison, or nothing; returns the files."""
    check_links(folder)
    document = hidden(dict(document))
    with replacing_files(folder) as staged:
        made = _write(staged, document)
    return [folder / path.relative_to(staged) for path in made]


def _write(folder: Path, document: Document) -> list[Path]:
    pictures = [_picture(report) for report in document["reports"]]
    pages = {"report.md": _markdown(document, pictures), "report.html": _html(document, pictures)}
    write_json(folder / "report.json", document)
    for name, text in pages.items():
        write_text(folder / name, text)
    drawn = [folder / "figures" / f"{picture.name}.png" for picture in pictures]
    for picture, path in zip(pictures, drawn, strict=True):
        save(picture.figure, path)
    return [folder / "report.json", *(folder / name for name in pages), *drawn]


def variants_table(document: Document) -> Table:
    """What each variant is, and what its training took."""
    counts = ("parameters", "steps", "train_seconds")
    rows = [
        [*(one[key] for key in ("name", "method", "mode")), *(number(one.get(key)) for key in counts)]
        for one in document["variants"]
    ]
    return ["variant", "method", "mode", "parameters", "steps", "training s"], rows


def changes(document: Document) -> dict[str, str]:
    """What each variant changes of the first, as keys and values; nothing for the first."""
    listed = {
        one["name"]: [f"{key} = {value}" for key, value in one["changes"].items() if value is not None]
        for one in document["variants"]
    }
    return {name: ", ".join(lines) for name, lines in listed.items() if lines}


def refusals(document: Document) -> list[str]:
    """Each variant that could not be trained, and why."""
    return [f"{name}: {why}" for name, why in (document.get("refused") or {}).items()]


def shared_table(report: Document) -> Table:
    """The arms in which no bridge has a part."""
    rows = {name: [number(arm["accuracy"]), spread(arm)] for name, arm in report["arms"].items()}
    return _timed(["arm", "accuracy", "95 %"], rows, report.get("costs") or {})


def scores_table(report: Document) -> Table:
    """Each variant's bridge, its control, what came from the content, and the difference to the first variant."""
    head = ["variant", "bridge", "95 %", "deranged", "bridge - deranged", "95 %", "against the first", "p"]
    costs = {name: row["costs"].get("bridge") for name, row in report["variants"].items()}
    return _timed(head, {name: _scores(row) for name, row in report["variants"].items()}, costs)


def _timed(head: list[str], rows: Mapping[str, list[str]], costs: Mapping[str, Any]) -> Table:
    """The table with the median milliseconds of an item, from nothing to the answer, where any were measured."""
    times = {name: cost["cold"]["p50"] * 1e3 for name, cost in costs.items() if cost and cost.get("cold")}
    if not times:
        return head, [[name, *row] for name, row in rows.items()]
    return [*head, "ms, cold"], [[name, *row, number(times.get(name))] for name, row in rows.items()]


def _scores(row: Document) -> list[str]:
    arms, content, first = row["arms"], row["contrasts"].get("bridge-deranged") or {}, row.get("against_first") or {}
    wrong = (arms.get("deranged") or {}).get("accuracy")
    found = [number(arms["bridge"]["accuracy"]), spread(arms["bridge"]), number(wrong)]
    found += [number(content.get("delta"), "+"), spread(content, "+") if content else ""]
    return [*found, number(first.get("delta"), "+") if first else "", chance(first.get("p")) if first else ""]


def _title(report: Document) -> str:
    return f"{report['dataset']} · {report['split']} · n = {report['n']}"


def _picture(report: Document) -> Picture:
    said = ", ".join(f"{name} {row['arms']['bridge']['accuracy']:.3f}" for name, row in report["variants"].items())
    name = f"comparison-{file_stem(str(report['dataset']))}"
    return Picture(
        name, f"Accuracy of each variant's bridge with its 95 % interval: {said}.", comparison_figure(report)
    )


def _markdown(document: Document, pictures: list[Picture]) -> str:
    parts = ["# helmas comparison", table(*variants_table(document))]
    parts += ["\n".join(f"- {escape(name)}: {escape(text)}" for name, text in changes(document).items())]
    parts += [f"> not trained: {escape(text)}" for text in refusals(document)]
    for report, picture in zip(document["reports"], pictures, strict=True):
        parts += [f"## {escape(_title(report))}", table(*shared_table(report)), table(*scores_table(report))]
        parts += ["\n".join(f"- {escape(text)}" for text in verdicts(report))]
        parts += [f"> warning: {escape(text)}" for text in warnings(report)]
        parts += [f"![{escape(picture.words)}](figures/{picture.name}.png)"]
    return "\n\n".join(filter(None, parts)) + "\n"


def warnings(report: Document) -> list[str]:
    """Each variant's warnings, its name before them."""
    return [f"{name}: {text}" for name, row in report["variants"].items() for text in row["warnings"]]


def verdicts(report: Document) -> list[str]:
    """What each variant's figures say in plain words, its name before them."""
    return [f"{name}: {row['verdict']['text']}" for name, row in report["variants"].items() if row.get("verdict")]


def _html(document: Document, pictures: list[Picture]) -> str:
    sections = [
        {
            "title": _title(report),
            "shared": shared_table(report),
            "scores": scores_table(report),
            "verdicts": verdicts(report),
            "warnings": warnings(report),
            "picture": picture,
        }
        for report, picture in zip(document["reports"], pictures, strict=True)
    ]
    shown = {"variants": variants_table(document), "changes": changes(document), "refusals": refusals(document)}
    return render("comparison.html", **shown, sections=sections)
