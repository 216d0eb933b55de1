"""What a site decides by: a clock that was not set back, a law set in force, and everybody whom the release reaches."""

from datetime import timedelta

import pytest

from client import session
from client import site as sites
from compliance.clock import now
from compliance.errors import Refused
from tests.federation import entries, joined_home, main_study, open_home


@pytest.fixture
def site(tmp_path):
    with open_home(joined_home("a", tmp_path)) as opened:
        yield opened


def test_a_clock_before_the_newest_entry_decides_nothing(site, monkeypatch):
    case = site.joined_case(main_study().digest)
    size = site.log.size
    monkeypatch.setattr(sites, "now", lambda: now() - timedelta(minutes=10))
    with pytest.raises(Refused, match="RSD-3065"):
        site.let_out(case, "dp_update", case.operator())
    assert [e.kind for e in site.log.entries(size)] == ["alarm"]


def test_a_law_set_that_is_no_longer_in_force_ends_every_answer(site, monkeypatch):
    monkeypatch.setattr(sites, "packs", dict)
    with pytest.raises(Refused, match="RSD-3036"):
        site.joined_case(main_study().digest)


def test_an_update_is_decided_for_all_whom_the_release_may_reach(site):
    session.answer(site, main_study().round(recipients=("a", "b")))
    told = [e.body["transfer"] for e in entries(site, "decision") if e.body["transfer"]["artifact"] == "dp_update"][-1]
    assert [p["name"] for p in told["onward"]] == ["b", "c", "d"]
