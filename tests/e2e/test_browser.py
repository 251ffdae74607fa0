"""The page in a real browser: no word on the console, no request, it fits a phone, and its filter filters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helmas_core.report.document import build
from helmas_core.report.html import html
from helmas_core.report.inspection import inspection
from tests.evidence import HOSTILE, curves, evidence, found

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium: the system's, or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api")
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu"])
        except playwright.Error as error:
            pytest.skip(f"no browser here: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(build([evidence(HOSTILE), replace(evidence("plain"), diagnostics=None)], curves())), "utf-8")
    return path


class Watched:
    """A page, and everything that it complained of, asked the network for, or popped up."""

    def __init__(self, browser: Browser, path: Path, **context: Any) -> None:
        self.page: Page = browser.new_page(**context)
        self.seen: list[str] = []
        self.page.on("console", lambda message: self.seen.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.seen.append(f"request: {request.url}"))
        self.page.goto(path.as_uri())
        self.seen = [line for line in self.seen if line != f"request: {path.as_uri()}" and "request: data:" not in line]

    def _dismiss(self, dialog: Dialog) -> None:
        self.seen.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def shown(self, place: int) -> list[str]:
        """The visible examples of a section, by the number that their id begins with."""
        items = self.page.locator(f"#items{place} article:visible").all()
        return [str(item.get_attribute("data-id")).split("-")[0] for item in items]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_quiet_page_that_fits(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    watched = Watched(browser, report, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = watched.page
    assert watched.seen == []
    assert page.title() == "helmas report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")
    page.click("#theme")
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)") != dark
    page.close()


def test_the_filter_shows_where_two_arms_differ(browser: Browser, report: Path) -> None:
    watched = Watched(browser, report)
    page, form = watched.page, watched.page.locator("form.filter").first
    everything = [str(number) for number in range(10)]
    assert watched.shown(1) == everything
    form.locator("[name=how]").select_option("text")
    assert watched.shown(1) == ["0", "3", "6", "9"]
    assert form.locator("output").inner_text() == "4 of 10 shown"
    form.locator("[name=how]").select_option("won")
    assert watched.shown(1) == []
    form.locator("[name=one]").select_option("text")
    form.locator("[name=other]").select_option("bridge")
    assert watched.shown(1) == ["0", "3", "6", "9"]
    form.locator("[name=category]").select_option("even")
    assert watched.shown(1) == ["0", "6"]
    form.locator("[name=how]").select_option("")
    form.locator("[name=category]").select_option(index=0)
    form.locator("[name=word]").fill("QUESTION 7")
    assert watched.shown(1) == ["7"]
    assert watched.shown(2) == everything
    assert watched.seen == []
    page.close()


def test_without_its_script_everything_is_shown(browser: Browser, report: Path) -> None:
    watched = Watched(browser, report, java_script_enabled=False)
    assert len(watched.shown(1)) == 10
    assert not watched.page.locator("form.filter").first.is_visible()
    watched.page.close()


def test_the_policy_stops_a_script_that_is_not_its_own(browser: Browser, report: Path, tmp_path: Path) -> None:
    """The second wall: were something not escaped, it would still not run."""
    broken = tmp_path / "broken.html"
    broken.write_text(report.read_text("utf-8").replace("<main>", "<main><script>document.title = 'mine'</script>"))
    watched = Watched(browser, broken)
    assert watched.page.title() == "helmas report"
    assert any("Content Security Policy" in line for line in watched.seen)
    watched.page.close()


def test_an_inspection_is_as_quiet(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "inspect.html"
    path.write_text(inspection(found(), "item <9>"), "utf-8")
    watched = Watched(browser, path, viewport={"width": 360, "height": 900})
    assert watched.seen == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360
    watched.page.close()
