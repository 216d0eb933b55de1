"""The statements hold for the packs, and each is false, with a case that shows it, for a pack broken against it."""

from __future__ import annotations

from datetime import date

import pytest
import yaml
import z3

from compliance.law import proofs
from compliance.law.cases import CaseTransfer
from compliance.law.decide import Engine
from compliance.law.pack import Pack, builtin_packs
from compliance.law.proof_model import Leg, Sent, World
from compliance.law.proof_papers import KEYS, PAPERS
from compliance.law.proof_regions import differences
from compliance.law.proofs import STATEMENTS, Proof, days, only_by, prove
from compliance.law.regions import load_regions
from compliance.law.rule import House, Limits, Requires
from compliance.validation import load_model
from tests.law_region_mutants import region_mutants

PACKS = builtin_packs()
REGIONS = load_regions()


def _one(name: str, **changed: Pack) -> Proof:
    packs = {**PACKS, **changed}
    says, check = STATEMENTS[name]
    return proofs._proof(name, says, check, [World(packs, REGIONS, days(packs, REGIONS)[0])])


def _alone(name: str, pack: Pack) -> Proof:
    """Of one pack: the others say nothing of its papers."""
    says, check = STATEMENTS[name]
    world = World({pack.id: pack}, REGIONS, days({pack.id: pack}, REGIONS)[0])
    return proofs._proof(name, says, check, [world])


def _with(pack: Pack, rules: list) -> Pack:
    """Past the loader, which refuses some of these."""
    return pack.model_copy(update={"rules": tuple(rules)})


def _without(name: str, *gone: str) -> Pack:
    return _with(PACKS[name], [r for r in PACKS[name].rules if not r.id.startswith(gone)])


def _case(proof: Proof) -> dict:
    found = yaml.safe_load(proof.counter_example[proof.counter_example.index("{") :])
    load_model(CaseTransfer, found, "RSD-9999", "a counter-example")
    return found


def test_every_statement_is_proved():
    found = prove(PACKS, REGIONS)
    assert [(p.name, p.counter_example) for p in found if not p.proved] == []
    assert [p.name for p in found] == list(STATEMENTS)


def test_the_days_are_those_on_which_answers_change():
    assert days(PACKS, REGIONS)[0].isoformat() == min(p.verified_on for p in PACKS.values())
    rule = PACKS["eu"].rules[0].model_copy(update={"expires_on": "2027-01-15"})
    eu = _with(PACKS["eu"], [rule, *PACKS["eu"].rules[1:]])
    assert "2027-01-15" in [d.isoformat() for d in days({**PACKS, "eu": eu}, REGIONS)]
    later = PACKS["eu"].model_copy(update={"verified_on": "2027-01-10"})
    assert "2027-01-10" in [d.isoformat() for d in days({**PACKS, "eu": later}, REGIONS)]


def test_the_model_knows_the_first_day_of_a_pack_and_of_a_rule():
    pack = PACKS["eu"]
    for change, day, possible in (
        ({}, "2026-11-21", False),
        ({}, "2026-11-22", True),
        ({"verified_on": "2027-01-10"}, "2027-01-09", False),
        ({"rules": tuple(r.model_copy(update={"verified_on": "2027-01-10"}) for r in pack.rules)}, "2027-01-09", False),
        ({"rules": tuple(r.model_copy(update={"verified_on": "2027-01-10"}) for r in pack.rules)}, "2027-01-10", True),
    ):
        changed = pack.model_copy(update=change)
        world = World({"eu": changed}, REGIONS, date.fromisoformat(day))
        sent, leg, solver = Sent("sent"), Leg("first"), z3.SolverFor("QF_LIA")
        solver.add(sent.bounds(), leg.bounds(), world.allows(changed, sent, leg))
        assert (solver.check() == z3.sat) is possible, (change, day)


@pytest.mark.parametrize("artifact", ["gradient", "raw_record", "embedding", "plain_update", "support_file"])
def test_an_allow_of_what_never_leaves_is_found(artifact):
    rules = [r for r in PACKS["eu"].rules if not r.id.startswith("eu.never")]
    at = next(i for i, r in enumerate(rules) if r.effect == "allow")
    rules[at] = rules[at].model_copy(update={"artifact": (*rules[at].artifact, artifact)})
    proof = _one("records-stay", eu=_with(PACKS["eu"], rules))
    assert not proof.proved
    assert _case(proof)["artifact"] == artifact


def test_us_bulk_data_by_a_missing_deny():
    broken = _without("us-202", "us-202.concern.genomic")
    direct = _one("us-bulk-direct", **{"us-202": broken})
    assert not direct.proved
    found = _case(direct)
    assert found["from"] == "US"
    assert "genomic" in str(found)  # or in the window: combined data take the lowest threshold
    assert not _one("us-bulk-onward", **{"us-202": broken}).proved


def test_us_bulk_data_by_a_raised_threshold():
    rules = [
        r.model_copy(update={"over": r.over.model_copy(update={"above": 100_000})}) if r.over else r
        for r in PACKS["us-202"].rules
    ]
    found = _case(_one("us-bulk-direct", **{"us-202": _with(PACKS["us-202"], rules)}))
    assert found["counts"]["us_12_months"]["at_most"] <= 100_000


def test_us_bulk_data_over_a_recipient_that_may_send_it_on():
    broken = _without("us-202", "us-202.foreign")
    proof = _one("us-bulk-reexport", **{"us-202": broken})
    assert not proof.proved
    found = _case(proof)
    assert found["to"] not in {"US", *proofs.COUNTRIES_OF_CONCERN}
    assert found["onward"][0]["jurisdiction"] in proofs.COUNTRIES_OF_CONCERN or found["onward"][0]["covered_person"]
    assert _one("us-bulk-direct", **{"us-202": broken}).proved


def test_a_way_out_of_the_eea_without_basis():
    rules = []
    for rule in PACKS["eu"].rules:
        if rule.effect == "deny" and rule.id in {"eu.no-basis", "eu.adequacy-unconfirmed"}:
            continue
        bare = rule.requires.model_copy(update={"any_of": ()})
        rules.append(rule.model_copy(update={"requires": bare}) if rule.effect == "allow" else rule)
    found = _case(_one("eea-basis", eu=_with(PACKS["eu"], rules)))
    assert "DE" in PACKS["eu"].jurisdictions
    assert found["from"] in PACKS["eu"].jurisdictions
    assert "tia" not in found.get("documents", [])


_LIMITS = {
    "unit": ("patient",),
    "inverse_delta_at_least": 10**6,
    "min_patients_at_least": 20,
    "secure_aggregation_threshold_at_least": 3,
    "group_sum": True,
}


@pytest.mark.parametrize("field", Limits.model_fields)
def test_a_rule_without_the_limit_beside_one_with_it(field):
    eu = PACKS["eu"]
    found = [r for r in eu.rules if r.effect == "allow" and getattr(r.house, field)]
    given = next(r for r in eu.rules if r.id == "eu.masked.safeguards")
    asks = given.house.model_copy(update={field: _LIMITS.get(field)})
    strict = found[0] if found and field != "unit" else given.model_copy(update={"house": asks})
    eu = _with(eu, [strict if r.id == strict.id else r for r in eu.rules])
    loose = strict.model_copy(
        update={
            "id": "eu.loose",
            "house": strict.house.model_copy(update={field: House.model_fields[field].default}),
            "requires": Requires(),
        }
    )
    proof = _alone("limits-hold", _with(eu, [*eu.rules, loose]))
    assert not proof.proved
    assert field in proof.counter_example
    assert _case(proof)["artifact"] in strict.artifact


def test_a_rule_that_no_longer_asks_for_a_paper():
    eu = PACKS["eu"]
    less = Requires(documents=("dpia", "art6_basis"))
    rules = [r.model_copy(update={"requires": less}) if r.id == "eu.update.within" else r for r in eu.rules]
    found = _case(_alone("papers-on-file", _with(eu, rules)))
    assert "art9_basis" not in found["documents"]


def _asks_less(pack: Pack, start: str, **less: object) -> Pack:
    """Every allow rule whose id begins so asks for this instead."""
    rules = [r.model_copy(update=less) if r.id.startswith(start) and r.effect == "allow" else r for r in pack.rules]
    assert rules != list(pack.rules)
    return _with(pack, rules)


_NO_ETHICS = {"house": House(unit=("patient",), epsilon_milli_at_most=8000, secure_aggregation=True)}
LOOSER: tuple[tuple[str, str, dict, str, str], ...] = (
    # pack, rules, what they ask for now, the paper that lacks, where the exporter is
    ("uk", "uk.update.approved", {"requires": Requires()}, "art6_basis", "GB"),
    ("uk", "uk.masked.domestic", {"requires": Requires()}, "dpia", "GB"),
    ("uk", "uk.update.domestic", _NO_ETHICS, "ethics", "GB"),
    ("ch", "ch.update.domestic", {"requires": Requires()}, "swiss_basis", "CH"),
    ("ch", "ch.update.adequate", _NO_ETHICS, "ethics", "CH"),
    ("us-hipaa", "us-hipaa.update.research", {"requires": Requires()}, "hipaa_waiver", "US"),
    ("us-hipaa", "us-hipaa.update.operations", {"requires": Requires()}, "baa", "US"),
    ("us-ca", "us-ca.update.research", _NO_ETHICS, "ethics", "US"),
    ("us-ca", "us-ca.update.authorised", {"requires": Requires()}, "hipaa_authorization", "US"),
    ("jp", "jp.update.domestic", _NO_ETHICS, "ethics", "JP"),
    ("cn", "cn.update.domestic", {"requires": Requires()}, "pipia", "CN"),
)


@pytest.mark.parametrize(
    ("name", "start", "less", "lacks", "home"), LOOSER, ids=lambda v: v if isinstance(v, str) else "less"
)
def test_a_paper_that_a_regime_always_asks_for(name, start, less, lacks, home):
    proof = _alone("papers-on-file", _asks_less(PACKS[name], start, **less))
    found = _case(proof)
    assert f"under {name} without" in proof.counter_example
    assert found["from"] == home
    assert lacks not in found.get("documents", [])


@pytest.mark.parametrize(
    ("name", "gone", "lacks"),
    [
        ("us-hipaa", "us-hipaa.risk-analysis", "dpia"),
        ("us-ca", "us-ca.abroad", "dpia"),
        ("us-ca", "us-ca.genetic", "hipaa_authorization"),
        ("cn", "cn.consent", "separate_consent"),
        ("cn", "cn.volume", "cac_assessment"),
        ("cn", "cn.hgr-omic", "hgr_filing"),
    ],
)
def test_a_missing_deny_that_asks_for_a_paper(name, gone, lacks):
    proof = _alone("papers-on-file", _without(name, gone))
    assert lacks not in _case(proof).get("documents", [])


@pytest.mark.parametrize("name", ["eu", "uk", "ch"])
def test_keys_that_may_lie_anywhere(name):
    rule = next(r for r in PACKS[name].rules if r.house.keys_within)
    loose = _asks_less(PACKS[name], rule.id, house=rule.house.model_copy(update={"keys_within": ()}))
    proof = _alone("keys-stay", loose)
    assert f"under {name} with a key elsewhere" in proof.counter_example
    assert _case(proof)["artifact"] == "masked_update"


def test_each_regime_with_rules_of_its_own_has_papers_in_the_table():
    full = {name for name, pack in PACKS.items() if pack.kind == "full"}
    assert {row.pack for row in PAPERS} == full - {"us-202"}  # whose papers are in the statements on bulk data
    assert {row.pack for row in KEYS} == {n for n in full if any(r.house.keys_within for r in PACKS[n].rules)}


@pytest.mark.parametrize(
    ("old", "new", "code", "name", "day"),
    [
        ("[IS, LI, NO], since", "[IS, LI, NO, RS], since", "RS", "EEA", "2018-07-20"),
        ("{codes: [BR], since: 2026", "{codes: [BR, RU], since: 2026", "RU", "EU_ADEQUATE", "2026-01-28"),
        ("GG, GI, IL, IM, JE, NZ, UY]", "GG, GI, IL, IM, JE, NZ, RU, UY]", "RU", "UK_APPROVED", "2021-01-01"),
        ("[AD, AR, AT, BE", "[AD, AR, AT, RU, BE", "RU", "CH_ADEQUATE", "2023-09-01"),
        (
            "      - {codes: [GB], since: 2019",
            "      - {codes: [GB, RU], since: 2019",
            "RU",
            "JP_DESIGNATED",
            "2019-01-23",
        ),
        ("{codes: [CN], since", "{codes: [CN, RU], since", "RU", "CN", "2018-05-25"),
        ("{codes: [US], since: 2018", "{codes: [US, CU], since: 2018", "CU", "US", "2018-05-25"),
        ("until: 2021-01-01", "until: 2022-01-01", "GB", "EEA", "2021-01-01"),
        ("[CN, HK, MO, CU, IR", "[CN, MO, CU, IR", "HK", "US_COUNTRY_OF_CONCERN", "2025-04-08"),
    ],
)
def test_a_slip_in_a_region_set_is_told_with_code_set_and_day(old, new, code, name, day):
    text = REGIONS.raw.decode()
    assert old in text
    slipped = load_regions(text.replace(old, new, 1).encode())
    says, check = STATEMENTS["region-sets"]
    world = World(PACKS, slipped, days(PACKS, slipped)[0])
    proof = proofs._proof("region-sets", says, check, [world])
    assert not proof.proved
    assert proof.counter_example.startswith(f"on {day}: {code} is in {name} by the ")


def test_every_slip_of_a_code_or_a_day_in_the_region_sets_is_seen():
    """One of eight here; all by `make law-mutations`."""
    tried = [(mutant.told, mutant.load()) for mutant in list(region_mutants())[3::8]]
    loaded = [(told, regions) for told, regions in tried if regions is not None]
    assert len(loaded) > 40
    assert [told for told, regions in loaded if not any(differences(regions))] == []
    assert not any(differences(REGIONS))


@pytest.mark.parametrize(
    ("rule", "field", "value"),
    [
        ("us-202.update", "epsilon_milli_at_most", 9000),
        ("us-202.update", "unit", ()),
        ("us-202.masked", "secure_aggregation", None),
        ("us-202.aggregate", "min_sites_at_least", None),
    ],
)
def test_a_rule_below_the_floor_of_the_house(rule, field, value):
    pack = PACKS["us-202"]
    rules = [
        r.model_copy(update={"house": r.house.model_copy(update={field: value})}) if r.id == rule else r
        for r in pack.rules
    ]
    proof = _one("house-floor", **{"us-202": _with(pack, rules)})
    assert "pack us-202 allows it" in proof.counter_example
    assert _case(proof)["from"] == "US"


def test_a_rule_behind_a_deny_of_all_it_allows_is_dead():
    eu = PACKS["eu"]
    allow = next(r for r in eu.rules if r.effect == "allow")
    deny = next(r for r in eu.rules if r.effect == "deny").model_copy(
        update={"id": "eu.shut", "artifact": allow.artifact, "to_region": allow.to_region, "to_region_except": ()}
    )
    proof = _one("every-rule-speaks", eu=_with(eu, [*eu.rules, deny]))
    assert not proof.proved
    assert f"{allow.id} is dead" in proof.counter_example


def test_a_deny_that_can_never_fire_is_dead():
    eu = PACKS["eu"]
    rules = [r.model_copy(update={"to_region_except": r.to_region}) if r.id == "eu.no-basis" else r for r in eu.rules]
    assert "eu.no-basis is dead" in _one("every-rule-speaks", eu=_with(eu, rules)).counter_example


def test_an_engine_that_lets_one_pack_overrule_another_is_found(monkeypatch):
    def first_wins(world, packs):
        return Engine({packs[0].id: packs[0]}, {packs[0].id: packs[0].digest}, regions=world.regions)

    monkeypatch.setattr(proofs, "_engine", first_wins)
    proof = _one("no-silent-contradiction")
    assert not proof.proved
    assert "the engine says allow" in proof.counter_example


def test_a_solver_without_an_answer_proves_nothing(monkeypatch):
    class Silent:
        def check(self, *_):
            return z3.unknown

        def reason_unknown(self):
            return "timeout"

    monkeypatch.setattr(proofs, "_solver", lambda *_: Silent())
    found = _one("eea-basis")
    assert (found.proved, "no answer" in found.counter_example) == (False, True)


def test_two_versions_are_told_apart_by_a_transfer():
    eu = PACKS["eu"]
    rules = [
        r.model_copy(update={"house": r.house.model_copy(update={"epsilon_milli_at_most": 9000})})
        if r.house.epsilon_milli_at_most
        else r
        for r in eu.rules
    ]
    wider = _with(eu, rules)
    assert "epsilon_milli" in only_by(wider, eu, REGIONS)
    assert only_by(eu, wider, REGIONS) == ""
