"""Every page over a real bundle: what it shows, that it escapes, that nothing false passes for true."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest

from compliance.canonical import b64decode, canonical
from compliance.desk.app import app
from compliance.desk.render import _when
from compliance.log import merkle
from compliance.release.tlog_proof import parse
from compliance.release.verify_file import Given, judge
from tests.desk_world import (
    HOSTS,
    MARKUP,
    Reader,
    desk_of,
    marked_bundle,
    marked_world,
    with_changed_entry,
    with_cut_log,
    write,
)
from tests.world_plan import AT

PAGES = ("/", "/transfers", "/decisions", "/rounds", "/rounds/1/1", "/privacy", "/logs", "/logs/1", "/logs/1/entries",
         "/logs/1/entries/0", "/search?q=site-e", "/evidence", "/verify", "/verify/1")  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return desk_of(write(tmp_path_factory.mktemp("desk") / "bundle", marked_bundle()))


@pytest.fixture(scope="module")
def browser(desk):
    return Reader(app(desk, hosts=HOSTS))


@pytest.fixture(scope="module")
def study():
    return marked_world().study_digest


def _denial(desk):
    row = desk.books.all("SELECT log, idx FROM decision WHERE allow = 0 AND exporter = 'site-a' ORDER BY idx")[0]
    return f"/logs/{row['log']}/decisions/{row['idx']}"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_and_has_its_landmarks(browser, page):
    answer = browser.get(page)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("</html>")
    for part in ("<main", "<nav", "<h1>", 'class="skip"', "<footer>", 'lang="en"'):
        assert part in answer.text
    assert "UTC" in answer.text


@pytest.mark.parametrize("page", PAGES)
def test_no_page_holds_a_script_a_style_or_an_address_elsewhere(browser, page):
    text = browser.get(page).text
    assert not re.search(r"<script|<style|\son\w+=|\sstyle=|javascript:|https?://", text, re.IGNORECASE)


def test_markup_of_a_study_is_text_that_keeps_its_direction_to_itself(browser, study):
    for page in (f"/studies/{study}", f"/evidence/gdpr/{study}"):
        text = browser.get(page).text
        assert "<img src=x" not in text
        assert "<script" not in text
        assert "&lt;script&gt;document.title=" in text
    assert "<bdi>&lt;script&gt;" in browser.get(f"/studies/{study}").text


def test_what_is_looked_up_comes_back_as_text(browser):
    answer = browser.get("/search", params={"q": '"><script>x</script>'})
    assert 'value="&#34;&gt;&lt;script&gt;x&lt;/script&gt;"' in answer.text
    assert MARKUP[:8] not in answer.text


def test_the_overview_tells_verdict_studies_members_and_denials(browser, study):
    text = browser.get("/").text
    assert "VERIFIED: " in text
    assert f"/studies/{study}" in text
    assert "thyroid-one" in text
    assert text.count("site-e (CN)") == 5
    assert "No log that is shown holds an alarm." in text


def test_a_denial_says_why_and_what_lacked_and_comes_out_the_same_again(browser, desk):
    page = browser.get(_denial(desk)).text
    for words in ("DENY", "eu.no-basis", "GDPR Art 44", "What lacked", "Python says deny, Cedar says deny", "site-e"):
        assert words in page
    assert "The same comes out." not in page
    assert "The same comes out." in browser.get(f"{_denial(desk)}/replay").text


@pytest.mark.parametrize(
    ("query", "shown"),
    [("outcome=deny", 8), ("outcome=allow", 32), ("exporter=site-a&outcome=deny", 2), ("rule=nothing", 0),
     ("recipient=site-e", 8), ("artifact=released_model&exporter=coordinator", 5)],
)  # fmt: skip
def test_decisions_are_filtered(browser, query, shown):
    text = browser.get(f"/decisions?{query}").text
    assert len(re.findall(r'href="/logs/\d+/decisions/\d+"', text)) == shown
    assert ("No decision fits these filters." in text) == (shown == 0)


def test_the_matrix_counts_what_the_logs_hold(browser, desk):
    text = browser.get("/transfers").text
    counted = [int(n) for n in re.findall(r">(\d+) denied<", text)]
    logged = sum(
        e.kind == "decision" and not e.body["allow"] for log in desk.logs.values() for e in log.view.entries.values()
    )
    assert sum(counted) == logged == 8
    assert '<td class="denied">' in text


def test_the_same_log_in_two_places_counts_once(tmp_path):
    once = write(tmp_path / "bundle", marked_bundle())
    desk = desk_of(once, once / "evidence" / "site-a.json")
    assert len(desk.logs) == 6
    assert desk.books.one("SELECT count(*) FROM decision") == 40
    assert desk.books.one("SELECT sum(sent) FROM decision") == 16
    page = Reader(app(desk, hosts=HOSTS)).get(f"/studies/{marked_world().study_digest}").text
    assert '<td>decision</td><td class="number">40</td>' in page
    assert [c.charges for c in desk.curves[marked_world().study_digest]] == [2, 2, 2, 2, 0]


def test_every_site_of_every_round_is_shown_with_its_reason(browser):
    text = browser.get("/rounds/1/2").text
    for site in ("site-a (DE)", "site-b (FR)", "site-c (GB)", "site-d (JP)", "site-e (CN)"):
        assert f'<th scope="row">{site}</th>' in text
    assert text.count(">contributed<") == 4
    assert "no transfer basis" in text


def test_eps_is_that_of_the_release(browser, desk):
    claimed = json.loads(marked_bundle()["privacy.json"])["sites"]
    curves = {c.site: c for c in desk.curves[marked_world().study_digest]}
    assert claimed
    for row in claimed:
        assert curves[row["site"]].spent_milli == row["epsilon_milli"]
        assert f"{row['epsilon_milli'] / 1000:.3f}" in browser.get("/privacy").text


def test_an_entry_comes_with_its_text_its_hash_and_a_proof_that_others_can_check(browser, desk):
    log = desk.logs[1]
    page = browser.get("/logs/1/entries/7").text
    assert log.view.leaf_hashes[7].hex() in page
    shown = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    plain = (
        shown[1]
        .replace("&#34;", '"')
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    assert merkle.leaf_hash(canonical(json.loads(plain))) == log.view.leaf_hashes[7]
    proof = browser.get("/logs/1/entries/7/proof")
    assert proof.headers["content-disposition"] == 'attachment; filename="coordinator-7.tlog-proof"'
    parse(proof.content).check_inclusion()


def test_search_finds_hashes_rules_names_kinds_and_days(browser, desk):
    leaf = desk.logs[2].view.leaf_hashes[3].hex()
    for asked, number in ((leaf, 1), (leaf[:12], 1), ("eu.no-basis", 5), ("EU.NO-BASIS", 5), ("reservation", 4)):
        hits = re.findall(r'href="/logs/\d+/entries/\d+"', browser.get("/search", params={"q": asked}).text)
        assert len(hits) >= number, asked
    assert "No entry that is shown" in browser.get("/search?q=nothing-like-this").text
    assert "at least two characters" in browser.get("/search?q=a").text
    assert "No entry that is shown" in browser.get("/search", params={"q": "100%_"}).text


def test_downloads_check_back_without_the_desk(browser, study, tmp_path):
    dossier = browser.get(f"/evidence/gdpr/{study}/json")
    assert dossier.headers["content-disposition"].startswith('attachment; filename="gdpr-')
    path = tmp_path / "dossier.json"
    path.write_bytes(dossier.content)
    report = judge(Given(path, dossier.content, marked_world().anchor, AT))
    assert report.error is None, report.error
    assert "<!DOCTYPE html>" in browser.get(f"/evidence/hipaa/{study}/html").text
    for form, file in (("jsonl", "entries.jsonl"), ("csv", "entries.csv"), ("fhir", "entries.fhir.json")):
        archive = zipfile.ZipFile(io.BytesIO(browser.get(f"/exports/1/{form}").content))
        assert {"export.json", "leaf-hashes.txt"} < set(archive.namelist()), file
        assert json.loads(archive.read("export.json"))["signatures"] == []


def test_charts_are_images_that_run_nothing(browser, study):
    for chart in ("/charts/transfers.svg", f"/charts/privacy.svg?study={study}&theme=dark"):
        answer = browser.get(chart)
        assert answer.headers["content-type"] == "image/svg+xml"
        assert b"<script" not in answer.content
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert browser.get(chart).content == answer.content


def test_the_running_check_tells_each_step_and_what_is_proved(browser):
    text = browser.get("/verify/1").text
    names = re.findall(r'<span class="name">(\w+)</span>', text)
    assert names[:3] == ["manifest", "trust", "study"]
    assert text.count(">holds</span>") == len(names) >= 15
    assert text.index("PROVED") < text.index("ASSERTED") < text.index("NOT COVERED")


def test_a_changed_entry_is_red_everywhere_and_shown_nowhere(tmp_path):
    desk = desk_of(write(tmp_path / "tampered", with_changed_entry(marked_bundle())))
    browser = Reader(app(desk, hosts=HOSTS))
    overview = browser.get("/").text
    assert "FALSE: step 1 (manifest) is false" in overview
    assert "FALSE: <bdi>tampered/evidence/site-b.json</bdi>" in overview
    assert "1 place does not verify." in browser.get("/decisions").text
    assert {log.view.member for log in desk.logs.values()} == {"coordinator", "site-a", "site-c", "site-d"}
    assert browser.get("/verify/1").text.count(">FALSE</span>") == 1


def test_a_cut_log_is_not_consistent(tmp_path):
    desk = desk_of(write(tmp_path / "cut", with_cut_log(marked_bundle())))
    number = next(n for n, log in desk.logs.items() if log.view.member == "site-c")
    browser = Reader(app(desk, hosts=HOSTS))
    text = browser.get(f"/logs/{number}").text
    assert "FALSE: this log is not what was signed." in text
    assert "RSD-9182" in text
    assert browser.get("/logs").text.count(">FALSE</span>") == 1
    assert desk.health[number].error is not None
    assert all(h.error is None for n, h in desk.health.items() if n != number)


def test_the_check_reads_the_disk_anew(tmp_path):
    folder = write(tmp_path / "bundle", marked_bundle())
    browser = Reader(app(desk_of(folder), hosts=HOSTS))
    assert "VERIFIED" in browser.get("/verify/1").text
    write(folder, with_changed_entry(marked_bundle()))
    assert "FALSE: step 1" in browser.get("/verify/1").text


@pytest.mark.parametrize("page", ["/", "/verify"])
def test_the_newest_verdict_is_the_one_that_is_shown(tmp_path, page):
    folder = write(tmp_path / "bundle", marked_bundle())
    desk = desk_of(folder)
    browser = Reader(app(desk, hosts=HOSTS))
    write(folder, with_changed_entry(marked_bundle()))
    browser.get("/verify/1")
    text = browser.get(page).text
    assert '<span class="badge bad">FALSE: step 1' in text
    assert '<span class="badge ok">VERIFIED' not in text
    assert f"checked {_when(desk.rechecked[1].at)}" in text
    assert "which was found: VERIFIED" in text
    assert "1 place does not verify." in browser.get("/decisions").text


def test_pages_that_were_made_from_what_is_false_say_so_after_a_better_verdict(tmp_path):
    folder = write(tmp_path / "bundle", with_changed_entry(marked_bundle()))
    browser = Reader(app(desk_of(folder), hosts=HOSTS))
    write(folder, marked_bundle())
    browser.get("/verify/1")
    text = browser.get("/verify").text
    assert '<span class="badge ok">VERIFIED' in text
    assert "which was found: FALSE: step 1" in text
    assert "1 place does not verify." in browser.get("/decisions").text


def test_the_privacy_page_tells_the_bound_of_a_unit_that_several_sites_hold(browser, desk):
    rows = desk.places[0].claims.overlap
    assert rows
    table = browser.get("/privacy").text.partition("eps of a unit at several sites")[2]
    for row in rows:
        assert f'<th scope="row" class="number">{row.sites}</th><td class="number">{row.text}</td>' in table


def test_malformed_claims_are_a_flaw_and_no_table(tmp_path):
    desk = desk_of(write(tmp_path / "bundle", {**marked_bundle(), "privacy.json": b'{"schema":"x"}\n'}))
    browser = Reader(app(desk, hosts=HOSTS))
    assert "bundle, claims" in browser.get("/").text
    assert "eps of a unit at several sites" not in browser.get("/privacy").text


def test_a_run_folder_a_file_and_a_log_of_nobody_are_judged(tmp_path):
    made = marked_world()
    run = write(tmp_path / "run", made.run)
    foreign = json.loads(made.run["evidence/site-a.json"])
    foreign["origin"] = "residency/elsewhere/site-a"
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    desk = desk_of(run, run / "evidence" / "site-a.json", tmp_path / "foreign.json")
    assert [p.form for p in desk.places] == ["run folder", "file", "file"]
    assert [desk.verdicts[p.number].error is None for p in desk.places] == [True, True, False]
    assert desk.health[7].error.code == "RSD-9182"
    assert b64decode(foreign["entries"][0]["entry"], "entry")
