"""Adoption, legs, groups, disagreement, advice, rendering, and the entry for the log."""

from __future__ import annotations

import time

import pytest

from compliance.canonical import canonical
from compliance.law import cedar_eval, decide
from compliance.law.decide import Engine, load_pack, pack_digest
from compliance.law.law_set import AdoptedPack, LawSet, NotBinding
from compliance.law.model import Decision, Party
from compliance.law.python_eval import Verdict
from compliance.law.regions import load_regions
from compliance.law.render import decision_lines
from compliance.law.vocabulary import DOCUMENT_KINDS, NAMES_ITS_DESTINATION, NAMES_ITS_RECIPIENT
from tests.unit.law.small_packs import (
    ADOPTED,
    ALPHA_TEXT,
    BETA_TEXT,
    ENGINE,
    PACKS,
    REGIONS,
    REGIONS_TEXT,
    document,
    papers,
    transfer,
    us_count,
)

HOME = papers("dpia art6_basis ethics", covers="*")
PLAIN = transfer("dp_update", "DE FR", documents=HOME)
ALONE = {"alpha": PACKS["alpha"]}


def _engine(packs=PACKS, adopted=ADOPTED, **rest):
    return Engine(packs, adopted, regions=REGIONS, **rest)


def test_digest_is_of_the_file_bytes():
    raw = ALPHA_TEXT.encode()
    assert PACKS["alpha"].raw == raw
    assert PACKS["alpha"].digest == pack_digest(raw)
    assert ENGINE.decide(PLAIN).packs == {"alpha": pack_digest(raw)}
    assert ENGINE.decide(PLAIN).regions == REGIONS.digest == pack_digest(REGIONS_TEXT.encode())


def test_unadopted_pack_denies_where_it_binds_only():
    some = {"beta": ADOPTED["beta"]}
    decision = _engine(adopted=some).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.pack-not-adopted")
    assert ADOPTED["alpha"] in decision.would_allow
    assert _engine(adopted=some).decide(transfer("dp_update", "US DE")).allow


def test_a_pack_of_facts_must_be_adopted_too():
    some = {name: digest for name, digest in ADOPTED.items() if name != "gamma"}
    assert _engine(adopted=some).decide(transfer("roster", "IN IN")).rule == "engine.pack-not-adopted"


def _both(text: str) -> dict:
    """Pack beta, which binds only whom it declares, binding DE too, where alpha binds everybody."""
    beta = load_pack(text.encode(), REGIONS)
    return {"alpha": PACKS["alpha"], "beta": beta}


def test_only_a_declared_pack_may_be_declared_not_binding():
    packs = _both(BETA_TEXT.replace("jurisdictions: [US]", "jurisdictions: [US, DE]"))
    adopted = {"alpha": ADOPTED["alpha"]}
    assert _engine(packs, adopted).decide(PLAIN).rule == "engine.pack-not-adopted"
    decision = _engine(packs, adopted, not_binding=["beta"]).decide(PLAIN)
    assert decision.allow
    assert decision.not_binding == ("beta",)
    everybody = "binds: declared\nbinds_note: those who hold data of many persons\n"
    packs = _both(BETA_TEXT.replace("jurisdictions: [US]", "jurisdictions: [US, DE]").replace(everybody, ""))
    assert _engine(packs, adopted, not_binding=["beta"]).decide(PLAIN).rule == "engine.pack-not-adopted"


def _law_set(**rest) -> LawSet:
    packs = tuple(AdoptedPack(id=name, sha256=ADOPTED[name]) for name in ("alpha", "gamma"))
    left_out = (NotBinding(id="beta", reason="No data of US persons here."),)
    given = {"packs": packs, "not_binding": left_out, "regions": REGIONS.digest} | rest
    return LawSet(schema="residency.law-set/1", site="clinic", jurisdiction="DE", **given)


def test_an_engine_of_a_law_set_names_it_in_every_decision():
    law_set = _law_set()
    decision = Engine.of(law_set, PACKS, REGIONS).decide(PLAIN)
    assert decision.allow
    assert (decision.law_set, decision.not_binding) == (law_set.digest, ("beta",))
    assert Engine.of(law_set, PACKS, REGIONS).decide(transfer("dp_update", "US DE")).rule == "engine.no-pack"


def test_other_region_sets_than_the_adopted_ones_deny_everything():
    wider = load_regions(REGIONS_TEXT.replace("codes: [CH, JP]", "codes: [CH, JP, CN]").encode())
    decision = Engine.of(_law_set(), PACKS, wider).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.regions-changed")
    assert REGIONS.digest in decision.would_allow


def test_region_sets_that_lack_a_name_of_a_rule_deny_everything():
    fewer = load_regions(REGIONS_TEXT.replace("  GOOD:", "  BETTER:").encode())
    decision = Engine(PACKS, ADOPTED, regions=fewer).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.region-missing")


def test_nothing_adopted_nothing_offered_denies():
    assert Engine({}, {}).decide(PLAIN).rule == "engine.no-pack"


def test_absent_pack_denies_everything():
    assert _engine(ALONE).decide(PLAIN).rule == "engine.pack-missing"


def test_one_changed_byte_denies():
    other = load_pack(
        ALPHA_TEXT.replace("epsilon_milli_at_most: 8000", "epsilon_milli_at_most: 9000").encode(), REGIONS
    )
    decision = _engine(PACKS | {"alpha": other}).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "engine.pack-changed")


def test_a_pack_changed_in_memory_denies_although_its_digest_is_the_adopted_one():
    rules = tuple(rule for rule in PACKS["alpha"].rules if rule.effect == "allow")
    other = PACKS["alpha"].model_copy(update={"rules": rules})
    assert other.digest == ADOPTED["alpha"]
    assert _engine(PACKS | {"alpha": other}).decide(PLAIN).rule == "engine.pack-changed"


def test_a_pack_under_another_name_denies():
    swapped = {"alpha": PACKS["beta"]}
    assert _engine(swapped, {"alpha": ADOPTED["beta"]}).decide(PLAIN).rule == "engine.pack-changed"


def test_two_packs_that_bind_must_both_allow():
    packs = _both(BETA_TEXT.replace("jurisdictions: [US]", "jurisdictions: [US, DE]"))
    decision = _engine(packs, {name: pack.digest for name, pack in packs.items()}).decide(PLAIN)
    assert (decision.allow, decision.rule) == (False, "beta.default-deny")
    assert set(decision.packs) == {"alpha", "beta"}
    open_ = BETA_TEXT.replace("jurisdictions: [US]", "jurisdictions: [US, DE]").replace(
        "[US]\n    to", "[US, HOME]\n    to"
    )
    packs = _both(open_)
    decision = _engine(packs, {name: pack.digest for name, pack in packs.items()}).decide(PLAIN)
    assert decision.allow
    assert decision.legs[0].rules == ("alpha.update.within", "beta.update")


def test_onward_recipient_without_basis_denies_the_whole_and_is_named():
    onward = (Party(name="clinic-fr", jurisdiction="FR"), Party(name="clinic-cn", jurisdiction="CN"))
    decision = ENGINE.decide(transfer("dp_update", "DE FR", documents=HOME, onward=onward))
    assert (decision.allow, decision.rule, decision.recipient) == (False, "alpha.no-basis", onward[1])
    assert "onward recipient clinic-cn in CN" in decision.plain
    assert [(leg.recipient.name, leg.via, leg.effect) for leg in decision.legs] == [
        ("server", "recipient", "allow"),
        ("clinic-fr", "onward", "allow"),
        ("clinic-cn", "onward", "deny"),
    ]
    filed = (*HOME, document("scc", "DE", "CN", "clinic-cn"), document("tia", "DE", "CN", "*"))
    assert ENGINE.decide(transfer("dp_update", "DE FR", documents=filed, onward=onward)).allow


def test_who_can_reach_it_is_a_recipient_too():
    reached = {"access": ("FR", "CN")}
    decision = ENGINE.decide(transfer("dp_update", "DE FR", documents=HOME, recipient=reached))
    assert (decision.allow, decision.rule) == (False, "alpha.no-basis")
    assert "access by server from CN" in decision.plain
    assert [(leg.recipient.jurisdiction, leg.via) for leg in decision.legs] == [("FR", "recipient"), ("CN", "access")]
    onward = (Party(name="clinic-fr", jurisdiction="FR", access=("CN",)),)
    decision = ENGINE.decide(transfer("dp_update", "DE FR", documents=HOME, onward=onward))
    assert (decision.rule, decision.legs[-1].via, decision.recipient.name) == ("alpha.no-basis", "access", "clinic-fr")


def test_a_covered_person_stays_one_wherever_it_reaches_in_from():
    held = {"covered_person": True, "access": ("FR",)}
    counts = (us_count(10_000),)
    decision = ENGINE.decide(transfer("dp_update", "US DE", recipient=held, counts=counts))
    assert decision.allow
    assert [leg.recipient.covered_person for leg in decision.legs] == [True, True]
    over = transfer("dp_update", "US DE", recipient=held, counts=(us_count(100_000),))
    assert ENGINE.decide(over).rule == "beta.rival.health"


def test_a_country_code_that_is_none_denies():
    decision = ENGINE.decide(transfer("dp_update", "US XX"))
    assert (decision.allow, decision.rule) == (False, "engine.unknown-jurisdiction")
    reached = transfer("dp_update", "US DE", recipient={"access": ("UK",)})
    assert ENGINE.decide(reached).rule == "engine.unknown-jurisdiction"


@pytest.mark.parametrize(
    ("artifact", "group", "members", "group_sum", "allow"),
    [
        ("dp_update", "west", ("clinic", "clinic-fr"), False, False),
        ("dp_update", "west", (), False, False),
        ("dp_update", "west", ("clinic", "server"), False, True),
        ("dp_update", "west", ("clinic", "clinic-fr"), True, True),
        ("dp_update", "", (), False, True),
        ("metric", "west", ("clinic", "clinic-fr"), False, False),
        ("metric", "west", ("clinic", "server"), False, True),
        ("metric", "west", ("clinic", "clinic-fr"), True, True),
        ("masked_update", "west", ("clinic", "clinic-fr"), False, False),
        ("masked_update", "west", ("clinic", "clinic-fr"), True, True),
        ("plain_update", "west", ("clinic", "clinic-fr"), False, False),
        ("aggregate", "west", ("clinic", "clinic-fr"), False, True),
    ],
)
def test_one_sites_update_stays_in_its_region_group(artifact, group, members, group_sum, allow):
    sent = transfer(
        artifact, "DE FR", documents=HOME, group=group, group_members=members, given={"group_sum": group_sum}
    )
    decision = ENGINE.decide(sent)
    assert decision.allow is allow
    assert allow or (decision.rule == "engine.group-export" and "secure aggregation" in decision.plain)


def test_an_onward_recipient_outside_the_group_denies():
    onward = (Party(name="clinic-fr", jurisdiction="FR"),)
    rest = {"group": "west", "group_members": ("clinic", "server"), "given": {"group_sum": False}, "onward": onward}
    decision = ENGINE.decide(transfer("dp_update", "DE FR", documents=HOME, **rest))
    assert (decision.rule, decision.recipient) == ("engine.group-export", onward[0])


@pytest.mark.parametrize(
    ("sent", "missing", "would"),
    [
        (
            transfer("dp_update", "DE CN", documents=HOME),
            (
                "a document of kind scc naming server, covering DE -> CN, unexpired on 2026-11-22",
                "a document of kind tia naming CN, covering DE -> CN, unexpired on 2026-11-22",
            ),
            "rule alpha.update.abroad, once there is ",
        ),
        (
            transfer("dp_update", "DE JP", documents=HOME),
            ("a document of kind adequacy_confirmation naming server, covering DE -> JP, unexpired on 2026-11-22",),
            "rule alpha.update.abroad, once there is ",
        ),
        (
            transfer("masked_update", "DE FR", given={"group_sum": False, "secure_aggregation_threshold": 0}),
            (
                "a document of kind dpia covering DE -> FR, unexpired on 2026-11-22",
                "a guarantee: secure aggregation threshold at least 3 (found none)",
                "a guarantee: only sums of the region group leave it (found none)",
            ),
            "rule alpha.masked, once there is ",
        ),
        (
            transfer("aggregate", "DE FR", given={"min_patients": 9, "keys_in": ("US", "DE", "CN")}),
            (
                "a guarantee: patients at least 50 (found 9)",
                "a guarantee: keys only in HOME or GOOD (found US, CN)",
            ),
            "rule alpha.sums, once there is ",
        ),
        (
            transfer("aggregate", "DE FR", given={"keys_in": ()}),
            ("a guarantee: keys only in HOME or GOOD (found none)",),
            "rule alpha.sums, once there is ",
        ),
        (
            transfer("dp_update", "US CN"),
            (
                "a count of at most 10000 persons by counter us_12_months for server (found none)",
                "a count of at most 100 persons by counter us_12_months for server (found none)",
            ),
            "rule beta.update, once there is ",
        ),
        (
            transfer("dp_update", "US CN", counts=(us_count(100_000),)),
            ("a document of kind doj_license naming server, covering US -> CN, unexpired on 2026-11-22",),
            "rule beta.update, once there is ",
        ),
        (
            transfer("dp_update", "US CN", counts=(us_count(1000, "genomic"),), categories=("genomic",)),
            ("a count of at most 100 persons by counter us_12_months for server (found up to 1000)",),
            "rule beta.update, once there is ",
        ),
        (
            transfer("aggregate", "US DE", given={"min_patients": 3}),
            ("a guarantee: patients at least 20 (found 3)",),
            "rule beta.update, once there is ",
        ),
        (
            transfer("released_model", "DE FR", at="2026-12-24T00:00:00Z"),
            ("a version of pack alpha whose rule alpha.model.old has not expired (this one: 2026-12-01)",),
            "adopt a version of pack alpha",
        ),
        (
            transfer("released_model", "DE CH", "bcr", purpose="publication", at="2026-12-24T00:00:00Z"),
            (),
            "nothing, rule alpha.paused has no exception since 2026-12-01",
        ),
        (transfer("raw_record", "DE FR"), (), "nothing, rule alpha.never-raw has no exception"),
        (
            transfer("dp_update", "US DE", categories=("biometric",)),
            (),
            "nothing, no rule of pack beta lets dp_update go from US to DE for scientific_research with biometric data",
        ),
        (
            transfer("roster", "DE FR", at="2018-05-24T23:59:59Z"),
            ("a version of pack alpha that was verified by 2018-05-24 (this one: 2018-05-25)",),
            "adopt a version of pack alpha",
        ),
        (
            transfer("roster", "DE FR", at="2027-06-30T00:00:00Z"),
            ("a version of pack alpha that has not expired on 2027-06-30 (this one: 2027-06-30)",),
            "adopt a version of pack alpha",
        ),
    ],
    ids=lambda value: value.artifact if hasattr(value, "artifact") else "",
)
def test_missing_is_concrete(sent, missing, would):
    decision = ENGINE.decide(sent)
    assert not decision.allow
    assert decision.missing == missing
    assert decision.would_allow.startswith(would)
    assert all(text in decision.would_allow for text in missing)


@pytest.mark.parametrize(
    "spoilt",
    [
        document("scc", "FR", "CN"),
        document("scc", "DE", "IN"),
        document("scc", "DE", "CN", "somebody-else"),
        document("scc", "DE", "CN", expires="2026-11-22T10:00:00Z"),
        document("scc", "DE", "CN", expires="2026-11-22"),
        document("scc_draft", "DE", "CN"),
    ],
    ids=["origin", "target", "covers", "this-second", "this-day", "kind"],
)
def test_a_document_that_does_not_cover_the_leg_is_none(spoilt):
    tia = document("tia", "DE", "CN")
    good = transfer("dp_update", "DE CN", documents=(*HOME, tia, document("scc", "DE", "CN")))
    assert ENGINE.decide(good).allow
    assert ENGINE.decide(transfer("dp_update", "DE CN", documents=(*HOME, tia, spoilt))).rule == "alpha.no-basis"


_ROUTES = [
    ("DE CN", "scc", "tia"),
    ("DE CN", "bcr", "tia"),
    ("US CN", "doj_license", ""),
]


@pytest.mark.parametrize(("leg", "kind", "beside"), _ROUTES, ids=lambda value: value.replace(" ", "-"))
def test_a_contract_or_licence_is_with_somebody(leg, kind, beside):
    """And an onward recipient needs one of its own: a file may stand in several rows."""
    later = Party(name="later", jurisdiction=leg.split()[1])
    counts = (us_count(100_000, recipient="*"),) if kind == "doj_license" else ()
    rest = (*HOME, *papers(beside, covers="*", target="CN"))
    for covers, onward, allow in (
        (("server",), (), True),
        (("*",), (), False),
        (("somebody",), (), False),
        (("server",), (later,), False),
        (("server", "*"), (later,), False),
        (("server", "later"), (later,), True),
    ):
        filed = (*rest, *(document(kind, covers=name) for name in covers))
        decision = ENGINE.decide(transfer("dp_update", leg, documents=filed, onward=onward, counts=counts))
        assert decision.allow is allow, (covers, onward)
        assert allow or f"naming {decision.recipient.name}" in decision.missing[0]


def test_an_assessment_is_of_a_country():
    leg = "covering DE -> CN, unexpired on 2026-11-22"
    for target, allow in (("CN", True), ("*", False), ("RU", False)):
        filed = (*HOME, document("scc"), document("tia", target=target, covers="*"))
        decision = ENGINE.decide(transfer("dp_update", "DE CN", documents=filed))
        assert decision.allow is allow
        assert allow or decision.missing == (f"a document of kind tia naming CN, {leg}",)
    reached = {"access": ("RU",)}
    filed = (*HOME, *papers("scc tia", target="CN"))
    decision = ENGINE.decide(transfer("dp_update", "DE CN", documents=filed, recipient=reached))
    assert (decision.allow, decision.recipient.jurisdiction) == (False, "RU")
    both = (*filed, document("tia", target="RU"))
    assert ENGINE.decide(transfer("dp_update", "DE CN", documents=both, recipient=reached)).allow


def test_what_names_its_recipient_is_what_is_agreed_with_or_found_of_somebody():
    assert {
        *("adequacy_confirmation", "appi_equivalent_system", "onward_prohibition"),
        *("scc", "bcr", "idta", "uk_addendum", "swiss_scc", "baa", "hipaa_data_use_agreement", "doj_license"),
        *("pipl_contract", "pipl_certification", "cac_assessment"),
    } == NAMES_ITS_RECIPIENT
    assert {"tia", "uk_transfer_test"} == NAMES_ITS_DESTINATION
    assert set(DOCUMENT_KINDS) >= NAMES_ITS_RECIPIENT | NAMES_ITS_DESTINATION


@pytest.mark.parametrize(
    ("rule", "sent", "before"),
    [
        ("alpha.model", transfer("released_model", "DE FR", purpose="publication"), "alpha.default-deny"),
        ("alpha.no-basis", transfer("aggregate", "DE CN", "scc tia"), "alpha.no-basis"),
    ],
    ids=["an-allow-is-silent", "a-deny-has-no-exception"],
)
def test_a_rule_that_was_verified_later_than_its_pack(rule, sent, before):
    i = ALPHA_TEXT.index(f"id: {rule}\n")
    j = ALPHA_TEXT.index("    confidence:", i)
    pack = load_pack((ALPHA_TEXT[:j] + "    verified_on: 2026-11-23\n" + ALPHA_TEXT[j:]).encode(), REGIONS)
    engine = _engine({"alpha": pack}, {"alpha": pack.digest})
    decision = engine.decide(sent)
    assert (decision.allow, decision.rule, decision.evaluators.cedar) == (False, before, "deny")
    assert "2026-11-23" in decision.would_allow
    assert engine.decide(sent.model_copy(update={"at": "2026-11-23T00:00:00Z"})).allow


def test_adequacy_is_confirmed_by_name_only():
    for covers, allow in (("server", True), ("*", False), ("another", False)):
        confirmed = document("adequacy_confirmation", "DE", "JP", covers)
        assert ENGINE.decide(transfer("dp_update", "DE JP", documents=(*HOME, confirmed))).allow is allow


@pytest.mark.parametrize("side", ["python", "cedar"])
def test_disagreement_denies_either_way(side, monkeypatch):
    wrong = Verdict(True, frozenset({"alpha.update.within"}))
    if side == "python":
        monkeypatch.setattr(decide, "evaluate", lambda *_: wrong)
    else:
        monkeypatch.setattr(cedar_eval.CedarPack, "evaluate", lambda *_: wrong)
    decision = ENGINE.decide(transfer("raw_record", "DE FR", documents=HOME))
    assert (decision.allow, decision.rule) == (False, "engine.disagreement")
    assert {decision.evaluators.python, decision.evaluators.cedar} == {"allow", "deny"}


def test_same_vote_by_other_rules_is_a_disagreement(monkeypatch):
    monkeypatch.setattr(decide, "evaluate", lambda *_: Verdict(True, frozenset({"alpha.metadata"})))
    assert ENGINE.decide(PLAIN).rule == "engine.disagreement"


def test_entry_is_canonical_and_comes_back():
    counted = transfer(
        "dp_update", "US CN", counts=(us_count(1_000, "health", "genomic"),), recipient={"access": ("RU",)}
    )
    for one in (PLAIN, transfer("aggregate", "DE CN"), transfer("roster", "GB FR"), counted):
        decision = ENGINE.decide(one)
        entry = decision.as_entry()
        assert entry.pop("schema") == "residency.decision/1"
        assert Decision.model_validate_json(canonical(entry)) == decision
        assert ENGINE.decide(decision.transfer) == decision


def test_lines_say_draft_until_counsel_is_named():
    lines = decision_lines(ENGINE.decide(transfer("dp_update", "DE CN", documents=HOME)))
    assert len(lines) == 2
    assert all(line.startswith("[DRAFT, no counsel] ") and "\n" not in line for line in lines)
    assert lines[0].endswith("by alpha.no-basis; law: Act 44")
    assert "scc naming server, covering DE -> CN" in lines[1]
    reviewed = load_pack(ALPHA_TEXT.replace("reviewer: none", "reviewer: A. Counsel").encode(), REGIONS)
    decision = _engine({"alpha": reviewed}, {"alpha": reviewed.digest}).decide(PLAIN)
    assert decision.allow
    assert "DRAFT" not in "".join(decision_lines(decision))
    one = ALPHA_TEXT.replace("reviewer: none", "reviewer: A. Counsel").replace(
        "    law: [Act 44]", "    law: [Act 44]\n    reviewer: none"
    )
    mixed = load_pack(one.encode(), REGIONS)
    assert _engine({"alpha": mixed}, {"alpha": mixed.digest}).decide(PLAIN).draft


def test_lines_say_how_many_others_it_reaches():
    onward = (Party(name="clinic-fr", jurisdiction="FR", access=("DE",)),)
    decision = ENGINE.decide(transfer("dp_update", "DE FR", documents=HOME, onward=onward))
    assert "server (FR), onward to 1, reachable from 1 more place by" in decision_lines(decision)[0]


def test_speed(capsys):
    count, begin = 300, time.thread_time()
    for _ in range(count):
        ENGINE.decide(PLAIN)
    used = (time.thread_time() - begin) / count
    with capsys.disabled():
        print(f"\nlaw engine: {used * 1e6:.0f} us a decision (both evaluators, one recipient)")  # noqa: T201
    assert used < 0.01
