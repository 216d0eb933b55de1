"""Joining a study: what is checked, in which order; a refusal is logged, reserves nothing and trains nothing."""

import copy
import signal
from datetime import timedelta
from types import SimpleNamespace

import pytest

from client import admission, session
from client.home import AgentHome
from client.outbox import put
from client.site import Site
from client.workbench import Ready
from compliance.answers import REFUSAL, WITHDRAWAL
from compliance.clock import parse_time
from compliance.errors import CheckFailed, EnvironmentFault, InputError, Refused, ResidencyError
from compliance.identity import seal
from compliance.law.decide import builtin_packs
from compliance.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    LayoutEntry,
    RoundReply,
    decode,
    encode,
)
from strategies.wire import Request
from tests.federation import (
    LAYOUT,
    REFUSED,
    consortium,
    day,
    die,
    entries,
    in_child,
    joined_home,
    main_study,
    open_home,
)


@pytest.fixture
def site(tmp_path):
    """Site a before any study."""
    with open_home(consortium().copy_home("a", tmp_path)) as opened:
        yield opened


def _changed(**fields):
    """A study signed with other fields; each value may be a function of the old one."""
    value = consortium().study()
    return consortium().sign_study(**{k: v(value[k]) if callable(v) else v for k, v in fields.items()})


def _sites(**changes):
    return lambda sites: [{**s, **changes} for s in sites]


def _papers(days):
    return lambda papers: [{**p, "expires": day(days)} for p in papers]


def _refused(site, request, code, kind=Refused):
    with pytest.raises(kind) as error:
        session.answer(site, request)
    assert error.value.code == code, error.value
    assert error.value.message
    refusal = entries(site, "refusal")[-1]
    assert (refusal.body["code"], refusal.body["found"]) == (code, error.value.found)
    assert not entries(site, "join", "reservation", "charge")
    assert site.ledger.sources() == () or site.ledger.balance("a-clinic").held_milli == 0
    assert not list(site.home.path.glob("studies/*/study.json"))
    return error.value


def test_a_study_that_everybody_signed_is_joined(site):
    reply = decode(JoinReply, session.answer(site, main_study().join()).body, "reply")
    assert (reply.site, reply.layout, reply.device) == ("a", LAYOUT, "cpu")
    denied = {(d.recipient.name, d.artifact) for d in reply.decisions if not d.allow}
    assert denied == {(REFUSED, "aggregate"), (REFUSED, "released_model")}
    kinds = [e.kind for e in entries(site, "study", "answer", "decision", "reservation", "join")]
    assert kinds == ["study", "answer", "answer", *["decision"] * 15, "reservation", "join"]


def test_joining_twice_reserves_once(site):
    session.answer(site, main_study().join())
    held = site.ledger.balance("a-clinic").held_milli
    session.answer(site, main_study().join())
    assert site.ledger.balance("a-clinic").held_milli == held


# --- answers --------------------------------------------------------------------------------------------------------


def test_without_an_approval_of_this_site(site):
    study = main_study()
    answers = study.answers("a", "b")
    del answers["a.approval.json"]
    _refused(site, study.join(answers), "RSD-2207")


def test_an_approval_without_advice(site):
    answers = main_study().answers("a")
    del answers["a.advice.json"]
    error = _refused(site, main_study().join(answers), "RSD-2202")
    assert (error.found, bool(error.next)) == ("no advice", True)


def test_an_approval_with_the_advice_of_another_site(site):
    made, study = consortium(), main_study()
    advice = made.advice("b", study.digest)
    answers = {"a": advice, "b": made.approval("a", study.digest, advice)}
    _refused(site, study.join(answers), "RSD-2202")


def test_an_approval_against_advice_without_a_reason(site):
    made, study = consortium(), main_study()
    advice = made.advice("a", study.digest, favourable=False)
    _refused(site, study.join({"x": advice, "y": made.approval("a", study.digest, advice)}), "RSD-2203")
    reasoned = made.approval("a", study.digest, advice, against_advice_reason="The committee asked for it.")
    session.answer(site, study.join({"x": advice, "y": reasoned}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", "0" * 64),
        ("software", {"version": "9.9.9", "bundle_sha256": "ab" * 32}),
        ("digest", "ab" * 32),
    ],
)
def test_an_approval_of_something_else(site, field, value):
    study = main_study()
    advice = consortium().advice("a", study.digest)
    answers = {"x": advice, "y": consortium().approval("a", study.digest, advice, **{field: value})}
    _refused(site, study.join(answers), "RSD-2201")


def test_a_study_changed_after_its_approval(site):
    answers = main_study().answers("a")
    other = _changed(training=lambda t: {**t, "steps": 1})
    error = _refused(site, other.join(answers), "RSD-2201")
    assert (error.found, error.limit) == (main_study().digest[:12], other.digest[:12])


def test_an_approval_by_the_operator_or_an_agent_counts_for_nothing(site):
    made, study = consortium(), main_study()
    advice = made.advice("a", study.digest)
    for forger in (made.operator, made.signatories["b"], made.dpos["a"]):
        import json

        record = json.loads(_payload(made.approval("a", study.digest, advice)))
        forged = seal(record, forger).encode()
        with pytest.raises((CheckFailed, Refused)):
            session.answer(site, study.join({"x": advice, "y": forged}))
    assert len(entries(site, "refusal")) == 3
    assert not entries(site, "join", "reservation")


def _payload(data):
    from compliance.identity import parse_envelope

    return parse_envelope(data, "answer").payload


def test_a_refusal_of_the_signatory_holds_against_an_approval(site):
    study = main_study()
    record = {"schema": REFUSAL, "subject": "study", "digest": study.digest, "site": "a", "at": day(0), "reason": "No."}
    answers = {**study.answers("a"), "z": seal(record, consortium().signatories["a"]).encode()}
    _refused(site, study.join(answers), "RSD-2208")


# --- study, policy, term --------------------------------------------------------------------------------------------


def test_a_study_outside_the_policy_is_refused_whole_although_it_was_approved(site):
    study = _changed(sites=_sites(epsilon_milli=50_000, noise_multiplier_micro=300_000))
    error = _refused(site, study.join(), "RSD-2101")
    assert (error.rule, error.found, error.limit) == ("policy.epsilon_milli_at_most", "50000", "8000")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"training": lambda t: {**t, "rounds": 100}}, "policy.rounds_at_most"),
        ({"privacy": lambda p: {**p, "inverse_delta": 10_000}}, "policy.inverse_delta_at_least"),
        ({"documents": lambda d: [p for p in d if p["kind"] != "dpia"]}, "policy.required_documents"),
        ({"purpose": "quality_improvement"}, "policy.purposes"),
    ],
)
def test_each_limit_of_the_policy(site, changes, rule):
    assert _refused(site, _changed(**changes).join(), "RSD-2101").rule == rule


def test_noise_that_does_not_keep_the_claimed_epsilon(site):
    study = _changed(sites=_sites(epsilon_milli=1000))
    error = _refused(site, study.join(), "RSD-4005")
    assert error.limit == "1000 milli-eps"


def test_a_model_with_more_parameters_than_the_sampler_s_error_allows(site):
    site.workbench.prepare = lambda *_: Ready((LayoutEntry(name="head.weight", shape=(10**9,)),), "cpu")
    _refused(site, main_study().join(), "RSD-1221")


def test_what_is_reserved_pays_for_the_spare_rounds_too(tmp_path):
    study = main_study()
    rounds = study.value["training"]["rounds"] + study.value["privacy"]["spare_rounds"]
    with open_home(joined_home("a", tmp_path)) as site:
        held = site.ledger.reservation("a-clinic", study.digest)
        assert held.event.steps == study.value["training"]["steps"] * rounds


@pytest.mark.parametrize("artifact", session.STANDING)
def test_whatever_a_site_sends_besides_updates_is_allowed_or_the_join_is_refused(site, artifact):
    real = site.decide

    def decide(case, what, *rest):
        decision, entry = real(case, what, *rest)
        return (decision.model_copy(update={"allow": False}) if what == artifact else decision), entry

    site.decide = decide
    _refused(site, main_study().join(), "RSD-3100")


def test_a_study_that_the_ledger_cannot_pay(tmp_path):
    second = _changed(name="tiny-two", sites=_sites(noise_multiplier_micro=620_000))
    with open_home(joined_home("a", tmp_path)) as site:
        before = site.ledger.balance("a-clinic")
        with pytest.raises(Refused) as error:
            session.answer(site, second.join())
        assert error.value.code == "RSD-4101"
        assert error.value.limit == f"{before.left_milli} milli-eps left"
        assert error.value.found.endswith("milli-eps needed")
        assert site.ledger.balance("a-clinic") == before
        assert site.ledger.reservation("a-clinic", second.digest) is None
        assert entries(site, "refusal")[-1].body["code"] == "RSD-4101"


@pytest.mark.parametrize(("starts", "ends"), [(-20, -1), (2, 20)])
def test_a_study_outside_its_term(site, starts, ends):
    first, last = day(starts), day(ends)
    error = _refused(site, _changed(starts=first, ends=last).join(), "RSD-2008")
    assert error.limit == f"{first} to {last}"


def test_a_study_that_outlives_the_trust_file(site):
    _refused(site, _changed(ends=day(310), documents=_papers(400)).join(), "RSD-6013")


def test_a_study_that_outlives_the_policy(site):
    error = _refused(site, _changed(ends=day(210), documents=_papers(400)).join(), "RSD-2101")
    assert error.rule == "policy.expires"


def test_a_study_that_outlives_a_law_pack(site, monkeypatch):
    eu = builtin_packs()["eu"].model_copy(update={"expires_on": day(20)[:10]})
    monkeypatch.setattr(admission, "packs", lambda: {"eu": eu})
    error = _refused(site, main_study().join(), "RSD-1215")
    assert "law pack eu" in error.message


def test_a_study_that_says_another_jurisdiction_than_the_trust_file(site):
    """Else an operator could call the site in China a German one, and every rule would allow it the model."""
    moved = lambda sites: [{**s, "jurisdiction": "DE"} if s["name"] == REFUSED else s for s in sites]  # noqa: E731
    error = _refused(site, _changed(sites=moved).join(), "RSD-2104")
    assert (error.found, error.limit) == ("DE", "CN")


def test_another_version_of_the_software(site):
    study = _changed(software=lambda s: {**s, "version": "9.9.9"})
    advice = consortium().advice("a", study.digest)
    answers = {"x": advice, "y": consortium().approval("a", study.digest, advice, software=study.value["software"])}
    _refused(site, study.join(answers), "RSD-2209")


def test_a_study_whose_signature_does_not_hold(site):
    text = main_study().data.decode()
    forged = seal(main_study().value, consortium().signatories["a"]).encode().decode()
    for data in (forged, text.replace('"payload":"', '"payload":"AAAA')):
        message = JoinRequest(schema="residency.join/1", run="run-1", study=data, answers=())
        with pytest.raises((CheckFailed, InputError)):
            session.answer(site, Request("join", encode(message)))
    assert len(entries(site, "refusal")) == 2


def test_a_transfer_to_the_operator_that_the_rules_deny(tmp_path):
    study = _changed(documents=lambda d: [p for p in d if p["kind"] != "pipl_contract"])
    with open_home(consortium().copy_home("e", tmp_path)) as site:
        with pytest.raises(Refused) as error:
            session.answer(site, study.join())
        assert error.value.code == "RSD-3100"
        assert error.value.rule.startswith("cn.")
        assert entries(site, "decision")[-1].body["effect"] == "deny"
        assert not entries(site, "reservation", "join")


# --- what is on the site's disk -------------------------------------------------------------------------------------


def test_a_dataset_that_is_not_registered(site):
    _refused(site, _changed(dataset="heart").join(), "RSD-1205", InputError)


def test_a_dataset_whose_file_is_gone(site):
    registry = site.home.registry()
    gone = registry.datasets[0].model_copy(update={"path": str(site.home.path / "gone.csv")})
    site.home.save_registry(registry.model_copy(update={"datasets": (gone,)}))
    _refused(site, main_study().join(), "RSD-1206", EnvironmentFault)


def test_a_model_that_is_not_registered(site):
    study = _changed(model=lambda m: {**m, "sha256": "ab" * 32})
    error = _refused(site, study.join(), "RSD-1207", InputError)
    assert (error.found, error.limit) == (consortium().model["sha256"][:12], "ab" * 6)


@pytest.mark.parametrize("name", ["policy.json", "trust.json"])
def test_an_expired_policy_or_trust_file_stops_a_study_that_was_joined(tmp_path, monkeypatch, name):
    home = joined_home("a", tmp_path)
    from datetime import timedelta

    from client import home as home_module
    from compliance.clock import now as real

    days = 250 if name == "policy.json" else 320
    with open_home(home) as site:
        for module in (home_module, admission):
            monkeypatch.setattr(module, "now", lambda: real() + timedelta(days=days))
        with pytest.raises(Refused) as error:
            session.answer(site, main_study().round())
        assert error.value.code in {"RSD-2008", "RSD-6013"}
        assert site.workbench.specs == []


def test_an_unknown_label_stops_the_join_in_the_real_worker(tmp_path):
    task = copy.deepcopy(consortium().study()["task"])
    task["label_other"] = None
    study = consortium().sign_study(task=task)
    site = Site(AgentHome(consortium().copy_home("a", tmp_path)))
    try:
        with pytest.raises(InputError) as error:
            session.answer(site, study.join())
        assert error.value.code.startswith("RSD-23")
        assert "K" not in error.value.found.split()
        assert not entries(site, "join")
    finally:
        site.close()


def test_the_real_worker_trains_a_round(tmp_path, forked):
    import numpy as np

    site = Site(AgentHome(consortium().copy_home("b", tmp_path)))
    try:
        reply = decode(JoinReply, session.answer(site, main_study().join()).body, "reply")
        d = sum(int(np.prod(e.shape)) for e in reply.layout)
        answer = session.answer(site, main_study().round(np.zeros(d, dtype="<f4")))
        assert answer.array.shape == (d,)
        assert np.isfinite(answer.array).all()
        assert decode(RoundReply, answer.body, "reply").attempt == 1
        (commit,) = entries(site, "commit")
        assert commit.body["conformance"]
        assert all(commit.body["conformance"].values())
        assert set(entries(site, "charge")[0].body["event"]) >= {"noise_multiplier_micro", "steps"}
    finally:
        site.close()


# --- close ----------------------------------------------------------------------------------------------------------


def test_a_close_frees_what_was_not_spent_once(tmp_path):
    with open_home(joined_home("a", tmp_path)) as site:
        session.answer(site, main_study().round())
        held = site.ledger.balance("a-clinic").held_milli
        close = CloseRequest(schema="residency.close/1", study=main_study().digest, rosters=("ab" * 32,))
        first = decode(CloseReply, session.answer(site, Request("close", encode(close))).body, "reply")
        again = decode(CloseReply, session.answer(site, Request("close", encode(close))).body, "reply")
        balance = site.ledger.balance("a-clinic")
        assert balance.held_milli == balance.charged_milli < held
        assert len(entries(site, "close")) == 1
        assert first.site == again.site == "a"
        assert '"kind":"charge"' not in first.evidence  # entries travel encoded


@pytest.mark.parametrize(
    ("kind", "closed"), [(k, None) for k in ("join", "charge", "transfer", "roster")] + [("refusal", 1)]
)
def test_what_was_done_after_a_closing_entry_needs_another(kind, closed):
    from client.closing import _closing_entry

    kinds = ("join", "close", kind)
    assert _closing_entry([SimpleNamespace(index=i, kind=k) for i, k in enumerate(kinds)]) == closed


def _withdrawal():
    body = {"subject": "study", "digest": main_study().digest, "site": "a", "at": day(0), "reason": "Incident."}
    return seal({"schema": WITHDRAWAL, **body}, consortium().signatories["a"]).encode()


def test_a_withdrawal_among_the_answers_outweighs_the_approval(site):
    answers = {**main_study().answers(), "a.withdrawal.json": _withdrawal()}
    assert _refused(site, main_study().join(answers), "RSD-2208").found == "Incident."


def test_a_withdrawal_that_was_queued_here_holds_although_the_operator_leaves_it_out(site):
    put(site, _withdrawal(), "withdrawal")
    assert _refused(site, main_study().join(), "RSD-2208").found == "Incident."


# --- closing --------------------------------------------------------------------------------------------------------


def _close():
    body = CloseRequest(schema="residency.close/1", study=main_study().digest, rosters=())
    return Request("close", encode(body))


def _after_term(monkeypatch):
    """Every part of the site believes that it is a day after the study's term."""
    from client import closing

    later = parse_time(main_study().value["ends"]) + timedelta(days=1)
    for module in (admission, closing):
        monkeypatch.setattr(module, "now", lambda: later)


def _over(home, monkeypatch, how):
    """Something that a new join would be refused for; the code of that refusal."""
    if how == "term":
        _after_term(monkeypatch)
        return "RSD-2008"
    if how == "policy":
        (home.path / "policy.json").write_bytes(consortium().sign_policy("a", epsilon_milli_at_most=100))
        return "RSD-2101"
    value = {"schema": WITHDRAWAL, "subject": "study", "digest": main_study().digest, "site": "a", "at": day(0),
             "reason": "asked"}  # fmt: skip
    (home.path / "outbox").mkdir(exist_ok=True)
    sealed = seal(value, consortium().signatories["a"]).encode() + b"\n"
    (home.path / "outbox" / "a.withdrawal.1.json").write_bytes(sealed)
    return "RSD-2208"


@pytest.mark.parametrize("how", ["term", "policy", "taken back"])
def test_a_study_that_could_not_be_joined_any_more_still_frees_what_it_holds(tmp_path, monkeypatch, how):
    home = AgentHome(joined_home("a", tmp_path))
    with open_home(home.path) as site:
        session.answer(site, main_study().round())
        before = site.ledger.balance("a-clinic")
        assert before.held_milli > before.charged_milli > 0
        code = _over(home, monkeypatch, how)
        for _ in range(2):
            with pytest.raises(ResidencyError) as error:  # the evidence stays: what leaves is judged whole
                session.answer(site, _close())
            assert error.value.code == code
            after = site.ledger.balance("a-clinic")
            assert (after.held_milli, after.charged_milli) == (before.charged_milli, before.charged_milli)
            assert len(entries(site, "close")) == 1


def test_a_study_that_was_never_joined_is_not_closed(site):
    with pytest.raises(Refused) as error:
        session.answer(site, _close())
    assert error.value.code == "RSD-1213"
    assert not entries(site, "close")


def test_closing_purges_what_was_cached_of_the_records(tmp_path):
    home = AgentHome(joined_home("a", tmp_path))
    with open_home(home.path) as site:
        cache = home.study_folder(main_study().digest) / "cache"
        for _ in range(2):  # the second time the entry is there: a crash may have come before the purge
            cache.mkdir(exist_ok=True)
            (cache / "trunk.safetensors").write_bytes(b"records")
            session.answer(site, _close())
            assert not cache.exists()


def test_the_agent_s_start_frees_what_a_study_holds_whose_term_is_over(tmp_path, monkeypatch):
    from client.closing import settle_over

    home = AgentHome(joined_home("a", tmp_path))
    with open_home(home.path) as site:
        held = site.ledger.balance("a-clinic").held_milli
        cache = home.study_folder(main_study().digest) / "cache"
        cache.mkdir(exist_ok=True)
        settle_over(site)
        assert site.ledger.balance("a-clinic").held_milli == held > 0
        assert cache.exists()
        assert not entries(site, "close")
        _after_term(monkeypatch)
        for _ in range(2):
            settle_over(site)
            assert site.ledger.balance("a-clinic").held_milli == 0
            assert not cache.exists()
            assert len(entries(site, "close")) == 1


def test_a_closing_that_was_killed_before_the_release_is_finished_by_the_next(tmp_path):
    home = AgentHome(joined_home("a", tmp_path))

    def child():
        from compliance.privacy.ledger import Ledger

        Ledger.release_unused = lambda *_: die()
        with open_home(home.path) as site:
            session.answer(site, _close())

    assert in_child(child) == -signal.SIGKILL
    with open_home(home.path) as site:
        assert site.ledger.balance("a-clinic").held_milli > 0
        session.answer(site, _close())
        assert site.ledger.balance("a-clinic").held_milli == 0
        assert len(entries(site, "close")) == 1
