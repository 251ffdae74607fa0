"""What is shared of a run: the bridge, a model card, its reports without what is private, figures drawn from them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helmas_core.errors import ConfigError, DataError
from helmas_core.evaluation.compare import reports_of
from helmas_core.evaluation.figures import save
from helmas_core.foreign import inside, parse_object, read_text, why
from helmas_core.json_files import read_json, to_json
from helmas_core.report.document import Document, Evidence, build
from helmas_core.runs import BRIDGE, LOG, Run, read_metrics
from helmas_core.sharing.card import Subject, card, theirs_in
from helmas_core.sharing.folder import CARD, ITEMS, Files
from helmas_core.sharing.public import Names, names_in, public_config, public_reports
from helmas_core.sides import described, named

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Parcel:
    """Files by their names in the repository: bytes, or a file of this machine that goes as it is."""

    files: Files
    subject: Subject

    def sizes(self) -> dict[str, int]:
        """Bytes by name, the bridge first."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    def beside(self, written: str) -> Parcel:
        """The same with a card that keeps what a person added to `written`, the one that lies there already."""
        subject = replace(self.subject, theirs=theirs_in(written))
        return Parcel({**self.files, CARD: card(subject).encode()}, subject)


def pack(
    bridge: Path,
    where: str,
    evaluated: Path | None = None,
    models: Mapping[str, str] | None = None,
    items: bool = False,
) -> Parcel:
    """What is shared of the bridge file `bridge` under the address `where`.

    `evaluated` is the folder of its `helmas eval`, if not its own; `models` renames models, by side;
    `items` adds what every arm said to every item. DataError for a report on another bridge.
    """
    from helmas_core.bridges.artefact import read_metadata, with_document

    document, run, folder = read_metadata(bridge), Run(bridge.parent), Run(evaluated or bridge.parent)
    written = _report(folder)
    reports = reports_of(written)
    for report in reports:
        _check(report, document, folder.path)
    names = _names(document, reports, models or {})
    public, shown = names.of(document), public_reports(reports, names)
    figures = _figures(shown, names.of(_diagnostics(folder.path)), run)
    subject = Subject(where, public, shown, figures, _facts(shown))
    files: Files = {BRIDGE: bridge if public == document else with_document(bridge, public), CARD: _card(subject)}
    if shown:
        files["report.json"] = _json({"reports": shown} if "reports" in (written or {}) else shown[0])
    files["config.json"] = _json(public_config(run.config or document["config"], names))
    if items:
        files[ITEMS] = _items(folder.path, names)
    return Parcel({**files, **_drawn(figures)}, subject)


def _card(subject: Subject) -> bytes:
    try:
        return card(subject).encode()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"not a report of helmas eval ({type(error).__name__}: {error})"
        raise DataError(what, where="report.json", fix="run helmas eval again") from error


def _report(folder: Run) -> dict[str, Any] | None:
    """The report of a run; None without one. DataError for a file that is none."""
    if folder.report is None and (folder.path / "report.json").exists():
        where = str(folder.path / "report.json")
        raise DataError("not readable as JSON", where=where, fix="run helmas eval again, or take it away")
    return folder.report


def _check(report: Record, document: Record, folder: Path) -> None:
    """A report must be on this bridge, as far as it tells."""
    ours, theirs = described(document["pair"]), described(report.get("pair") or {})
    differs = [
        side
        for side in {**ours, **theirs}
        if theirs.get(side, {}).get("fingerprint") not in (None, ours.get(side, {}).get("fingerprint"))
    ]
    differs += [side for side in ours if theirs and side not in theirs]
    if (report.get("bridge") or {}).get("method") not in (None, document["method"]):
        differs.append("method")
    if differs:
        what = f"its report is on another bridge: {differs[0]} differs"
        raise DataError(what, where=str(folder), fix="evaluate this one: helmas eval --bridge RUN -o DIR")


def _names(document: Record, reports: Sequence[Record], models: Mapping[str, str]) -> Names:
    given, local = dict[str, str](), list[str]()
    configured, sides = named(document["config"]["pair"]), described(document["pair"])
    more, theirs = ([side for side in found if side.startswith("teacher_")] for found in (sides, models))
    if theirs and theirs != more:
        what = f"{len(theirs)} further teachers are named, the bridge has {len(more)}"
        raise ConfigError(what, where="pair.more_teachers", fix="name each of them, in the bridge's order")
    for side, member in sides.items():
        known = {str(member.get("id")), str(configured.get(side))}
        known |= {str(report["pair"][side].get("id")) for report in reports if side in (report.get("pair") or {})}
        local += sorted(known)
        if side in models:
            given |= dict.fromkeys(known, models[side])
    data = [*names_in(document), *(str(report.get("dataset")) for report in reports)]
    return Names(local, data, given)


def _facts(reports: Sequence[Record]) -> dict[str, Any]:
    bridge = next((report["bridge"] for report in reports if report.get("bridge")), {})
    return {key.replace("_", " "): count for key, count in bridge.items() if key.endswith("parameters")}


def _figures(reports: Sequence[Record], diagnostics: Record, run: Run) -> Document:
    """Drawn anew from what is public: the run's own may show names of this machine."""
    try:
        evidence = [Evidence(report, (), diagnostics.get(report["dataset"])) for report in reports]
        return build(evidence, read_metrics(run.metrics))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"not a report of helmas eval ({type(error).__name__}: {error})"
        raise DataError(what, where="report.json", fix="run helmas eval again") from error


def _drawn(figures: Document) -> Files:
    made: Files = {}
    with tempfile.TemporaryDirectory() as folder:
        for picture in figures.pictures():
            path = Path(folder) / f"{picture.name}.png"
            save(picture.figure, path)
            made[f"figures/{path.name}"] = path.read_bytes()
    return made


def _items(folder: Path, names: Names) -> bytes:
    path = folder / ITEMS
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="run helmas eval -o DIR, or leave --items out")
    try:
        lines = read_text(inside(folder, ITEMS), LOG).split("\n")
        rows = [parse_object(line, finite=False) for line in lines if line]
        return "".join(json.dumps({**row, "task": names.text(str(row["task"]))}) + "\n" for row in rows).encode()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"not items of helmas eval ({why(error)})", where=str(path), fix="leave --items out") from error


def _diagnostics(folder: Path) -> dict[str, Any]:
    try:
        return read_json(inside(folder, "diagnostics.json")) or {}
    except ValueError:
        return {}


def _json(value: Any) -> bytes:
    return (to_json(value) + "\n").encode()
