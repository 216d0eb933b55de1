"""What the desk says of a home's log: alarms, expired entries, what nobody cosigned; and that every page is timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compliance.desk.app import app
from compliance.desk.model import make
from compliance.desk.sources import read_places
from compliance.desk.timing import page_times_ms
from compliance.log.alarms import alarm, raise_alarm
from compliance.log.store import LogStore
from tests.desk_world import HOSTS, Reader, desk_of, marked_bundle, marked_world, write


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


def test_an_expired_entry_is_proven_and_no_fault(tmp_path):
    (place,) = read_places([write(tmp_path / "bundle", marked_bundle())])
    log = place.logs[0]
    kept = {i: e for i, e in log.view.entries.items() if i != 4}
    view = replace(log.view, entries=kept, expired={4: "decision"})
    desk = make([replace(place, logs=(replace(log, view=view), *place.logs[1:]))], marked_world().anchor)
    reader = Reader(app(desk, hosts=HOSTS))
    page = reader.get("/logs/1/entries/4").text
    assert "Expired under class decision, leaf proven." in page
    assert log.view.leaf_hashes[4].hex() in page
    assert "Expired under" not in reader.get("/logs/1/entries/5").text
    assert '<th scope="row">decision</th><td class="number">1</td>' in reader.get("/logs/1").text
    assert desk.health[1].error is None


def test_every_kind_of_page_is_timed_and_answered(tmp_path):
    desk = desk_of(write(tmp_path / "bundle", marked_bundle()))
    times = page_times_ms(desk, 1)
    assert len(times) > 30
    assert all(t > 0 for t in times)
