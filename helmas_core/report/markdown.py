"""A report as Markdown: tables, and links to the figures beside it. No torch here."""

from __future__ import annotations

from helmas_core.plain import printable
from helmas_core.report import tables
from helmas_core.report.document import Document, Picture, Section

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>|#~$"} | {"\n": " ", "\r": " "})


def escape(text: str) -> str:
    """Text that Markdown, and the HTML in it, shows as it is, on one line."""
    return printable(text).translate(_SPECIAL)


def markdown(document: Document, folder: str = "figures") -> str:
    """The whole file; figures are linked as `folder`/NAME.png."""
    parts = ["# helmas report", *(_section(section, folder) for section in document.sections)]
    if document.curves is not None:
        parts += ["## Learning curves", picture(document.curves, folder)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, folder: str) -> str:
    report, found = section.report, section.evidence.diagnostics
    title = f"## {escape(str(report['dataset']))} · {escape(str(report['split']))} · n = {report['n']}"
    facts = "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in tables.facts(report).items())
    verdict = tables.verdict_of(report)
    parts = [title, f"**{escape(verdict)}**" if verdict else "", *map(_warning, report.get("warnings") or [])]
    parts += [table(*tables.arms_table(report)), table(*tables.contrasts_table(report))]
    parts += [table(*tables.costs_table(report.get("costs"))), *(picture(one, folder) for one in section.pictures)]
    if section.categories:
        parts += ["### By category", table(*tables.category_table(section.categories))]
    if found:
        parts += [f"### By layer ({found['n']} items)", table(*tables.layers_table(found["layers"]))]
        parts += [picture(one, folder) for one in section.diagnostics]
    return "\n\n".join(part for part in [*parts, facts] if part)


def _warning(text: str) -> str:
    return f"> warning: {escape(text)}"


def picture(shown: Picture, folder: str) -> str:
    """A link to a figure, with its words."""
    return f"![{escape(shown.words)}]({folder}/{shown.name}.png)"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Rows of text under a header, every cell of them escaped; "" without rows."""
    if not rows:
        return ""
    escaped = [[escape(cell) for cell in row] for row in (head, *rows)]
    lines = [escaped[0], ["---", *["---:"] * (len(head) - 1)], *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
