"""A site is killed while it countersigns a roster, or asked again long after: one roster a round, logged once."""

from datetime import timedelta

import pytest

from client import session, witnessing
from compliance.canonical import sha256_hex
from compliance.clock import now
from compliance.identity import seal
from compliance.messages import RoundReply, WitnessReply, WitnessRequest, decode, encode
from compliance.roster import Roster, RosterRow
from strategies.wire import Request
from tests.federation import SIZE, TRAINING, consortium, day, die, entries, in_child, joined_home, main_study, open_home


def _roster(reply, **changes):
    named = {k: getattr(reply, k) for k in ("attempt", "update_sha256", "charge", "commit", "decision", "transfer")}
    value = {
        "schema": "residency.roster/1",
        "study": main_study().digest,
        "run": "run-1",
        "round": 1,
        "unit": "record",
        "adjacency": "add_remove",
        "at": day(0),
        "base_sha256": sha256_hex(bytes(4 * SIZE)),
        "result_sha256": "ab" * 32,
        "recipients": TRAINING,
        "rows": (RosterRow(site="a", jurisdiction="DE", outcome="contributed", **named),),
    }
    return seal(Roster(**{**value, **changes}).as_json(), consortium().operator).encode().decode()


def _witness(site, roster):
    request = WitnessRequest(
        schema="residency.witness/1", study=main_study().digest, roster=roster, offers=(), cosigned=()
    )
    return decode(WitnessReply, session.answer(site, Request("witness", encode(request))).body, "reply")


@pytest.fixture
def contributed(tmp_path):
    """(home, the site's contribution to round 1)."""
    home = joined_home("a", tmp_path)
    with open_home(home) as site:
        return home, decode(RoundReply, session.answer(site, main_study().round()).body, "reply")


@pytest.mark.parametrize("point", ["the digest is fixed", "the entry is written"])
def test_killed_while_it_countersigns_a_site_signs_the_same_again_and_no_other(contributed, point):
    home, reply = contributed
    first, second = _roster(reply), _roster(reply, run="run-2")

    def child():
        with open_home(home) as site:
            owner, name = (witnessing, "write_durably") if point == "the digest is fixed" else (site, "record")
            real = getattr(owner, name)

            def then_die(*args, **kwargs):
                real(*args, **kwargs)
                die()

            setattr(owner, name, then_die)
            _witness(site, first)

    assert in_child(child) == -9
    with open_home(home) as site:
        assert _witness(site, second).roster is None
        signed = [_witness(site, first).roster for _ in range(2)]
        assert signed[0] == signed[1] is not None
        (entry,) = entries(site, "roster")
        assert entry.body["round"] == 1


def test_a_roster_is_signed_when_the_server_was_away_for_hours(contributed, monkeypatch):
    home, reply = contributed
    roster = _roster(reply)
    monkeypatch.setattr(witnessing, "now", lambda: now() + timedelta(hours=5))
    with open_home(home) as site:
        assert _witness(site, roster).roster is not None


def test_a_roster_dated_before_the_sites_own_commit_is_not_signed(contributed):
    home, reply = contributed
    with open_home(home) as site:
        refused = _witness(site, _roster(reply, at=day(-0.1)))
        assert refused.roster is None
        assert "RSD-1224" in refused.refused[0]


def test_a_repeated_join_reserves_and_records_nothing_twice(tmp_path):
    request, kinds = main_study().join(), ("study", "answer", "reservation", "join")
    with open_home(consortium().copy_home("a", tmp_path)) as site:
        session.answer(site, request)
        before = [(e.kind, e.body) for e in entries(site, *kinds)]
        held = site.ledger.balance("a-clinic").held_milli
        session.answer(site, request)
        assert [(e.kind, e.body) for e in entries(site, *kinds)] == before
        assert site.ledger.balance("a-clinic").held_milli == held
