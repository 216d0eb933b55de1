"""A site counts the persons behind what it lets out: durably, before the decision, and never in the clear."""

import json
import shutil
from datetime import timedelta

import pytest

from client import admission, session
from client.data import withdrawals
from client.data.row_index import RowIndex
from client.home import AgentHome
from compliance import clock
from compliance.clock import now
from compliance.errors import InputError, Refused
from compliance.law.counters import Counters, bucket
from tests.federation import consortium, entries, joined_home, main_study, open_home

PERSONS = 437_219_680  # in this site's data source; long enough that no digest holds it by chance


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "people_at_most", lambda _home, _source: PERSONS)
    return joined_home("a", tmp_path)


@pytest.mark.parametrize(("people", "counted"), [(3, 10), (100, 100), (101, 110), (1000, 1000), (1001, 1100)])
def test_people_are_rounded_up_so_that_no_threshold_is_passed_unseen(tmp_path, monkeypatch, people, counted):
    monkeypatch.setattr(RowIndex, "people", lambda _index, _source: people)
    assert withdrawals.people_at_most(AgentHome(consortium().copy_home("a", tmp_path)), "population") == counted


def test_two_extracts_of_one_source_count_everybody_once(tmp_path):
    index = RowIndex(tmp_path / "rows.db", b"s" * 32)
    with index._database.writing() as connection:
        for name, source, subjects in (("one", "s", "abc"), ("two", "s", "bcde"), ("other", "t", "xyz")):
            connection.execute("INSERT INTO extracts VALUES (?, ?, '')", (name, source))
            for at, subject in enumerate(subjects):
                connection.execute("INSERT INTO members VALUES (?, ?, ?, ?)", (name, at, b"r", subject.encode()))
    assert (index.people("s"), index.people("t"), index.people("nobody")) == (5, 3, 0)
    index.close()


@pytest.fixture
def site(home):
    with open_home(home) as opened:
        yield opened


def _rows(home):
    with Counters.open(home / "counters.db") as counters:
        return counters.head()[0]


def test_joining_and_asking_count_nobody(site, home):
    case = site.joined_case(main_study().digest)
    assert case.decide("dp_update", case.operator()).allow
    assert _rows(home) == 0


def test_an_update_is_counted_for_each_who_gets_it_before_the_decision_is_logged(site, home):
    before = site.log.size
    session.answer(site, main_study().round())
    kinds = [e.kind for e in site.log.entries(before, site.log.size)]
    assert kinds == ["charge", "commit", "count", "decision", "transfer"]
    assert _rows(home) == 4  # the operator, and the three other recipients
    session.answer(site, main_study().round())  # sent again: the same persons, the same day
    assert _rows(home) == 4


def test_no_update_leaves_if_the_count_cannot_be_kept(site, monkeypatch):
    def full(*_, **__):
        raise InputError("RSD-3050", "no room")

    monkeypatch.setattr(Counters, "record", full)
    before = len(entries(site, "decision"))
    with pytest.raises(InputError, match="RSD-3050"):
        session.answer(site, main_study().round())
    assert len(entries(site, "decision")) == before
    assert not entries(site, "transfer")


def _damaged(home):
    data = bytearray((home / "counters.db").read_bytes())
    data[:4096] = b"\xff" * 4096
    (home / "counters.db").write_bytes(bytes(data))


def _lost(home):
    for file in home.glob("counters.db*"):
        file.unlink()


@pytest.mark.parametrize(("harm", "code"), [(_damaged, "RSD-3050"), (_lost, "RSD-3060")], ids=["damaged", "lost"])
def test_harmed_counters_let_nothing_out_that_needs_them(home, harm, code):
    with open_home(home) as site:
        session.answer(site, main_study().round())
    harm(home)
    with open_home(home) as site:
        sent = len(entries(site, "transfer"))
        for ask in (
            lambda: session.answer(site, main_study().round()),
            lambda: session.answer(site, main_study().join()),
        ):
            with pytest.raises((InputError, Refused), match=code):
                ask()
        assert len(entries(site, "transfer")) == sent
        with pytest.raises((InputError, Refused), match=code):  # what `agent start` asks first
            site.tally.check()


def test_an_older_copy_of_the_counters_is_found_out(home, tmp_path):
    with open_home(home) as site:
        site.tally.record(_allowed(site, ()), "another-source", 10)
    kept = tmp_path / "kept.db"
    shutil.copyfile(home / "counters.db", kept)
    with open_home(home) as site:
        session.answer(site, main_study().round())
    _lost(home)
    shutil.copyfile(kept, home / "counters.db")
    with open_home(home) as site, pytest.raises(Refused, match="RSD-3060"):
        session.answer(site, main_study().round())


def _allowed(site, onward):
    case = site.joined_case(main_study().digest)
    found = case.decide("dp_update", case.operator(), onward)
    assert found.allow
    return found


def test_with_the_clock_set_back_nothing_that_is_counted_leaves(site, monkeypatch):
    session.answer(site, main_study().round())
    case = site.joined_case(main_study().digest)
    monkeypatch.setattr(admission, "now", lambda: now() - timedelta(minutes=10))
    with pytest.raises(Refused, match="RSD-3051"):
        case.decide("dp_update", case.operator())
    assert case.decide("answer", case.operator()).allow  # which nobody counts
    assert clock.now is not admission.now


def test_no_log_output_or_error_tells_the_number_of_persons(site, home, capsys):
    session.answer(site, main_study().round())
    _lost(home)
    with pytest.raises(Refused) as refused:
        session.answer(site, main_study().round())
    told = capsys.readouterr()
    logged = json.dumps([e.body for e in entries(site, "count", "decision", "transfer", "refusal")])
    for text in (told.out, told.err, str(refused.value), json.dumps(refused.value.as_json()), logged):
        assert str(PERSONS) not in text
    data = b"".join(file.read_bytes() for file in home.glob("log.db*"))
    assert b'"rows":4' in data
    assert str(PERSONS).encode() not in data


def test_a_site_in_china_is_told_its_count_of_the_year_in_a_bucket(tmp_path):
    with open_home(consortium().copy_home("e", tmp_path)) as site:
        case = admission.open_case(site.home, main_study().data, "study")
        (count,) = case.decide("dp_update", case.operator()).transfer.counts
        persons = case.people
    assert (count.counter, count.recipient) == ("cn_calendar_year", "*")
    assert count.at_most == bucket(persons) != persons
