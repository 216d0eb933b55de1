"""Withdrawals among kills, restored backups and rosters that came first: nothing leaves that should stay."""

import signal

import numpy as np
import pandas as pd
import pytest

from client import admission, registration, session, subjects
from client.data.withdrawals import excluded_rows
from client.home import AgentHome
from client.stop_file import stop_mark
from compliance.canonical import sha256_hex
from compliance.errors import CheckFailed, EnvironmentFault, Refused, RunFailed
from compliance.identity import seal
from compliance.messages import WitnessReply, WitnessRequest, decode, encode
from compliance.roster import Reason, Roster, RosterRow
from strategies.wire import Request
from tests.federation import (
    DATA_TERMS,
    DATASET,
    SIZE,
    TRAINING,
    StandIn,
    consortium,
    day,
    die,
    entries,
    in_child,
    joined_home,
    main_study,
    open_home,
)

FIRST, SECOND = "9000", "9001"  # the identifiers of rows 0 and 1 of the table


@pytest.fixture
def home(tmp_path):
    """The home of site a after it joined the study."""
    return AgentHome(joined_home("a", tmp_path))


def _here(home, *ids):
    return subjects.withdraw(home, subjects.read_ids("\n".join(ids).encode()), "consent")


def _sha(home):
    return home.registry().datasets[0].sha256


def _withdrawal_killed_before_its_purge(home):
    def child():
        subjects.raise_stop = lambda *_: die()
        _here(AgentHome(home.path), FIRST)

    assert in_child(child) == -signal.SIGKILL


def _refused(site, request):
    with pytest.raises(RunFailed) as error:
        session.answer(site, request)
    return error.value.code


# --- a withdrawal that was killed while the agent runs ---


def test_no_committed_update_is_sent_again_after_a_killed_withdrawal(home):
    with open_home(home.path) as site:
        session.answer(site, main_study().round())
        _withdrawal_killed_before_its_purge(home)
        assert excluded_rows(home.path, DATASET, _sha(home)) == (0,)
        assert _refused(site, main_study().round()) == "RSD-2430"
        assert len(entries(site, "transfer")) == 1
        assert not list(home.path.rglob("update-*.f32"))
        session.answer(site, main_study().round(round=2))  # and the study goes on


def test_a_withdrawal_killed_between_the_commit_and_the_send_stops_the_update(home, monkeypatch):
    from client import contribution

    real = contribution._committed

    def meanwhile(*args):
        out = real(*args)
        _withdrawal_killed_before_its_purge(home)
        return out

    with open_home(home.path) as site:
        with monkeypatch.context() as patched:
            patched.setattr(contribution, "_committed", meanwhile)
            assert _refused(site, main_study().round()) == "RSD-2430"
        assert entries(site, "commit")
        assert not entries(site, "transfer")
        assert _refused(site, main_study().round()) == "RSD-2430"


# --- a round that is over at this site ---


def _sign_as_late(site):
    """The operator counts this site as late in round 1, and the site countersigns that."""
    row = RosterRow(
        site="a", jurisdiction="DE", outcome="late", reason=Reason(code="RSD-6105", rule="", message="away")
    )
    roster = Roster(
        schema="residency.roster/1",
        study=main_study().digest,
        run="run-1",
        round=1,
        unit="record",
        adjacency="add_remove",
        at=day(0),
        base_sha256=sha256_hex(np.zeros(SIZE, "<f4").tobytes()),
        result_sha256="ab" * 32,
        recipients=TRAINING,
        rows=(row,),
    )
    text = seal(roster.as_json(), consortium().operator).encode().decode()
    request = WitnessRequest(
        schema="residency.witness/1", study=main_study().digest, roster=text, offers=(), cosigned=()
    )
    reply = decode(WitnessReply, session.answer(site, Request("witness", encode(request))).body, "reply")
    assert reply.roster is not None, reply.refused


def _killed_with_an_update_on_disk(home):
    def child():
        from client import contribution

        real = contribution.write_durably

        def wrapped(path, *args, **kwargs):
            real(path, *args, **kwargs)
            if path.name == "update-1.f32":
                die()

        contribution.write_durably = wrapped
        with open_home(home.path) as site:
            session.answer(site, main_study().round())

    assert in_child(child) == -signal.SIGKILL
    assert list(home.path.rglob("update-1.f32"))


def test_a_site_that_signed_that_it_was_late_trains_no_update_of_that_round(home):
    with open_home(home.path) as site:
        _sign_as_late(site)
        assert _refused(site, main_study().round()) == "RSD-1218"
        assert site.workbench.specs == []
        assert not entries(site, "charge", "commit", "transfer")
        session.answer(site, main_study().round(round=2))


def test_an_update_on_disk_does_not_leave_once_the_site_signed_that_it_was_late(home):
    _killed_with_an_update_on_disk(home)
    with open_home(home.path) as site:
        _sign_as_late(site)
        assert _refused(site, main_study().round()) == "RSD-1218"
        assert not entries(site, "commit", "transfer")
        assert [(c.round, c.attempt) for c in site.ledger.charges(main_study().digest)] == [(1, 1)]


def test_a_withdrawal_purges_an_update_that_was_signed_as_late(home):
    _killed_with_an_update_on_disk(home)
    with open_home(home.path) as site:
        _sign_as_late(site)
    _here(home, FIRST)
    assert not list(home.path.rglob("update-*.f32"))
    with open_home(home.path) as site:
        assert _refused(site, main_study().round()) == "RSD-2430"
        assert site.workbench.specs == []
        assert not entries(site, "commit", "transfer")


# --- what was lost, or put back from a backup ---


def _put_back(home, files):
    for path in home.path.glob("rows.db*"):
        path.unlink()
    for name, data in files.items():
        (home.path / name).write_bytes(data)


def test_after_an_older_index_was_put_back_nobody_else_withdraws_first(home):
    old = {p.name: p.read_bytes() for p in home.path.glob("rows.db*")}
    _here(home, FIRST)
    _put_back(home, old)
    with pytest.raises(Refused) as error:
        _here(home, SECOND)
    assert error.value.code == "RSD-2431"
    assert excluded_rows(home.path, DATASET, _sha(home)) == ()
    _here(home, FIRST)  # the one that the log waits for
    _here(home, SECOND)
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0, 1)
    with open_home(home.path) as site:
        session.answer(site, main_study().round())


def test_the_log_names_a_withdrawal_s_subjects_under_the_site_s_secret_only(home, tmp_path):
    """The same subjects give another name at another number, and at another site: they cannot be matched or guessed."""
    _here(home, FIRST)
    _here(home, FIRST)
    (tmp_path / "b").mkdir()
    other = AgentHome(joined_home("b", tmp_path / "b"))
    _here(other, FIRST)
    named = []
    for place in (home, other):
        with open_home(place.path) as site:
            named += [e.body["named"] for e in entries(site, "withdrawal")]
    assert len(set(named)) == 3


def test_without_the_secret_nothing_goes_on_as_if_nobody_was_known(home):
    secret = home.path / "keys" / "rows.secret"
    kept = secret.read_bytes()
    secret.unlink()
    path = registration.find_dataset(home.registry(), DATASET).path
    acts = (
        lambda: _here(home, FIRST),
        lambda: registration.add_dataset(home, "again", type(secret)(path), "fresh", ["patient_id"], DATA_TERMS),
        lambda: excluded_rows(home.path, DATASET, _sha(home)),
    )
    for act in acts:
        with pytest.raises(EnvironmentFault) as error:
            act()
        assert error.value.code == "RSD-2421"
        assert not secret.exists()
    secret.write_bytes(kept)
    _here(home, FIRST)
    assert excluded_rows(home.path, DATASET, _sha(home)) == (0,)


def test_without_the_index_nobody_gets_a_fresh_ledger(home, tmp_path):
    record = home.registry().datasets[0]
    _put_back(home, {})
    fresh = tmp_path / "fresh.csv"
    pd.DataFrame({"patient_id": [f"Z{i}" for i in range(20)], "TSH": np.arange(20) * 1.37}).to_csv(fresh, index=False)
    for path in (type(fresh)(record.path), fresh):
        with pytest.raises(CheckFailed) as error:
            registration.add_dataset(home, "again", path, "fresh-ledger", ["patient_id"], DATA_TERMS)
        assert error.value.code == "RSD-2417"
    assert [d.name for d in home.registry().datasets] == [DATASET]


# --- what happens while a site is at work ---


class Busy(StandIn):
    """Lets something happen while it prepares or trains, and puts patient data into the cache after that."""

    def __init__(self, act):
        super().__init__()
        self._act = act

    def _meanwhile(self, cache):
        self._act()
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "trunk.safetensors").write_bytes(b"patient data")

    def prepare(self, case, cache):
        self._meanwhile(cache)
        return super().prepare(case, cache)

    def train(self, case, cache, *rest):
        self._meanwhile(cache)
        return super().train(case, cache, *rest)


def _cached(home):
    return list(home.path.rglob("trunk*"))


@pytest.fixture
def fresh(tmp_path):
    """The home of site a before any study."""
    (tmp_path / "fresh").mkdir()
    return AgentHome(consortium().copy_home("a", tmp_path / "fresh"))


def test_a_withdrawal_after_the_rows_were_read_is_seen_by_the_training(home, monkeypatch):
    """The mark that the training compares is older than the rows that it was given."""
    real = admission.standing

    def meanwhile(*args):
        out = real(*args)
        _here(home, FIRST)
        return out

    monkeypatch.setattr(admission, "standing", meanwhile)
    with open_home(home.path) as site:
        case = site.joined_case(main_study().digest)
    assert case.excluded == ()
    assert case.stop_mark != stop_mark(case.stop_file)


def test_what_a_join_cached_after_a_withdrawal_is_purged(fresh):
    with open_home(fresh.path) as site:
        site.workbench = Busy(lambda: _here(fresh, FIRST))
        session.answer(site, main_study().join())
        assert entries(site, "join")
    assert not _cached(fresh)


def test_what_an_attempt_cached_after_a_withdrawal_is_purged(home):
    with open_home(home.path) as site:
        site.workbench = Busy(lambda: _here(home, FIRST))
        assert _refused(site, main_study().round()) == "RSD-2430"
    assert not _cached(home)


def test_a_join_keeps_what_it_cached_if_nothing_happened(fresh):
    with open_home(fresh.path) as site:
        site.workbench = Busy(lambda: None)
        session.answer(site, main_study().join())
    assert _cached(fresh)


def test_a_dataset_that_is_retired_while_a_study_joins_is_not_used(fresh):
    with open_home(fresh.path) as site:
        site.workbench = Busy(lambda: registration.retire_dataset(fresh, DATASET))
        with pytest.raises(Refused) as error:
            session.answer(site, main_study().join())
        assert error.value.code == "RSD-2412"
        assert not entries(site, "join", "reservation")
        assert not list(fresh.path.glob("studies/*/study.json"))
        assert not _cached(fresh)
