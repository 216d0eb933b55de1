"""What cases cannot say of the European packs and the packs of facts: where they were read, and their sets."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from compliance.law.cases import load_folder, run_cases
from compliance.law.decide import Engine
from compliance.law.model import Document, Guarantees, Party, Transfer
from compliance.law.pack import builtin_packs
from compliance.law.regions import load_regions
from compliance.law.vocabulary import ARTIFACTS, DOCUMENT_KINDS, METADATA, PURPOSES

FULL = ("eu", "uk", "ch")
FACTS = ("in", "kr", "sg", "au", "ca", "br", "sa", "ae", "ru", "za")
PACKS = builtin_packs()
REGIONS = load_regions()
DAY = date(2026, 11, 22)
ADEQUATE = {"AD", "AR", "BR", "CA", "CH", "FO", "GB", "GG", "IL", "IM", "JE", "JP", "KR", "NZ", "US", "UY"}
PAPERS = {
    "eu": {"dpia", "art6_basis", "art9_basis"},
    "uk": {"dpia", "art6_basis", "art9_basis"},
    "ch": {"dpia", "swiss_basis"},
}
SAFEGUARDS = {
    "eu": {("scc", "tia"), ("bcr", "tia")},
    "uk": {
        ("idta", "uk_transfer_test"),
        ("idta", "tia"),
        ("scc", "uk_addendum", "uk_transfer_test"),
        ("scc", "uk_addendum", "tia"),
    },
    "ch": {("swiss_scc", "tia"), ("bcr", "tia")},
}
CONFIRMED = {"eu": "adequate", "uk": "confirmed", "ch": "confirmed"}  # the route that wants its recipient named
WHAT = {
    "update": ("dp_update", "metric"),
    "masked": ("masked_update",),
    "aggregate": ("aggregate", "released_model"),
}
SITES = {"update": None, "masked": 3, "aggregate": 2}
FILES = {file.pack: file for file in load_folder()}


def _statements(name):
    pack = PACKS[name]
    return (*pack.rules, *pack.retention, *pack.deadlines)


@pytest.mark.parametrize("name", [*FULL, *FACTS])
def test_what_was_read_says_where_and_what_was_not_read_is_low(name):
    for statement in _statements(name):
        assert statement.source_kind != "primary" or statement.url.startswith("https://"), statement
        assert (statement.source_kind == "memory") <= (statement.confidence == "low"), statement
        assert statement.confidence != "high"
    assert PACKS[name].draft
    assert PACKS[name].not_covered
    assert (PACKS[name].verified_on, PACKS[name].expires_on) == ("2026-11-22", "2027-06-30")


@pytest.mark.parametrize("name", FULL)
def test_no_rule_that_rests_on_a_statute_rests_on_memory(name):
    """A rule of which a part was read second-hand is secondary, and says which part."""
    rules = PACKS[name].rules
    assert {rule.source_kind for rule in rules} == {"primary", "secondary", "house"}
    assert all("secondary" in rule.source for rule in rules if rule.source_kind == "secondary")
    assert sum(rule.source_kind == "primary" for rule in rules) >= 3


@pytest.mark.parametrize("name", FULL)
def test_every_route_asks_the_same_papers_and_guarantees(name):
    for rule in PACKS[name].rules:
        if rule.effect == "allow" and rule.law:
            _, what, route = rule.id.split(".")
            named = {"adequacy_confirmation"} if route == CONFIRMED[name] else set()
            assert rule.artifact == WHAT[what]
            assert rule.purpose == ("scientific_research",)
            assert set(rule.requires.documents) == PAPERS[name] | named
            assert set(rule.requires.any_of) == (SAFEGUARDS[name] if route == "safeguards" else set())
            assert rule.house.documents == ("ethics",)
            assert rule.house.unit == ("record", "patient")
            assert rule.house.epsilon_milli_at_most == 8000
            assert rule.house.min_sites_at_least == SITES[what]
            assert rule.house.secure_aggregation is (True if what == "masked" else None)
            assert bool(rule.house.keys_within) is ((what, route) == ("masked", "safeguards"))


@pytest.mark.parametrize("name", FULL)
def test_what_denies_an_export_is_lifted_by_a_whole_safeguard_only(name):
    rules = {rule.id: rule for rule in PACKS[name].rules}
    no_basis, unconfirmed = rules[f"{name}.no-basis"], rules[f"{name}.adequacy-unconfirmed"]
    assert set(no_basis.artifact) == set(unconfirmed.artifact) == {a for kinds in WHAT.values() for a in kinds}
    assert no_basis.purpose == unconfirmed.purpose == ("*",)
    assert set(no_basis.unless.any_of) == SAFEGUARDS[name]
    assert set(unconfirmed.unless.any_of) == SAFEGUARDS[name] | {("adequacy_confirmation",)}
    assert set(rules[f"{name}.administration"].artifact) == METADATA


@pytest.mark.parametrize("name", [*FULL, *FACTS])
def test_there_are_enough_cases_and_every_rule_speaks_in_one(name):
    file, pack = FILES[name], PACKS[name]
    results = run_cases([file], PACKS)
    assert [result.wrong for result in results if not result.passed] == []
    assert len(file.cases) >= (20 if name in FULL else 3)
    if name in FULL:
        assert {case.kind for case in file.cases} == {"allow", "region", "document", "guarantee", "threshold", "other"}
    decisions = [result.decision for result in results if result.decision is not None]
    spoke = {rule for d in decisions for leg in d.legs for rule in leg.rules} | {d.rule for d in decisions}
    assert {rule.id for rule in pack.rules} <= spoke


@pytest.mark.parametrize("name", FACTS)
def test_a_pack_of_facts_lets_nothing_out(name):
    engine = Engine({name: PACKS[name]}, {name: PACKS[name].digest})
    (home,) = PACKS[name].jurisdictions
    papers = tuple(Document(kind=kind, sha256="ab" * 32, expires="2030-01-01", covers="hub") for kind in DOCUMENT_KINDS)
    best = Guarantees(unit="patient", epsilon_milli=1, inverse_delta=10**9, min_sites=99, secure_aggregation=True)
    for number, artifact in enumerate(ARTIFACTS):
        for target in (home, "IE"):
            decision = engine.decide(
                Transfer(
                    artifact=artifact,
                    exporter=Party(name="clinic", jurisdiction=home),
                    recipient=Party(name="hub", jurisdiction=target),
                    purpose=PURPOSES[number % len(PURPOSES)],
                    study="",
                    documents=papers,
                    guarantees=best,
                    at="2026-11-22T12:00:00Z",
                )
            )
            assert decision.rule.startswith(f"{name}.n")  # never-raw, never-plain, no-reviewed-pack
            assert not decision.allow


def test_the_lists_of_adequate_countries_differ_as_their_lists_do():
    sets = {name: set(REGIONS.members(name, DAY)) for name in REGIONS.names - {"COVERED_PERSON"}}
    assert len(sets["EEA"]) == 30
    assert sets["EU_ADEQUATE"] == ADEQUATE
    assert sets["EEA"] <= sets["UK_APPROVED"]
    assert sets["EEA"] <= sets["CH_ADEQUATE"]
    assert not {"JP", "KR", "BR"} & (sets["CH_ADEQUATE"] | sets["CH_ADEQUATE_PARTLY"])
    assert not {"BR", "CN", "IN"} & (sets["UK_APPROVED"] | sets["UK_APPROVED_PARTLY"])
    for whole, partly in (("UK_APPROVED", "UK_APPROVED_PARTLY"), ("CH_ADEQUATE", "CH_ADEQUATE_PARTLY")):
        assert not sets[whole] & sets[partly]
    assert "GB" not in REGIONS.members("EU_ADEQUATE", date(2031, 12, 27))


@pytest.mark.parametrize(
    ("name", "code", "first"),
    [
        ("EU_ADEQUATE", "US", "2023-07-10"),  # Decision (EU) 2023/1795
        ("CH_ADEQUATE_PARTLY", "US", "2024-09-15"),  # DPO Annex 1
        ("UK_APPROVED_PARTLY", "KR", "2022-12-19"),  # SI 2022/1213
        ("JP_DESIGNATED", "IE", "2019-01-23"),
        ("US_COUNTRY_OF_CONCERN", "CN", "2025-04-08"),  # 90 FR 1706
    ],
)
def test_a_country_is_in_a_set_from_a_day_on(name, code, first):
    """The packs hold from later on, so no case can say it."""
    day = date.fromisoformat(first)
    assert code in REGIONS.members(name, day)
    assert code not in REGIONS.members(name, day - timedelta(days=1))


def test_retention_is_rounded_so_that_a_year_is_never_cut_short():
    for name in (*FULL, *FACTS):
        for period in PACKS[name].retention:
            assert period.floor_days in {184, 366, 731, 1827, 3653, 9132}, period
            assert period.ceiling_days is None
