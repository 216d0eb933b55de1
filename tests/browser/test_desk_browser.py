"""The desk in a real Chromium: every page, a denial looked up, a tampered log in red, the keyboard, paper."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.desk_world import marked_world

PAGES = ("/", "/studies/{study}", "/transfers", "/decisions", "/decisions?rule=none", "{denial}", "{denial}/replay",
         "/rounds",
         "/rounds/1/1", "/privacy", "/logs", "/logs/1", "/logs/1/entries", "/logs/1/entries/9", "/search?q=eu.no-basis",
         "/evidence", "/verify", "/verify/1", "/verify/2")  # fmt: skip


def _address(served, page):
    row = served.desk.books.all("SELECT log, idx FROM decision WHERE allow = 0 ORDER BY log, idx")[0]
    denial = f"/logs/{row['log']}/decisions/{row['idx']}"
    return page.replace("{study}", marked_world().study_digest).replace("{denial}", denial)


# A page has no script, so width and theme can break these rules only; all others hold for its text, whoever shows it.
SHOWN = ("color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size")


@pytest.mark.parametrize(("width", "theme", "rules"), [(1280, "light", ()), (360, "dark", SHOWN)])
def test_every_page_is_accessible_and_fits(look, served, width, theme, rules):
    seen = look("/", width, theme)
    for page in PAGES:
        seen.goto(_address(served, page))
        _check(seen, width, rules)


def test_evidence_is_accessible_and_fits_a_phone(look, served):
    _check(look(_address(served, "/evidence/hipaa/{study}"), 360, "dark"), 360)


def _check(seen, width, rules=()):
    assert seen.evaluate("document.documentElement.scrollWidth") <= width, seen.url
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = Axe().run(seen, options={"resultTypes": ["violations"], **only})
    assert found.violations_count == 0, f"{seen.url}: {found.generate_report()}"
    assert "owned" not in seen.title()
    assert seen.locator("script").count() == 0


def test_a_denial_is_found_by_clicking_and_decided_again(look):
    seen = look("/")
    seen.get_by_role("link", name="Decisions", exact=True).click()
    seen.get_by_label("Outcome").select_option("deny")
    seen.get_by_label("From").select_option("site-a")
    seen.get_by_role("button", name="Filter").click()
    assert seen.locator("tbody tr").count() == 2
    assert seen.locator("tbody tr.denied").count() == 2
    seen.locator("tbody tr").last.get_by_role("link").click()
    assert seen.get_by_text("GDPR Art 44").count() >= 1
    seen.get_by_role("link", name="Decide again now").click()
    assert seen.get_by_role("status").get_by_text("The same comes out.").is_visible()


def test_a_study_with_markup_is_text(look, served):
    seen = look(_address(served, "/studies/{study}"))
    assert seen.get_by_text("<script>document.title='owned'</script>").count() >= 2
    assert seen.locator("main img").count() == 0
    assert (
        seen.evaluate("[...document.querySelectorAll('bdi')].filter(e => e.textContent.includes('\u202e')).length") >= 3
    )


def test_a_tampered_log_is_red_and_says_so_in_words(look):
    seen = look("/")
    alert = seen.get_by_role("alert").filter(has_text="tampered/evidence/site-b.json")
    assert alert.get_by_text("FALSE").is_visible()
    red = alert.evaluate("e => getComputedStyle(e).borderTopColor")
    assert red == "rgb(163, 24, 15)"
    seen.get_by_role("link", name="Check tampered again, step by step").click()
    seen.wait_for_load_state("load")  # the page comes piece by piece
    assert seen.locator("ol.steps .badge.bad").inner_text() == "FALSE"
    assert seen.locator("ol.steps .badge.ok").count() == 0
    assert seen.locator(".notice.bad").last.inner_text().startswith("FALSE: step 1 (manifest) is false.")


def test_the_check_runs_before_the_readers_eyes(look):
    seen = look("/verify")
    seen.get_by_role("link", name="Check bundle now").click(no_wait_after=True)
    seen.wait_for_selector("ol.steps li")
    seen.get_by_role("heading", name="PROVED").wait_for()
    seen.get_by_role("heading", name="ASSERTED").wait_for()
    seen.get_by_role("heading", name="NOT COVERED").wait_for()
    steps = seen.locator("ol.steps li")
    assert steps.count() == seen.locator("ol.steps .badge.ok").count() >= 15


def test_the_keyboard_is_enough(look):
    seen = look("/decisions")
    seen.keyboard.press("Tab")
    skip = seen.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().top >= 0")
    seen.keyboard.press("Enter")
    assert seen.evaluate("document.activeElement.id") == "main"
    wanted = {"outcome", "exporter", "recipient", "artifact", "rule"}
    reached, regions = set(), 0
    for _ in range(14):
        seen.keyboard.press("Tab")
        focused = seen.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id, e.className, s.outlineStyle, s.outlineWidth] })()"
        )
        assert focused[2:] == ["solid", "3px"], focused
        reached.add(focused[0])
        regions += focused[1] == "table"
        if regions:
            break
    assert wanted <= reached
    assert regions == 1
    seen.keyboard.press("Tab")
    seen.keyboard.press("Enter")
    seen.wait_for_url(re.compile(r"/logs/\d+/decisions/\d+$"))


def test_the_search_is_on_every_page(look):
    seen = look("/privacy")
    seen.get_by_role("searchbox").fill("jp.no-basis")
    seen.keyboard.press("Enter")
    seen.wait_for_url("**/search?q=jp.no-basis")
    assert seen.locator("tbody tr").count() == 4  # two denials, in two places
    assert seen.get_by_text("by jp.no-basis").count() >= 1


def test_charts_are_shown_in_both_themes(look):
    for theme in ("light", "dark"):
        seen = look("/transfers", theme=theme)
        image = seen.locator("figure img")
        assert image.evaluate("e => e.complete && e.naturalWidth > 300")
        assert ("theme=dark" in image.evaluate("e => e.currentSrc")) == (theme == "dark")


def test_pages_print(look, served):
    seen = look(theme="dark")
    seen.emulate_media(media="print", color_scheme="light")
    for page in ("/transfers", "{denial}", "/verify/1"):
        seen.goto(_address(served, page))
        assert not seen.locator(".menu").is_visible()
        assert seen.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert seen.pdf(format="A4").startswith(b"%PDF")


def test_a_download_is_saved_and_not_opened(look):
    seen = look("/logs/1/entries/3")
    with seen.expect_download() as caught:
        seen.get_by_role("link", name="Download entry and proof (.tlog-proof)").click()
    assert caught.value.suggested_filename == "coordinator-3.tlog-proof"
