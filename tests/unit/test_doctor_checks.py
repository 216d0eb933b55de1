"""Every decision of both doctors in each of its states, over facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client import doctor as agent
from client import doctor_machine
from client import doctor_stores as held
from client.doctor_machine import AcceleratorFacts
from compliance import doctor
from compliance.canonical import canonical
from compliance.clock import rfc3339
from compliance.doctor import GIB, Check, Fact, Limits, LogFacts, Unmet, examine, report
from compliance.doctor_facts import CertificateFacts, DoorFacts
from compliance.doctor_law import law_checks
from compliance.errors import InputError, Refused
from compliance.identity import new_signer
from compliance.software import VERSION
from compliance.study import Study
from compliance.trust.enrol import Invited
from compliance.validation import load_model
from server import doctor as hub
from server import doctor_stores as kept
from tests.federation import consortium, day, law_set_of, main_study

AT = datetime(2026, 12, 1, tzinfo=UTC)
LIMITS = Limits()
NEAR = LIMITS.near_end


def _in(days: float) -> datetime:
    return AT + timedelta(days=days)


def test_dates() -> None:
    said = {d: doctor.in_date("x", _in(d), AT, NEAR, "renew it").state for d in (-1, 0, 1, 29, 30, 400)}
    assert said == {-1: "fail", 0: "fail", 1: "warn", 29: "warn", 30: "ok", 400: "ok"}
    assert doctor.key_period("x", _in(1), _in(400), AT, NEAR, "").state == "fail"
    assert doctor.key_period("x", _in(-1), _in(400), AT, NEAR, "").state == "ok"


def test_modes() -> None:
    said = {m: doctor.private_modes("keys", {"k": m}).state for m in (0o600, 0o400, 0o640, 0o604, 0o700, None)}
    assert said == {0o600: "ok", 0o400: "ok", 0o640: "fail", 0o604: "fail", 0o700: "fail", None: "fail"}


def test_disk_memory_clock() -> None:
    free = {n: doctor.disk("disk", int(n * GIB), LIMITS).state for n in (0.5, 1, 9.9, 10)}
    assert free == {0.5: "fail", 1: "warn", 9.9: "warn", 10: "ok"}
    left = {n: doctor.memory("memory", int(n * GIB), LIMITS).state for n in (0.4, 0.6, 1.9, 2)}
    assert left == {0.4: "fail", 0.6: "warn", 1.9: "warn", 2: "ok"}
    skew = {n: doctor.clock("clock", n, LIMITS).state for n in (0.0, 60.0, -60.5, 300.0, 300.5, -4000.0)}
    assert skew == {0.0: "ok", 60.0: "ok", -60.5: "warn", 300.0: "warn", 300.5: "fail", -4000.0: "fail"}


def test_versions_and_trust_on_both_sides() -> None:
    assert doctor.versions("versions", "1", "1").state == "ok"
    assert doctor.versions("versions", "1", "2").state == "warn"
    assert agent.trust_agrees(2, "a", 2, "a").state == "ok"
    assert agent.trust_agrees(1, "a", 2, "b").state == "warn"
    assert agent.trust_agrees(2, "a", 2, "b").state == "fail"
    assert agent.trust_agrees(3, "a", 2, "b").state == "fail"


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (LogFacts(0, 0, None, None), "ok"),
        (LogFacts(5, 0, None, _in(-30)), "ok"),  # nothing new: silence is no trouble
        (LogFacts(5, 2, AT - timedelta(minutes=59), _in(-1)), "ok"),
        (LogFacts(5, 2, AT - timedelta(minutes=61), _in(-21)), "warn"),
        (LogFacts(5, 5, _in(-21), None), "warn"),
    ],
)
def test_cosignatures(facts: LogFacts, state: str) -> None:
    assert doctor.cosigned("cosignatures", facts, AT, LIMITS).state == state


def test_a_store_that_is_not_there() -> None:
    assert doctor.absent("log", []).state == "ok"
    assert doctor.absent("log", ["ledger.db"]).state == "fail"
    assert held.unchanged("dataset x", "a" * 64, "a" * 64).state == "ok"
    assert held.unchanged("dataset x", "a" * 64, "b" * 64).state == "fail"


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (DoorFacts("h:1", reached=True, answer="HTTP/1.1 404 Not Found"), "ok"),
        (DoorFacts("h:1", reached=True, error="certificate has expired", untrusted=True), "fail"),
        (DoorFacts("h:1", reached=True, error="tlsv13 alert certificate required"), "fail"),
        (DoorFacts("h:1", reached=False, error="Connection refused"), "fail"),
    ],
)
def test_the_servers_door_from_a_site(facts: DoorFacts, state: str) -> None:
    check = agent.door("server", facts)
    assert (check.state, bool(check.next)) == (state, state == "fail")


def test_whether_an_agent_runs() -> None:
    assert agent.running(7, must=True).state == agent.running(7, must=False).state == "ok"
    assert agent.running(None, must=False).state == "warn"
    assert agent.running(None, must=True).state == "fail"


def test_answers_that_wait() -> None:
    assert (agent.delivery(0).state, agent.delivery(2).state) == ("ok", "warn")


def test_keys_against_the_trust_file() -> None:
    trust = consortium().anchor.trust
    own = trust.keys_of("agent", "a")[0]
    people = tuple(trust.keys_of(r, "a")[0] for r in ("signatory", "dpo"))  # type: ignore[arg-type]
    node = trust.site("a").node_key
    assert agent.keys_agree(trust, "a", own, node, people).state == "ok"
    other = new_signer("agent", "a", day(-1), day(1)).identity
    assert "agent" in agent.keys_agree(trust, "a", other, node, people).found
    assert "node key" in agent.keys_agree(trust, "a", own, trust.site("b").node_key, people).found
    assert "dpo" in agent.keys_agree(trust, "a", own, node, trust_people("b")).found
    assert agent.keys_agree(trust, "zz", own, node, people).state == "fail"


def trust_people(site: str) -> tuple[Any, ...]:
    trust = consortium().anchor.trust
    return tuple(trust.keys_of(r, site)[0] for r in ("signatory", "dpo"))  # type: ignore[arg-type]


def test_a_signing_key_near_its_end() -> None:
    for days, state in ((-1, "fail"), (20, "warn"), (200, "ok")):
        key = new_signer("signatory", "a", rfc3339(_in(-50)), rfc3339(_in(days))).identity
        assert agent.key_check(key, AT, LIMITS).state == state


def test_law_packs() -> None:
    from compliance.law.decide import builtin_packs, load_pack
    from compliance.law.regions import load_regions

    packs, regions = builtin_packs(), load_regions()
    law_set = law_set_of("a")
    name = law_set.packs[0].id
    at = datetime(2026, 11, 22, tzinfo=UTC)

    def looked(held: dict[str, Any], when: datetime = at) -> list[Any]:
        whole, *each = law_checks(law_set, held, regions, when, LIMITS, "the signatory")
        assert whole.state == "ok"
        return each

    drafts = looked(packs)
    assert {c.state for c in drafts} == {"warn"}
    assert "DRAFT" in drafts[0].found
    own = {i: tuple(r.model_copy(update={"reviewer": None}) for r in p.rules) for i, p in packs.items()}
    reviewed = {i: p.model_copy(update={"reviewer": "A. Counsel", "rules": own[i]}) for i, p in packs.items()}
    assert {c.state for c in looked(reviewed)} == {"ok"}
    late = datetime(2100, 1, 1, tzinfo=UTC)
    assert {c.state for c in looked(packs, late)} == {"fail"}
    assert looked({i: p for i, p in packs.items() if i != name})[0].state == "fail"
    changed = load_pack(packs[name].raw + b"# changed\n")
    assert looked({**packs, name: changed})[0].state == "fail"


def test_a_law_set_of_another_installation() -> None:
    from compliance.law.decide import builtin_packs
    from compliance.law.regions import load_regions

    packs, at = builtin_packs(), datetime(2026, 11, 22, tzinfo=UTC)
    other = law_checks(law_set_of("a"), packs, load_regions(load_regions().raw + b"#"), at, LIMITS, "us")[0]
    assert (other.state, other.found) == ("fail", "other region sets than those installed")
    more = {**packs, "new": packs["eu"].model_copy(update={"id": "new"})}
    left_out = law_checks(law_set_of("a"), more, load_regions(), at, LIMITS, "us")[0]
    assert (left_out.state, left_out.found) == ("fail", "pack new binds DE and is not adopted")


def _accelerator(**changes: Any) -> AcceleratorFacts:
    facts = {"torch": "2.13", "device": False, "cuda": False, "name": "", "free": 0, "works": False,
             "built_for_cuda": "13.0", "mps": False}  # fmt: skip
    return AcceleratorFacts(**{**facts, **changes})


@pytest.mark.parametrize(
    ("facts", "state", "word"),
    [
        (_accelerator(), "ok", "processor"),
        (_accelerator(mps=True), "ok", "MPS"),
        (_accelerator(device=True, cuda=True, works=True, name="H100", free=70 * GIB), "ok", "H100, 70.0 GiB"),
        (_accelerator(device=True, cuda=True, name="H100"), "fail", "computes wrongly"),
        (_accelerator(device=True), "fail", "cannot use it"),
        (_accelerator(device=True, built_for_cuda=""), "fail", "cannot use it"),
    ],
)
def test_a_gpu_that_vanished_is_a_failure(facts: AcceleratorFacts, state: str, word: str) -> None:
    check = doctor_machine.accelerator(facts)
    assert check.state == state
    assert word in check.found


def test_torch_is_asked_in_a_child_that_may_hang_or_fail() -> None:
    facts = '{"torch": "9", "cuda": false, "name": "", "free": 0, "works": false, "built_for_cuda": "", "mps": false}'
    assert doctor_machine.accelerator_facts(f"print('{facts}')").torch == "9"
    for program, word in (("import time; time.sleep(60)", "no answer"), ("import nothing_of_the_kind", "No module"),
                          ("print('x')", "JSONDecodeError")):  # fmt: skip
        check = examine("accelerator", lambda p=program: _asked(p))[0]  # type: ignore[misc]
        assert check.state == "fail"
        assert word in check.found


def _asked(program: str) -> Check:
    return doctor_machine.accelerator(doctor_machine.accelerator_facts(program, 1.0 if "sleep" in program else 20.0))


def test_isolation() -> None:
    assert doctor_machine.granted({"network_namespace": True, "memory_limit": True, "memory_mib": 9}).state == "ok"
    check = doctor_machine.granted({"network_namespace": False, "memory_limit": True, "memory_mib": 9})
    assert (check.state, "network_namespace" in check.found) == ("warn", True)


def _study(**changes: Any) -> Study:
    return load_model(Study, {**main_study().value, **changes}, "RSD-2007", "study")


def test_what_a_study_needs_beyond_its_end() -> None:
    study = _study()
    later, sooner = day(100), day(10)
    assert held.outlives("study x", study, {"policy": later}, {"certificate": later}).state == "ok"
    assert held.outlives("study x", study, {"policy": sooner}, {}).state == "fail"
    assert held.outlives("study x", study, {"policy": later}, {"certificate": sooner}).state == "warn"
    assert held.outlives("study x", study, {}, {}, ["dataset y"]).state == "fail"
    other = _study(software={**main_study().value["software"], "version": "0.0.1"})
    assert held.outlives("study x", other, {}, {}).limit == VERSION


# --- the form -------------------------------------------------------------------------------------------------------


def test_an_error_is_one_failed_check_and_a_fact_that_is_missing_skips_the_others() -> None:
    def wrong() -> int:
        raise InputError("RSD-2005", "cannot read it", found="no file", limit="a file", next="restore it")

    fact = Fact("trust.json", wrong)
    own = examine("trust file", lambda: Check("trust file", "ok", str(fact.get())))
    other = examine("policy", lambda: Check("policy", "ok", str(fact.need())))
    again = examine("trust file", lambda: Check("trust file", "ok", str(fact.get())))
    assert (
        own
        == again
        == [Check("trust file", "fail", "RSD-2005: cannot read it (found no file)", "a file", "restore it")]
    )
    assert other == [Check("policy", "skipped", "needs trust.json")]
    gone = examine("disk", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file or directory")))
    assert (gone[0].state, gone[0].found) == ("fail", "No such file or directory")
    with pytest.raises(ZeroDivisionError):  # a bug is no finding
        examine("x", lambda: Check("x", "ok", str(1 // 0)))


def test_the_report_counts_and_ends_with_7_only_where_something_fails() -> None:
    fine, warn = Check("a", "ok", "1"), Check("b", "warn", "2", "3", "do this")
    done = report("home", [fine, warn, Check("c", "skipped", "needs b")])
    assert done.error is None
    assert done.fields["state"] == "warn"
    assert done.fields["counts"] == {"ok": 1, "warn": 1, "fail": 0, "skipped": 1}
    assert done.lines[-1] == "b: do this"
    broken = report("home", [fine, Check("d", "fail", "4", "5", "do that")])
    assert broken.error is not None
    assert (broken.error.code, broken.error.exit_code) == ("RSD-7200", 7)
    canonical(broken.fields)  # texts and integers only


def test_a_peers_words_cannot_steer_the_terminal() -> None:
    shown = Check("x", "ok", "1.0\x1b[2J\r\nserver  ok " + "y" * 500).as_json()["found"]
    assert shown.isprintable()
    assert len(shown) == 240


def test_unmet_is_no_error_of_the_product() -> None:
    assert not issubclass(Unmet, Refused.__mro__[1])


# --- the server -----------------------------------------------------------------------------------------------------


def test_the_servers_certificate_and_key() -> None:
    facts = CertificateFacts(_in(-10), _in(300), b"")
    assert hub.server_certificate(facts, True, AT, LIMITS).state == "ok"
    assert hub.server_certificate(facts, False, AT, LIMITS).state == "fail"
    assert hub.server_certificate(CertificateFacts(_in(-10), _in(3), b""), True, AT, LIMITS).state == "warn"
    assert hub.server_certificate(CertificateFacts(_in(-10), _in(-3), b""), True, AT, LIMITS).state == "fail"
    trust = consortium().anchor.trust
    assert hub.key_agrees(trust, trust.keys_of("operator")[0].keyid).state == "ok"
    assert hub.key_agrees(trust, "0" * 64).state == "fail"


def test_whether_the_server_runs_and_its_doors() -> None:
    answers, silent = DoorFacts("l:1", reached=True, answer="HTTP/1.1 404"), DoorFacts("l:1", reached=True, error="x")
    away = DoorFacts("l:1", reached=False, error="Connection refused")
    assert hub.running(answers, must=True).state == "ok"
    assert hub.running(away, must=False).state == "warn"
    assert hub.running(away, must=True).state == "fail"
    assert hub.running(silent, must=False).state == "fail"  # hangs, or another program has its port
    assert hub.door("fleet door", silent, runs=True).state == "ok"
    assert hub.door("fleet door", away, runs=False).state == "ok"
    assert hub.door("fleet door", away, runs=True).state == "fail"
    assert hub.door("fleet door", silent, runs=False).state == "fail"
    expired = DoorFacts("l:1", reached=True, error="certificate has expired", untrusted=True)
    assert hub.door("fleet door", expired, runs=True).state == "fail"


def test_flower_in_its_minor_version() -> None:
    assert {v: hub.flower(v).state for v in ("1.41.0", "1.41.9", "1.42.0", "none")} == {
        "1.41.0": "ok", "1.41.9": "ok", "1.42.0": "fail", "none": "fail"
    }  # fmt: skip


def test_runs_sites_certificates_answers() -> None:
    assert kept.runs([], serving=False).state == kept.runs(["r"], serving=True).state == "ok"
    assert kept.runs(["r"], serving=False).state == "warn"
    assert kept.sites({"a": True}, set(), {}).state == "ok"
    away = kept.sites({"a": True, "b": False, "c": False}, set(), {"b": "2026-11-01T00:00:00Z"})
    assert away.state == "warn"
    assert "b (2026-11-01T00:00:00Z), c (never heard)" in away.found
    out = kept.sites({"a": True, "b": False}, {"b"}, {})
    assert (out.state, "suspended: b" in out.found) == ("ok", True)
    assert kept.certificates({"a": _in(90)}, AT, LIMITS).state == "ok"
    assert kept.certificates({"a": _in(90), "b": _in(9)}, AT, LIMITS).state == "warn"
    assert kept.certificates({"a": None}, AT, LIMITS).state == "warn"
    study = _study()
    names = {s.name for s in study.sites}
    assert kept.answers("study x", study, names).state == "ok"
    assert kept.answers("study x", study, names - {"b"}).state == "warn"


def test_invitations_whose_token_ends() -> None:
    def invited(days: float) -> Invited:
        record = {"schema": "residency.invited/1", "site": "x", "jurisdiction": "DE", "nonce": "0" * 32,
                  "at": rfc3339(_in(-9)), "consortium": "tiny", "invitation": "0" * 64, "token_sha256": "0" * 64,
                  "token_expires": rfc3339(_in(days))}  # fmt: skip
        return load_model(Invited, record, "RSD-6016", "invitation")

    said = {d: kept.invitations([invited(d)], AT, LIMITS).state for d in (-1, 1, 3)}
    assert said == {-1: "warn", 1: "warn", 3: "ok"}
    assert kept.invitations([], AT, LIMITS).state == "ok"
