"""A report, or an inspection, as one HTML file: styles, script and figures inside, nothing fetched. No torch here.

Whatever comes from models and data is escaped, and the page's own policy lets only its own script run, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from helmas_core.evaluation.figures import svg
from helmas_core.plain import printable
from helmas_core.report import tables
from helmas_core.report.document import Document, Picture

TEMPLATES = Path(__file__).parent / "templates"


def html(document: Document) -> str:
    """The whole page of a report."""
    return render("report.html", document=document)


def render(name: str, **values: Any) -> str:
    script = (TEMPLATES / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (TEMPLATES / "page.css").read_text("utf-8")
    own = {"script": Markup(script), "style": Markup(style), "digest": digest}
    return _environment().get_template(f"{name}.jinja").render(**own, **values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    made.filters.update(svg=_inline, token=token)
    made.globals.update(tables=tables)
    return made


def shown(value: Any) -> Any:
    """Text with its control characters escaped; markup of ours and everything else as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def token(text: str) -> str:
    """A token that keeps to one line and can be seen, blanks too."""
    seen = text.replace("\n", "↵").replace("\t", "⇥")
    return seen if seen.strip() else seen.replace(" ", "␣") or "∅"


def _inline(picture: Picture) -> Markup:
    return Markup(svg(picture.figure, picture.name))
