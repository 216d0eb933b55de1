"""What the desk says of a home's log: alarms, expired entries, what nobody cosigned; and that every page is timed."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from compliance.desk.app import app
from compliance.desk.model import make
from compliance.desk.sources import read_places
from compliance.desk.timing import page_times_ms
from compliance.log import tree
from compliance.log.alarms import alarm, raise_alarm
from compliance.log.entry import new_entry
from compliance.log.read_only import look
from compliance.log.store import LogStore
from tests.desk_world import HOSTS, Reader, desk_of, marked_bundle, marked_world, write
from tests.log_drafts import refusal_body


@pytest.fixture
def home(tmp_path, capfd):
    made = marked_world()
    with LogStore.open(tmp_path / "home" / "log.db", made.origin("site-a"), made.log_signer("site-a").private) as log:
        log.append("study", {"name": "thyroid-one"}, made.study_digest)
        raise_alarm(log, alarm("RSD-5040", made.origin("site-b"), found="<b>another root</b>", limit="one root"))
        log.checkpoint()
        log.append("study", {"name": "thyroid-two"}, "a" * 64)
    capfd.readouterr()
    return tmp_path / "home"


def test_an_alarm_is_seen_on_the_overview_and_at_its_log(home):
    desk = make(read_places([home]), marked_world().anchor)
    reader = Reader(app(desk, hosts=HOSTS))
    assert [(told.log, told.alarm.code, told.stands) for told in desk.alarms] == [(1, "RSD-5040", True)]
    for page in ("/", "/logs/1"):
        text = reader.get(page).text
        assert '<span class="badge bad">fork</span>' in text
        assert "&lt;b&gt;another root&lt;/b&gt;" in text
    later = make(read_places([home, home]), marked_world().anchor)
    assert len(later.alarms) == 1


def test_a_home_is_judged_and_a_study_without_its_text_is_named(home):
    desk = make(read_places([home]), marked_world().anchor)
    reader = Reader(app(desk, hosts=HOSTS))
    assert (desk.places[0].form, desk.verdicts[1].error) == ("home", None)
    assert "thyroid-two" in reader.get("/").text
    assert "the study itself is in no place" in reader.get(f"/studies/{'a' * 64}").text.lower()
    page = reader.get("/logs/1/entries/2").text
    assert "by nobody else that is known here" in page
    assert "/proof" not in page
    assert reader.get("/logs/1/entries/2/proof").status_code == 404
    assert "Nobody else has cosigned this log" in reader.get("/logs/1").text


def test_a_home_is_read_once_at_the_start_and_anew_when_it_is_checked(home, monkeypatch):
    looks = []
    monkeypatch.setattr("compliance.log.view.look", lambda path, action: looks.append(path) or look(path, action))
    desk = make(read_places([home]), marked_world().anchor)
    assert (len(looks), desk.verdicts[1].error) == (1, None)
    with closing(sqlite3.connect(home / "log.db")) as log, log:
        log.execute("DROP TRIGGER IF EXISTS entries_stay")
        log.execute("UPDATE entries SET data = CAST(replace(data, 'thyroid-one', 'thyroid-1ne') AS BLOB)")
    assert "FALSE" in Reader(app(desk, hosts=HOSTS)).get("/verify/1").text
    assert len(looks) > 1


def test_an_expired_entry_is_proven_and_no_fault(tmp_path):
    (place,) = read_places([write(tmp_path / "bundle", marked_bundle())])
    log = place.logs[0]
    kept = {i: e for i, e in log.view.entries.items() if i != 4}
    view = replace(log.view, entries=kept, expired={4: "decision"})
    desk = make([replace(place, logs=(replace(log, view=view), *place.logs[1:]))], marked_world().anchor)
    reader = Reader(app(desk, hosts=HOSTS))
    page = reader.get("/logs/1/entries/4").text
    assert "Removed under class decision; its leaf hash stands." in page
    assert log.view.leaf_hashes[4].hex() in page
    assert "Expired under" not in reader.get("/logs/1/entries/5").text
    assert '<th scope="row">decision</th><td class="number">1</td>' in reader.get("/logs/1").text
    assert desk.health[1].error is None


def test_every_kind_of_page_is_timed_and_answered(tmp_path):
    desk = desk_of(write(tmp_path / "bundle", marked_bundle()))
    times = page_times_ms(desk, 1)
    assert len(times) > 30
    assert all(t > 0 for t in times)


def test_two_histories_of_one_log_are_shown_as_false_though_each_alone_verifies(tmp_path, home):
    made = marked_world()
    shutil.copytree(home, tmp_path / "other")
    for folder in (home, tmp_path / "other"):
        with LogStore.open(folder / "log.db", made.origin("site-a"), made.log_signer("site-a").private) as log:
            log.append("refusal", refusal_body(1))
            log.checkpoint()
    one = make(read_places([home, home]), made.anchor)
    assert (one.flaws, [h.error for h in one.health.values()]) == ((), [None, None])
    two = make(read_places([home, tmp_path / "other"]), made.anchor)
    assert [report.error for report in two.verdicts.values()] == [None, None]
    assert [flaw.error.code for flaw in two.flaws] == ["RSD-5040", "RSD-5040"]
    reader = Reader(app(two, hosts=HOSTS))
    for page in ("/", "/logs", "/logs/1", "/logs/2"):
        assert "they part at entry 3" in reader.get(page).text


def test_an_entry_of_another_shape_and_a_stray_file_stop_no_page(tmp_path, home):
    made = marked_world()
    with closing(sqlite3.connect(home / "log.db", isolation_level=None)) as connection:
        entry = new_entry(3, "2026-11-21T10:00:00Z", "transfer", {"decision": {"index": 1}})
        tree.insert(connection, 3, [entry.encode()])
    bundle = write(tmp_path / "bundle", {**marked_bundle(), "answers/README": b"read me"})
    reader = Reader(app(make(read_places([home, bundle]), made.anchor), hosts=HOSTS))
    assert reader.get("/logs/1/entries/3").status_code == 200
    assert reader.get(f"/studies/{made.study_digest}").status_code == 200
