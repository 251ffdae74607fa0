"""A report on disk: report.json, items.jsonl, diagnostics.json, report.md, report.html, figures/. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helmas_core.evaluation.figures import save
from helmas_core.files import replacing_files
from helmas_core.json_files import write_json, write_text
from helmas_core.report.document import Document, Evidence, build
from helmas_core.report.html import html
from helmas_core.report.markdown import markdown
from helmas_core.runs import Run, check_links, read_metrics
from helmas_core.secrets import hidden

Files = list[Path]


def write_report(
    run: Run, document: Mapping[str, Any], evidence: Sequence[Evidence], trained: Run | None = None
) -> Files:
    """Write everything that shows `evidence` to the folder of `run`, or nothing; returns the files. `document` is what
    goes to report.json, `trained` the run folder that the bridge came from, for its learning curves."""
    check_links(run.path)
    evidence = [replace(one, report=hidden(dict(one.report))) for one in evidence]
    report = build(evidence, [] if trained is None else read_metrics(trained.metrics))
    with replacing_files(run.path) as staged:
        made = _write(Run(staged), document, evidence, report)
    return [run.path / path.relative_to(staged) for path in made]


def _write(run: Run, document: Mapping[str, Any], evidence: Sequence[Evidence], report: Document) -> Files:
    made = [run.write_report(document), *_records(run, evidence)]
    pages = {run.path / "report.md": markdown(report), run.path / "report.html": html(report)}
    for path, text in pages.items():
        write_text(path, text)
    figures = {run.figures / f"{picture.name}.png": picture.figure for picture in report.pictures()}
    for path, figure in figures.items():
        save(figure, path)
    return [*made, *pages, *figures]


def _records(run: Run, evidence: Sequence[Evidence]) -> Files:
    """One line for every item, ASCII so that any text survives, and the diagnostics of each data set."""
    made: Files = []
    items = [item for one in evidence for item in one.items]
    if items:
        write_text(run.path / "items.jsonl", "".join(json.dumps(item) + "\n" for item in items))
        made.append(run.path / "items.jsonl")
    found = {str(one.report["dataset"]): one.diagnostics for one in evidence if one.diagnostics}
    if found:
        write_json(run.path / "diagnostics.json", found)
        made.append(run.path / "diagnostics.json")
    return made
