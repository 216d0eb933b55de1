"""kill -9 of the agent at every durable step of the evaluation: one charge, one draw of the noise, the same bytes."""

import json
import shutil

import numpy as np
import pytest

from client import evaluation, session, subjects
from client.closing import settle
from client.home import AgentHome
from compliance.canonical import parse_canonical
from compliance.errors import EnvironmentFault, InputError, Refused, RunFailed
from compliance.evaluation.histogram import Histogram
from compliance.identity import parse_envelope
from compliance.messages import EvaluateReply, decode
from compliance.study_event import also_done
from compliance.validation import load_model
from strategies.wire import Request
from tests.federation import SIZE, consortium, die, die_after, entries, in_child, joined_home, main_study, open_home

LOST = ("charge", "charge entry", "counting")  # charged, and nothing on disk: no second draw
KEPT = ("histogram file", "evaluation entry", "committed file", "second decision entry", "transfer entry")
EVALUATION = {"noise_multiplier_micro": 4_000_000, "bins": 10}


@pytest.fixture(scope="module")
def study():
    return consortium().sign_study(evaluation=EVALUATION)


@pytest.fixture(scope="module")
def joined(study, tmp_path_factory):
    home = consortium().copy_home("a", tmp_path_factory.mktemp("joined"))
    with open_home(home) as site:
        session.answer(site, study.join())
        session.answer(site, study.last_roster())
    return home


@pytest.fixture
def home(joined, tmp_path):
    return shutil.copytree(joined, tmp_path / "a")


def _rigged(site, point):
    """Make this process die right after `point`, once."""

    decisions = []
    if point == "charge":
        die_after(site.ledger, "charge", lambda *_: True)
    elif point == "counting":
        die_after(site.workbench, "evaluate", lambda *_: True)
    elif point == "second decision entry":
        die_after(site, "record", lambda kind, *_: kind == "decision" and (decisions.append(1) or len(decisions) == 2))
    elif point.endswith("entry"):
        die_after(site, "record", lambda kind, *_: kind == point.split()[0])
    else:
        file = {"model file": "base-1", "histogram file": "histogram-1", "committed file": "committed.json"}[point]
        die_after(evaluation, "write_durably", lambda path, *_: path.name.startswith(file))


def _crash(home, request, point):
    def child():
        with open_home(home) as site:
            _rigged(site, point)
            session.answer(site, request)

    assert in_child(child) == -9


def _charges(site, study):
    """By the ledger, and by the log; they must agree."""
    ledger = [(c.round, c.attempt, c.event) for c in site.ledger.charges(study.digest)]
    log = [(e.body["round"], e.body["attempt"]) for e in entries(site, "charge", study=study.digest)]
    assert [c[:2] for c in ledger] == log
    return ledger


def _event(site, study):
    (event,) = also_done(site.joined_case(study.digest).study)
    return event


def _reply(reply):
    return decode(EvaluateReply, reply.body, "reply")


def _histogram(reply):
    payload = parse_canonical(parse_envelope(_reply(reply).histogram.encode(), "h").payload, "h")
    return load_model(Histogram, payload, "RSD-1210", "h")


@pytest.mark.parametrize("point", LOST)
def test_a_charge_without_a_histogram_is_lost_and_nothing_is_drawn_again(home, study, point):
    _crash(home, study.evaluate(), point)
    with open_home(home) as site:
        for _ in range(2):
            with pytest.raises(RunFailed) as failed:
                session.answer(site, study.evaluate())
            assert failed.value.code == "RSD-1263"
        assert site.workbench.specs == []
        assert _charges(site, study) == [(0, 1, _event(site, study))]
        assert not entries(site, "evaluation", "transfer")


def test_a_crash_before_the_charge_costs_nothing(home, study):
    _crash(home, study.evaluate(), "model file")
    with open_home(home) as site:
        assert _charges(site, study) == []
        session.answer(site, study.evaluate())
        assert len(_charges(site, study)) == 1


@pytest.mark.parametrize("point", KEPT)
def test_after_the_histogram_is_on_disk_its_bytes_are_sent_again_uncharged(home, study, point):
    _crash(home, study.evaluate(), point)
    (kept,) = home.rglob("histogram-1.json")
    with open_home(home) as site:
        sent = [_reply(session.answer(site, study.evaluate())).histogram.encode() for _ in range(2)]
        assert sent == [kept.read_bytes()] * 2
        assert site.workbench.specs == []
        assert _charges(site, study) == [(0, 1, _event(site, study))]
        assert len(entries(site, "evaluation")) == 1


def test_a_second_request_is_answered_with_the_same_bytes_and_no_new_charge(home, study):
    with open_home(home) as site:
        first, second = (session.answer(site, study.evaluate()) for _ in range(2))
        assert _reply(first).histogram == _reply(second).histogram
        assert len(site.workbench.specs) == 1
        assert _charges(site, study) == [(0, 1, _event(site, study))]
        kinds = [e.kind for e in entries(site, "charge", "evaluation", "decision", "transfer")]
        assert kinds[-7:] == ["decision", "charge", "evaluation", *["decision", "transfer"] * 2]


def test_what_is_signed_is_what_the_study_says(home, study):
    with open_home(home) as site:
        reply = session.answer(site, study.evaluate())
        found, request = _histogram(reply), json.loads(study.evaluate().body)
        case = site.joined_case(study.digest)
        assert found.differences(case.study, study.digest, "a", request["model_sha256"]) == []
        assert (found.rows, found.columns, found.noise_multiplier_micro) == (2, 10, 4_000_000)
        held = site.ledger.reservation(case.dataset.source, study.digest)
        assert held.also == (_event(site, study),)
        assert held.charged() == (_event(site, study),)


@pytest.mark.parametrize(
    "more",
    [
        {"noise_multiplier_micro": 200_000},
        {"bins": 100},
        {"evaluation": {"noise_multiplier_micro": 200_000, "bins": 100}},
        {"attempt": 2},
        {"schema": "residency.evaluate/2"},
    ],
)
def test_a_request_that_asks_for_other_terms_than_the_study_is_refused(home, study, more):
    asked = study.evaluate()
    body = json.dumps({**json.loads(asked.body), **more}, sort_keys=True, separators=(",", ":")).encode()
    with open_home(home) as site:
        with pytest.raises(InputError) as refused:
            session.answer(site, Request("evaluate", body, asked.array))
        assert refused.value.code == "RSD-1210"
        assert site.workbench.specs == []
        assert _charges(site, study) == []
        assert [e.body["code"] for e in entries(site, "refusal")] == ["RSD-1210"]


def test_another_model_is_not_evaluated_after_the_first(home, study):
    with open_home(home) as site:
        session.answer(site, study.evaluate())
        with pytest.raises(Refused) as refused:
            session.answer(site, study.evaluate(np.zeros(SIZE, "<f4")))
        assert refused.value.code == "RSD-1262"
        assert len(site.workbench.specs) == 1
        assert len(entries(site, "transfer")) == 1


@pytest.mark.parametrize("model", [np.ones(SIZE + 1, "<f4"), np.full(SIZE, np.nan, "<f4"), np.zeros(SIZE, "<f4")])
def test_a_model_that_is_not_the_announced_one_costs_nothing(home, study, model):
    asked = study.evaluate(model) if not (model == 0).all() else Request("evaluate", study.evaluate().body, model)
    with open_home(home) as site:
        with pytest.raises(InputError) as refused:
            session.answer(site, asked)
        assert refused.value.code == "RSD-1261"
        assert _charges(site, study) == []
        session.answer(site, study.evaluate())


def test_a_recipient_whom_the_law_denies_stops_it_before_the_charge(home, study):
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, study.evaluate(recipients=("a", "b", "e")))
        assert refused.value.code == "RSD-3100"
        assert _charges(site, study) == []
        assert site.workbench.specs == []


def test_a_model_whose_digest_only_begins_like_the_announced_one_is_not_evaluated(home, study):
    announced = json.loads(study.evaluate().body)["model_sha256"]
    asked = study.evaluate(model_sha256=announced[:12] + "0" * 52)
    with open_home(home) as site:
        with pytest.raises(InputError) as refused:
            session.answer(site, asked)
        assert refused.value.code == "RSD-1261"
        assert _charges(site, study) == []


def test_a_request_before_the_last_round_is_over_does_not_spend_the_evaluation(study, tmp_path):
    """A message that comes early, or an operator who tries a model in between, costs nothing."""
    home = consortium().copy_home("a", tmp_path)
    with open_home(home) as site:
        session.answer(site, study.join())
        session.answer(site, study.round())
        with pytest.raises(Refused) as refused:
            session.answer(site, study.evaluate())
        assert refused.value.code == "RSD-1267"
        assert [c.round for c in site.ledger.charges(study.digest)] == [1]
        session.answer(site, study.last_roster())
        session.answer(site, study.evaluate())
        assert [c.round for c in site.ledger.charges(study.digest)] == [1, 0]


def test_a_ledger_restored_from_a_backup_evaluates_nothing(home, study, tmp_path):
    shutil.copyfile(home / "ledger.db", tmp_path / "backup.db")
    with open_home(home) as site:
        session.answer(site, study.round())
    for rest in ("ledger.db-wal", "ledger.db-shm"):
        (home / rest).unlink(missing_ok=True)
    shutil.copyfile(tmp_path / "backup.db", home / "ledger.db")
    with open_home(home) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, study.evaluate())
        assert refused.value.code == "RSD-1225"
        assert site.ledger.charges(study.digest) == ()
        assert site.workbench.specs == []


def test_each_time_the_counts_are_decided_for_those_whom_they_reach_later(home, study):
    with open_home(home) as site:
        session.answer(site, study.evaluate(recipients=("a",)))
        told = [t for e in entries(site, "decision") if (t := e.body["transfer"])["artifact"] == "metric"]
    assert [sorted(party["name"] for party in t["onward"]) for t in told] == [["b", "c", "d"]] * 2


def test_the_charge_keeps_what_the_log_was(home, study):
    with open_home(home) as site:
        before = site.log.size
        reply = _reply(session.answer(site, study.evaluate()))
        (seen,) = site.ledger.logs_seen().values()
        assert before < seen.size <= reply.charge.index


def test_the_log_says_which_checks_of_the_noise_passed_after_a_crash_too(home, study):
    _crash(home, study.evaluate(), "histogram file")
    with open_home(home) as site:
        session.answer(site, study.evaluate())
        assert [e.body["conformance"] for e in entries(site, "evaluation")] == [{"noise_variance": True}]


def test_a_study_without_an_evaluation_is_never_evaluated(tmp_path):
    with open_home(joined_home("a", tmp_path)) as site:
        with pytest.raises(Refused) as refused:
            session.answer(site, main_study().evaluate())
        assert refused.value.code == "RSD-1260"
        assert site.ledger.charges(main_study().digest) == ()


def test_a_failed_count_is_not_drawn_again(home, study):
    with open_home(home) as site:
        site.workbench.error = RunFailed("RSD-4500", "not the claimed noise")
        with pytest.raises(RunFailed, match="RSD-4500"):
            session.answer(site, study.evaluate())
        assert [(e.body["code"], e.body["round"]) for e in entries(site, "failure")] == [("RSD-4500", 0)]
        site.workbench.error, site.workbench.specs = None, []
        with pytest.raises(RunFailed, match="RSD-1263"):
            session.answer(site, study.evaluate())
        assert site.workbench.specs == []
        assert len(_charges(site, study)) == 1


def test_a_histogram_that_changed_on_disk_is_not_sent(home, study):
    with open_home(home) as site:
        session.answer(site, study.evaluate())
        (kept,) = home.rglob("histogram-1.json")
        other = json.loads(kept.read_text())
        other["payload"] = other["payload"][:-4] + "AAAA"
        kept.write_text(json.dumps(other, sort_keys=True, separators=(",", ":")))
        with pytest.raises((RunFailed, InputError)):
            session.answer(site, study.evaluate())
        assert len(entries(site, "transfer")) == 1


@pytest.mark.parametrize("kind", ["charge", "evaluation", "decision", "transfer"])
def test_an_entry_that_cannot_be_written_stops_the_transfer(home, study, kind):
    with open_home(home) as site:
        real = site.record

        def record(asked, body, digest):
            if asked == kind:
                raise EnvironmentFault("RSD-5030", "no space")
            return real(asked, body, digest)

        site.record = record
        with pytest.raises(EnvironmentFault):
            session.answer(site, study.evaluate())
        assert not entries(site, "transfer")
        assert len(site.workbench.specs) == (0 if kind in {"charge", "decision"} else 1)


def test_a_subject_who_withdraws_before_the_study_is_closed_takes_the_counts_along(home, study):
    _crash(home, study.evaluate(), "committed file")
    subjects.withdraw(AgentHome(home), [("9007",)], "consent")
    assert not list(home.rglob("histogram-1.json"))
    with open_home(home) as site:
        with pytest.raises(RunFailed, match="RSD-2430"):
            session.answer(site, study.evaluate())
        assert [(e.body["code"], e.body["round"]) for e in entries(site, "failure")] == [("RSD-2430", 0)]
        assert len(_charges(site, study)) == 1
        assert not entries(site, "transfer")


def _withdraw(home):
    subjects.withdraw(AgentHome(home), [("9007",)], "consent")


def _withdrawal_killed_before_its_purge(home):
    def child():
        subjects.raise_stop = lambda *_: die()
        _withdraw(home)

    assert in_child(child) == -9


def _meanwhile(act):
    """The real thing, and `act` before its caller has the result."""

    def wrap(real):
        def wrapped(*args):
            out = real(*args)
            act()
            return out

        return wrapped

    return wrap


def _stopped_by_a_withdrawal(home, study, rigged):
    with open_home(home) as site:
        rigged(site)
        with pytest.raises(RunFailed, match="RSD-2430"):
            session.answer(site, study.evaluate())
        assert len(_charges(site, study)) == 1
        assert not entries(site, "transfer")
    with open_home(home) as site:
        with pytest.raises(RunFailed):
            session.answer(site, study.evaluate())
        assert site.workbench.specs == []
        assert not entries(site, "transfer")
    assert not list(home.rglob("histogram-1.json"))


def test_a_subject_who_withdraws_during_the_count_keeps_it_off_the_disk(home, study):
    def rigged(site):
        site.workbench.evaluate = _meanwhile(lambda: _withdraw(home))(site.workbench.evaluate)

    _stopped_by_a_withdrawal(home, study, rigged)
    assert not list(home.rglob("conformance-1.json"))  # nothing of the count was stored, not even for a moment


@pytest.mark.parametrize("act", [_withdraw, _withdrawal_killed_before_its_purge])
def test_a_subject_who_withdraws_between_the_count_and_the_send_stops_it(home, study, monkeypatch, act):
    def rigged(_):
        monkeypatch.setattr(evaluation, "_draw", _meanwhile(lambda: act(home))(evaluation._draw))

    _stopped_by_a_withdrawal(home, study, rigged)


def test_after_the_study_is_closed_a_withdrawal_leaves_its_evaluation_alone(home, study):
    with open_home(home) as site:
        session.answer(site, study.evaluate())
        settle(site, study.digest)
    subjects.withdraw(AgentHome(home), [("9007",)], "consent")
    assert list(home.rglob("histogram-1.json"))
    with open_home(home) as site:
        assert not entries(site, "failure")
        assert {(a.round, a.study) for a in subjects.affected(AgentHome(home))} == {(0, study.digest)}
