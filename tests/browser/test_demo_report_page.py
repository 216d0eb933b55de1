"""The demo's report as a person sees it: nothing is cut off, on a screen and on a telephone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from demo.cast import OPERATOR, SITES
from demo.outcome import Arrow
from demo.report import render
from tests.finished_demo import STUDY, finished

HIDDEN = "[document.documentElement, ...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
OVERLAPS = """[...document.querySelectorAll('td, th')].filter(e => e.scrollWidth > e.clientWidth + 1).length"""


def _page() -> str:
    names = [*(s.name for s in SITES), OPERATOR]
    found = finished()
    found.arrows = [
        Arrow(one, other, artifact, "allow", rule)
        for one in names
        for other in names
        for artifact, rule in (("dp_update", "jp.aggregate.designated"), ("conformance_report", "eu.administration"))
        if one != other
    ]
    return render(found, STUDY)


@pytest.mark.parametrize(("width", "scrolls"), [(1280, False), (400, True)])
def test_nothing_is_cut_off(chromium: Browser, width: int, scrolls: bool) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.set_content(_page())
    document, *tables = page.evaluate(HIDDEN)
    assert document == 0
    assert any(tables) is scrolls
    assert page.evaluate(OVERLAPS) == 0
    page.close()
