"""kill -9 of the agent at every durable step of a round: the ledger never refunds, one update stands for a round."""

import os
import resource
import signal

import numpy as np
import pytest

from client import contribution, session
from compliance.canonical import parse_canonical, sha256_hex
from compliance.errors import EnvironmentFault, Refused, RunFailed
from compliance.files import write_durably
from compliance.messages import RoundReply, decode
from tests.federation import consortium, die_after, entries, in_child, joined_home, main_study, open_home

BEFORE_CHARGE = ("open file", "base file")
BEFORE_BYTES = ("charge", "charge entry", "attempt file", "training", "conformance file")
AFTER_BYTES = ("update file", "commit entry", "committed file", "decision entry", "transfer entry")


@pytest.fixture
def joined(tmp_path):
    """(home, study): a copy of site a that has joined."""
    return joined_home("a", tmp_path), main_study()


def _rigged(site, point):
    """Make this process die right after `point`, once."""

    def started(*names):
        return lambda path, *_: any(path.name.startswith(n) for n in names)

    if point == "charge":
        die_after(site.ledger, "charge", lambda *_: True)
    elif point == "training":
        die_after(site.workbench, "train", lambda *_: True)
    elif point.endswith("entry"):
        die_after(site, "record", lambda kind, *_: kind == point.split()[0])
    else:
        files = {f"{n} file": f"{n}-" for n in ("open", "base", "attempt", "conformance", "update")}
        die_after(contribution, "write_durably", started(files.get(point, "committed.json")))


def _crash(home, request, point):
    def child():
        with open_home(home) as site:
            _rigged(site, point)
            session.answer(site, request)

    assert in_child(child) == -9


def _charges(site, study):
    """Attempts by the ledger, and by the log; they must agree."""
    ledger = [(c.round, c.attempt) for c in site.ledger.charges(study.digest)]
    log = [(e.body["round"], e.body["attempt"]) for e in entries(site, "charge", study=study.digest)]
    return ledger, log


def _contribution(reply):
    return decode(RoundReply, reply.body, "reply")


@pytest.mark.parametrize("point", BEFORE_CHARGE)
def test_before_the_charge_nothing_is_spent_and_the_first_attempt_is_still_the_first(joined, point):
    home, study = joined
    _crash(home, study.round(), point)
    with open_home(home) as site:
        assert _charges(site, study) == ([], [])
        assert _contribution(session.answer(site, study.round())).attempt == 1
        assert _charges(site, study) == ([(1, 1)],) * 2


@pytest.mark.parametrize("point", BEFORE_BYTES)
def test_without_committed_bytes_the_round_runs_once_more_as_a_new_charged_attempt(joined, point):
    home, study = joined
    _crash(home, study.round(), point)
    with open_home(home) as site:
        assert _charges(site, study)[0] == [(1, 1)]
        reply = session.answer(site, study.round())
        assert _contribution(reply).attempt == 2
        assert _charges(site, study) == ([(1, 1), (1, 2)],) * 2
        assert [s.attempt for s in site.workbench.specs] == [2]


@pytest.mark.parametrize("point", AFTER_BYTES)
def test_after_committed_bytes_exactly_those_are_sent_again_uncharged(joined, point):
    home, study = joined
    _crash(home, study.round(), point)
    (kept,) = home.rglob("update-1.f32")
    with open_home(home) as site:
        reply = session.answer(site, study.round())
        again = session.answer(site, study.round())
        assert site.workbench.specs == []
        assert reply.array.tobytes() == again.array.tobytes() == kept.read_bytes()
        assert _contribution(reply).update_sha256 == sha256_hex(kept.read_bytes())
        assert _charges(site, study) == ([(1, 1)],) * 2
        assert len(entries(site, "commit")) == 1


def test_a_third_attempt_is_refused_whatever_the_crashes_were(joined):
    home, study = joined
    for point in ("charge", "training"):
        _crash(home, study.round(), point)
    with open_home(home) as site:
        with pytest.raises(RunFailed) as failed:
            session.answer(site, study.round())
        assert (failed.value.code, failed.value.found, failed.value.limit) == ("RSD-1219", "3", "2")
        assert _charges(site, study) == ([(1, 1), (1, 2)],) * 2
        assert site.workbench.specs == []


@pytest.mark.parametrize("code", ["RSD-4500", "RSD-4513", "RSD-4515", "RSD-1221"])
def test_a_failed_attempt_is_never_drawn_again(joined, code):
    home, study = joined
    with open_home(home) as site:
        site.workbench.error = RunFailed(code, "the attempt failed")
        with pytest.raises(RunFailed, match="the attempt failed"):
            session.answer(site, study.round())
    with open_home(home) as site:
        with pytest.raises(RunFailed) as failed:
            session.answer(site, study.round())
        assert failed.value.code == "RSD-1218"
        assert site.workbench.specs == []
        assert _charges(site, study) == ([(1, 1)],) * 2
        assert [e.body["code"] for e in entries(site, "failure", "refusal")] == [code, code, "RSD-1218"]


def test_a_failed_attempt_is_not_drawn_again_although_its_failure_could_not_be_logged(joined, monkeypatch):
    home, study = joined
    with open_home(home) as site:
        site.workbench.error = RunFailed("RSD-4500", "not finite")
        monkeypatch.setattr(site, "record", _full_for(site, "failure", "refusal"))
        with pytest.raises(EnvironmentFault):
            session.answer(site, study.round())
    with open_home(home) as site:
        with pytest.raises(RunFailed) as failed:
            session.answer(site, study.round())
        assert failed.value.code == "RSD-1218"


@pytest.mark.parametrize("then", ["at once", "after a restart"])
def test_a_failed_attempt_is_not_drawn_again_although_the_disk_was_full(joined, monkeypatch, then):
    """What marks the failure is a file that goes, not one that comes; a kill leaves it (and one more attempt)."""
    home, study = joined

    def full(path, *args, **kwargs):
        if path.name == "failed.json":
            raise EnvironmentFault("RSD-7001", "no space")
        write_durably(path, *args, **kwargs)

    with open_home(home) as site:
        site.workbench.error = RunFailed("RSD-4500", "not finite")
        with monkeypatch.context() as patched:
            patched.setattr(contribution, "write_durably", full)
            with pytest.raises(EnvironmentFault):
                session.answer(site, study.round())
        site.workbench.error, site.workbench.specs = None, []
        if then == "at once":
            _not_drawn_again(site, study)
    with open_home(home) as site:
        _not_drawn_again(site, study)
        session.answer(site, study.round(round=2))


def _not_drawn_again(site, study):
    with pytest.raises(RunFailed) as failed:
        session.answer(site, study.round())
    assert failed.value.code == "RSD-1218"
    assert site.workbench.specs == []
    assert _charges(site, study) == ([(1, 1)],) * 2


def test_an_update_that_reached_the_disk_in_a_failed_attempt_does_not_leave(joined, monkeypatch):
    home, study = joined

    def failing(path, *args, **kwargs):
        if path.name == "failed.json":
            raise EnvironmentFault("RSD-7001", "no space")
        write_durably(path, *args, **kwargs)
        if path.name == "update-1.f32":
            raise EnvironmentFault("RSD-7001", "the folder could not be synced")

    with open_home(home) as site:
        with monkeypatch.context() as patched:
            patched.setattr(contribution, "write_durably", failing)
            with pytest.raises(EnvironmentFault):
                session.answer(site, study.round())
        site.workbench.specs = []
        _not_drawn_again(site, study)
        assert not entries(site, "commit", "transfer")


def _full_for(site, *kinds):
    real = site.record

    def record(kind, body, study):
        if kind in kinds:
            raise EnvironmentFault("RSD-5030", "no space")
        return real(kind, body, study)

    return record


def test_a_killed_worker_spends_its_attempt_and_leaves_one_more(joined):
    home, study = joined
    with open_home(home) as site:
        site.workbench.error = EnvironmentFault("RSD-4510", "the training process died")
        with pytest.raises(EnvironmentFault):
            session.answer(site, study.round())
        site.workbench.error = None
        assert _contribution(session.answer(site, study.round())).attempt == 2


def test_bytes_of_another_global_model_are_not_sent_after_a_crash(joined):
    home, study = joined
    _crash(home, study.round(), "update file")
    other = np.ones(8, dtype="<f4")
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, study.round(other))
        assert refused.value.code == "RSD-1217"
        assert not entries(site, "transfer")
        (file,) = home.rglob("committed.json")
        assert parse_canonical(file.read_bytes(), "commit")["base_sha256"] == sha256_hex(
            np.zeros(8, dtype="<f4").tobytes()
        )


def test_changed_bytes_are_not_sent(joined):
    home, study = joined
    with open_home(home) as site:
        session.answer(site, study.round())
        (kept,) = home.rglob("update-1.f32")
        kept.write_bytes(bytes(32))
        with pytest.raises(RunFailed) as failed:
            session.answer(site, study.round())
        assert failed.value.code == "RSD-1220"
        assert len(entries(site, "transfer")) == 1


def test_the_log_holds_charge_commit_count_decision_transfer_in_this_order(joined):
    home, study = joined
    with open_home(home) as site:
        before = site.log.size
        reply = _contribution(session.answer(site, study.round()))
        kinds = [e.kind for e in site.log.entries(before, site.log.size)]
        assert kinds == ["charge", "commit", "count", "decision", "transfer"]
        assert reply.charge.index < reply.commit.index < reply.decision.index < reply.transfer.index
        (transfer,) = entries(site, "transfer")
        assert transfer.body["decision"] == reply.decision.index
        assert transfer.body["sha256"] == reply.update_sha256


@pytest.mark.parametrize("kind", ["charge", "commit", "decision", "transfer"])
def test_an_entry_that_cannot_be_written_stops_the_transfer(joined, kind):
    home, study = joined
    with open_home(home) as site:
        site.record = _full_for(site, kind)
        with pytest.raises(EnvironmentFault) as fault:
            session.answer(site, study.round())
        assert (fault.value.code, fault.value.exit_code) == ("RSD-5030", 7)
        assert not entries(site, "transfer")
        assert len(site.workbench.specs) == (0 if kind == "charge" else 1)


@pytest.mark.parametrize("room", [0, 6000])
def test_a_full_disk_stops_the_transfer(joined, room):
    """RLIMIT_FSIZE: no file may grow beyond `room` bytes above the largest one."""
    home, study = joined

    def child():
        with open_home(home) as site:
            largest = max(f.stat().st_size for f in home.glob("*.db*"))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + room, largest + room))
            try:
                for _ in range(20):
                    session.answer(site, study.round())
            except EnvironmentFault as e:
                os._exit(10 if e.code in {"RSD-4120", "RSD-5030", "RSD-7001"} else 11)

    assert in_child(child) == 10
    with open_home(home) as site:  # what was written is whole
        ledger, _ = _charges(site, study)
        assert ledger in ([], [(1, 1)])
        site.log.fsck()
        transfers = len(entries(site, "transfer"))
        assert bool(transfers) <= bool(ledger)
        session.answer(site, study.round())  # with room again the round goes on
        assert len(entries(site, "transfer")) == transfers + 1


def test_a_crash_while_joining_leaves_nothing_that_a_second_join_trips_over(tmp_path):
    study, home = consortium().sign_study(), consortium().copy_home("b", tmp_path)

    def child():
        with open_home(home) as site:
            die_after(site, "record", lambda kind, *_: kind == "reservation")
            session.answer(site, study.join())

    assert in_child(child) == -9
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, study.round())
        assert refused.value.code == "RSD-1213"
        held = site.ledger.balance("b-clinic").held_milli
        session.answer(site, study.join())
        assert site.ledger.balance("b-clinic").held_milli == held
        assert _contribution(session.answer(site, study.round())).attempt == 1
