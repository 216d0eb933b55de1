"""Adoption, onward recipients, disagreement, advice, rendering, and the entry for the log."""

from __future__ import annotations

import time

import pytest

from compliance.canonical import canonical
from compliance.law import cedar_eval, decide
from compliance.law.decide import Engine, builtin_packs, load_pack, pack_digest
from compliance.law.model import Decision, Party
from compliance.law.python_eval import Verdict
from compliance.law.render import decision_lines
from tests.unit.law.law_cases import BASE, document, transfer

PACKS = builtin_packs()
ADOPTED = {name: pack.digest for name, pack in PACKS.items()}
ENGINE = Engine(PACKS, ADOPTED)
DOCS = tuple(document(kind, covers="*") for kind in BASE.split())
PLAIN = transfer("dp_update", "DE", "IE", DOCS)


def test_digest_is_of_the_file_bytes():
    raw = decide.builtin_packs()["eu"]._raw
    assert PACKS["eu"].digest == pack_digest(raw) == load_pack(raw).digest
    assert ENGINE.decide(PLAIN).packs == {"eu": pack_digest(raw)}


def test_unadopted_pack_denies_where_it_binds_only():
    some = {"uk": ADOPTED["uk"]}
    decision = Engine(PACKS, some).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.pack-not-adopted")
    assert ADOPTED["eu"] in decision.would_allow
    assert Engine(PACKS, some).decide(transfer("dp_update", "GB", "IE", DOCS)).allow


def test_nothing_adopted_nothing_offered_denies():
    assert Engine({}, {}).decide(PLAIN).rule == "engine.no-pack"


def test_absent_pack_denies_everything():
    decision = Engine({"eu": PACKS["eu"]}, ADOPTED).decide(PLAIN)
    assert decision.rule == "engine.pack-missing"


def test_one_changed_byte_denies():
    other = load_pack(PACKS["eu"]._raw.replace(b"epsilon_milli_at_most: 8000", b"epsilon_milli_at_most: 9000"))
    decision = Engine(PACKS | {"eu": other}, ADOPTED).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.pack-changed")


def test_a_pack_changed_in_memory_denies_although_its_digest_is_the_adopted_one():
    rules = tuple(rule for rule in PACKS["eu"].rules if rule.effect == "allow")
    other = PACKS["eu"].model_copy(update={"rules": rules})
    assert other.digest == ADOPTED["eu"]
    assert Engine(PACKS | {"eu": other}, ADOPTED).decide(PLAIN).rule == "engine.pack-changed"


def test_a_pack_under_another_name_denies():
    swapped = {"eu": PACKS["uk"]}
    assert Engine(swapped, {"eu": ADOPTED["uk"]}).decide(PLAIN).rule == "engine.pack-changed"


def test_two_packs_that_bind_must_both_allow():
    raw = PACKS["jp"]._raw.replace(b"\nid: jp", b"\nid: dd").replace(b"- id: jp.", b"- id: dd.")
    second = load_pack(raw.replace(b"jurisdictions: [JP]", b"jurisdictions: [DE]"))
    packs = PACKS | {"dd": second}
    decision = Engine(packs, ADOPTED | {"dd": second.digest}).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "dd.default-deny")
    assert set(decision.packs) == {"eu", "dd"}


def test_onward_recipient_without_basis_denies_the_whole_and_is_named():
    onward = (Party(name="clinic-fr", jurisdiction="FR"), Party(name="clinic-cn", jurisdiction="CN"))
    decision = ENGINE.decide(transfer("dp_update", "DE", "IE", DOCS, onward=onward))
    assert (decision.allow, decision.rule, decision.recipient) == (False, "eu.no-basis", onward[1])
    assert "clinic-cn in CN" in decision.plain
    assert [(leg.recipient.name, leg.effect) for leg in decision.legs] == [
        ("server", "allow"),
        ("clinic-fr", "allow"),
        ("clinic-cn", "deny"),
    ]
    filed = (*DOCS, document("scc", "DE", "CN", "*"), document("tia", "DE", "CN", "clinic-cn"))
    assert ENGINE.decide(transfer("dp_update", "DE", "IE", filed, onward=onward)).allow


def test_missing_is_concrete():
    decision = ENGINE.decide(transfer("aggregate", "DE", "CN", DOCS))
    assert decision.law == ("GDPR Art 44", "GDPR Art 45", "GDPR Art 46")
    assert decision.missing == ("a document of kind scc and tia covering DE -> CN, unexpired on 2026-11-21",)
    assert decision.would_allow == f"rule eu.aggregate.safeguards, once there is {decision.missing[0]}"


@pytest.mark.parametrize(
    "spoilt",
    [
        document("scc", "FR", "CN"),
        document("scc", "DE", "IN"),
        document("scc", "DE", "CN", "somebody-else"),
        document("scc", "DE", "CN", expires="2026-11-21T10:00:00Z"),
        document("scc", "DE", "CN", expires="2026-11-21"),
        document("scc_draft", "DE", "CN"),
    ],
)
def test_a_document_that_does_not_cover_the_leg_is_none(spoilt):
    tia = document("tia", "DE", "CN")
    assert ENGINE.decide(transfer("aggregate", "DE", "CN", (*DOCS, tia, document("scc", "DE", "CN")))).allow
    assert ENGINE.decide(transfer("aggregate", "DE", "CN", (*DOCS, tia, spoilt))).rule == "eu.no-basis"


def test_adequacy_is_confirmed_by_name_only():
    for covers, allow in (("server", True), ("*", False), ("another", False)):
        papers = (*DOCS, document("adequacy_confirmation", "DE", "GB", covers))
        assert ENGINE.decide(transfer("dp_update", "DE", "GB", papers)).allow is allow


@pytest.mark.parametrize("side", ["python", "cedar"])
def test_disagreement_denies_either_way(side, monkeypatch):
    wrong = Verdict(True, frozenset({"eu.update.within"}))
    if side == "python":
        monkeypatch.setattr(decide, "evaluate", lambda *_: wrong)
    else:
        monkeypatch.setattr(cedar_eval.CedarPack, "evaluate", lambda *_: wrong)
    decision = ENGINE.decide(transfer("raw_record", "DE", "IE", DOCS))
    assert (decision.allow, decision.rule) == (False, "engine.disagreement")
    assert {decision.evaluators.python, decision.evaluators.cedar} == {"allow", "deny"}
    assert getattr(decision.evaluators, side) == "allow"


def test_same_vote_by_other_rules_is_a_disagreement(monkeypatch):
    monkeypatch.setattr(decide, "evaluate", lambda *_: Verdict(True, frozenset({"eu.administration"})))
    assert ENGINE.decide(PLAIN).rule == "engine.disagreement"


def test_entry_is_canonical_and_comes_back():
    for one in (PLAIN, transfer("aggregate", "DE", "CN", DOCS), transfer("roster", "US", "IE", ())):
        decision = ENGINE.decide(one)
        entry = decision.as_entry()
        assert entry.pop("schema") == "residency.decision/1"
        assert Decision.model_validate_json(canonical(entry)) == decision
        assert ENGINE.decide(decision.transfer) == decision


def test_lines_say_draft_until_counsel_is_named():
    lines = decision_lines(ENGINE.decide(transfer("aggregate", "DE", "CN", DOCS)))
    assert len(lines) == 2
    assert all(line.startswith("[DRAFT, no counsel] ") and "\n" not in line for line in lines)
    assert lines[0].endswith("by eu.no-basis; law: GDPR Art 44, GDPR Art 45, GDPR Art 46")
    assert "scc and tia covering DE -> CN" in lines[1]
    reviewed = load_pack(PACKS["eu"]._raw.replace(b"reviewer: none", b"reviewer: A. Counsel"))
    decision = Engine({"eu": reviewed}, {"eu": reviewed.digest}).decide(PLAIN)
    assert decision.allow
    assert "DRAFT" not in "".join(decision_lines(decision))


def test_speed(capsys):
    count, begin = 300, time.perf_counter()
    for _ in range(count):
        ENGINE.decide(PLAIN)
    rate = count / (time.perf_counter() - begin)
    with capsys.disabled():
        print(f"\nlaw engine: {rate:.0f} decisions/s (both evaluators, one recipient)")  # noqa: T201
    assert rate > 50
