"""The page of a dossier in a real Chromium: accessible, narrow and printed; hostile text stays text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from compliance.dossier.page import html
from tests.dossiers import dossier

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the run, with a hostile name of the study."""
    made = dossier("pipl", "site-a")
    path = tmp_path_factory.mktemp("page") / "dossier.html"
    path.write_text(html(made.model_copy(update={"study": made.study.model_copy(update={"name": HOSTILE})})))
    return path


@pytest.fixture
def page(chromium: Browser, file: Path) -> Iterator[Page]:
    shown = chromium.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    errors: list[str] = []
    shown.on("request", lambda r: asked.append(r.url))
    shown.on("console", lambda m: errors.append(m.text))
    shown.goto(file.as_uri())
    yield shown
    assert asked == [file.as_uri()]
    assert errors == []
    shown.close()


def test_it_is_accessible_and_says_what_it_is_not(page: Page) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()
    text = page.inner_text("main")
    for said in ("DRAFT, no counsel", "legal advice", "a finding of lawfulness", "NOT COVERED"):
        assert said in text
    assert page.locator("tr.deny").count() >= 2
    assert page.title() != "owned"
    assert HOSTILE in text
    assert page.locator("script, img").count() == 0


def test_it_reads_on_a_phone_and_by_keyboard(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "What is shown for which article"


def test_each_row_leads_to_its_entry(page: Page) -> None:
    anchors = page.evaluate("[...document.querySelectorAll('td a')].map(a => a.getAttribute('href').slice(1))")
    assert len(anchors) > 25
    assert page.evaluate("names => names.filter(n => !document.getElementById(n))", anchors) == []


def test_it_prints_on_a4(page: Page) -> None:
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF-")
    assert b"841.9" in printed  # A4 on its long side
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1032, "height": 672})
    wide = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > document.body.clientWidth + 1).length"
    assert page.evaluate(wide) == 0
