"""Reports as Markdown and as a page: what they hold, that nothing of a model's or a file's text acts in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from helmas_core.evaluation.figures import curve_figure
from helmas_core.report.document import Evidence, build, categories, diagnostic_pictures
from helmas_core.report.html import html
from helmas_core.report.inspection import inspection
from helmas_core.report.markdown import markdown
from helmas_core.report.tables import costs_table
from helmas_core.report.write import write_report
from helmas_core.runs import Run, read_metrics
from tests.evidence import HOSTILE, SAMPLE, curves, diagnostics, evidence, found

pytestmark = pytest.mark.unit


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return html(build([evidence(HOSTILE), evidence("plain")], curves()))


def test_a_page_holds_every_part(page: str) -> None:
    said = " ".join(Page(page).words)
    for words in (
        "[.700, .990]",
        "bridge-deranged",
        "Accuracy of each arm",
        "median time per item",
        "Blend weights",
        "Gates by layer",
        "attention output",
        "RMS, bridged over own",
        "Share of attention on what was injected",
        "Effective rank",
        "Accuracy by category",
        "Learning curves",
        "answers go on from:",
        "What only the teacher read",
        "said 0",
    ):
        assert words in said, words


def test_a_page_fetches_nothing_and_runs_only_its_own_script(page: str) -> None:
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not {tag for tag, _ in tags} & {"img", "iframe", "object", "embed", "base"}
    links = [value for _, found in tags for name, value in found.items() if name in ("src", "href", "xlink:href")]
    assert links
    assert all(value is not None and value.startswith(("#", "data:")) for value in links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert not [name for _, found in tags for name in found if name.startswith("on")]


def test_hostile_text_is_shown_and_does_nothing(page: str) -> None:
    assert "\x1b" not in page and "\x07" not in page and "\u202e" not in page
    parsed = Page(page)
    assert "alert" not in "".join(str(found) for tag, found in parsed.tags if tag in ("script", "b", "img"))
    said = "".join(parsed.words)
    assert "</script><script>alert(1)</script>" in said
    assert "\\x1b[31m" in said


def test_ids_are_unique_and_labels_meet_their_targets(page: str) -> None:
    tags = Page(page).tags
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "data-items"):
        assert {found[name] for _, found in tags if name in found} <= set(ids)
    targets = {
        str(found[n])[1:] for _, found in tags for n in ("href", "xlink:href") if str(found.get(n)).startswith("#")
    }
    assert targets <= set(ids)


def test_every_figure_has_words_and_every_table_headers(page: str) -> None:
    tags = Page(page).tags
    images = [found for _, found in tags if found.get("role") == "img"]
    assert images and all(found["aria-label"] for found in images)
    assert [tag for tag, _ in tags].count("figure") == len(images)
    assert all(found.get("scope") in ("row", "col") for tag, found in tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags


def test_markdown_escapes_and_links_its_figures(tmp_path: Path) -> None:
    text = markdown(build([evidence(HOSTILE)], curves()))
    assert "<script" not in text.replace("\\<script", "")
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("| bridge ")]
    assert rows[0].replace("\\", "").startswith("| bridge | .900 | [.700, .990] | 10 |")
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert max(widths) < 20


def test_a_report_without_more_than_the_arms() -> None:
    bare = {key: value for key, value in SAMPLE.items() if key in ("dataset", "split", "n", "arms")}
    for arm in bare["arms"].values():
        assert arm["seconds_p50"]
    timeless = {name: {**arm, "seconds_p50": None, "seconds_p95": None} for name, arm in bare["arms"].items()}
    report = build([Evidence({**bare, "arms": timeless})])
    assert [picture.name for picture in report.pictures()] == ["accuracy-relay"]
    assert "Examples" not in html(report)
    assert "| bridge |" in markdown(report)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"verdict": {"text": "content effect +.41; <as good> as text"}}, "content effect +.41; <as good> as text"),
        ({"costs": {"bridge": {"prefill": {"seconds_p50": 0.25}}, "text": {}}}, "prefill.seconds p50"),
        ({"overlap": {"items": 3, "share": 0.1}}, "overlap.items"),
        ({"warnings": ["the bridge was trained on <these>"]}, "warning: the bridge was trained on <these>"),
    ],
)
def test_what_an_evaluation_may_add(more: dict[str, Any], words: str) -> None:
    report = build([Evidence({**SAMPLE, **more})])
    assert words in " ".join(Page(html(report)).words)
    assert words in markdown(report).replace("\\", "")


def test_a_cost_that_no_arm_has_is_no_column() -> None:
    head, rows = costs_table({"text": {"seconds": {"a": None, "b": 1.5}, "joules": None}, "own": {"seconds": {"b": 2}}})
    assert (head, rows) == (["arm", "seconds.b"], [["text", "1.500"], ["own", "2"]])


def test_categories_need_two() -> None:
    items = [{"category": c, "arms": {"bridge": {"right": r}}} for c, r in (("b", 1), ("a", 0), ("b", 0), (None, 1))]
    assert categories(items) == [
        ("(none)", 1, {"bridge": 1.0}),
        ("a", 1, {"bridge": 0.0}),
        ("b", 2, {"bridge": 0.5}),
    ]
    assert categories(items[:1]) == []


def test_files_of_a_report(tmp_path: Path) -> None:
    trained = Run(tmp_path / "trained")
    trained.path.mkdir()
    trained.metrics.write_text("".join(json.dumps(row) + "\n" for row in curves()) + '{"step": 3, "ev')
    assert read_metrics(trained.metrics) == curves()
    both = [replace(evidence(HOSTILE), diagnostics=None), evidence(HOSTILE)]
    made = write_report(Run(tmp_path / "out"), {"reports": []}, both, trained)
    assert len(made) == len(set(made))
    assert all(path.stat().st_size for path in made)
    names = {path.name for path in made}
    assert {"report.json", "report.md", "report.html", "items.jsonl", "diagnostics.json", "curves.png"} <= names
    linked = set(re.findall(r"\(figures/(.+?\.png)\)", (tmp_path / "out/report.md").read_text()))
    assert linked == {path.name for path in (tmp_path / "out/figures").iterdir()}
    rows = [json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines()]
    assert rows == [*both[0].items, *both[1].items]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".", "", "con", "a/../../b", "x" * 500, "-rf", HOSTILE, "a\\..\\b", "\x00"]
)
def test_a_data_sets_name_stays_inside_the_folder(tmp_path: Path, name: str) -> None:
    one = evidence("plain")
    out = tmp_path / "in" / "out"
    made = write_report(Run(out), {}, [replace(one, report={**one.report, "dataset": name}), one])
    assert all(path.resolve().parent in (out, out / "figures") for path in made)
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {out, out / "figures"}
    assert all(re.fullmatch(r"[\w.@-]+\.png", path.name) for path in (out / "figures").iterdir())
    assert list((tmp_path / "in").iterdir()) == [out]


def test_a_page_of_an_inspection() -> None:
    parsed = Page(inspection(found(), "item <9>"))
    said = "".join(parsed.words)
    for words in ("<b>Ka</b>", "Against item <9>", "lens, layer 1", "The bridged cache, by itself", "Key cosine"):
        assert words in said, words
    marks = [dict(found) for tag, found in parsed.tags if tag == "span" and "style" in found]
    assert max(float(str(mark["style"]).removeprefix("--m: ")) for mark in marks) == 1.0


def test_diagnostics_that_are_missing_leave_their_figures_out() -> None:
    def names(**without: None) -> Iterator[str]:
        return (picture.name for picture in diagnostic_pictures({**diagnostics(), **without}, "relay"))

    assert {"gates-relay", "blend-k-relay", "mass-relay", "heads-relay"} <= set(names())
    assert not {"gates-relay", "blend-k-relay"} & set(names(gate=None, blend=None))


def test_a_curve_shows_every_loss() -> None:
    names = [f"loss {index}" for index in range(10)]
    rows = [{"step": step, "event": "train", **dict.fromkeys(names, 1.0 / step)} for step in (1, 2)]
    assert [str(line.get_label()) for line in curve_figure({"": rows}).axes[0].get_lines()] == names
