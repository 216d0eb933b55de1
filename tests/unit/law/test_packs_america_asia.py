"""What cases cannot say of the packs of the United States, Japan and China: where they were read, numbers, and sets."""

from __future__ import annotations

from datetime import date

import pytest

from compliance.law.cases import load_folder, run_cases
from compliance.law.counters import EDGES
from compliance.law.pack import builtin_packs
from compliance.law.regions import COVERED_PERSON, load_regions
from compliance.law.vocabulary import METADATA

NAMES = ("us-hipaa", "us-202", "us-ca", "jp", "cn")
PACKS = builtin_packs()
REGIONS = load_regions()
DAY = date(2026, 11, 22)
CONCERN = {"CN", "HK", "MO", "CU", "IR", "KP", "RU", "VE"}
BULK = {"health": 10_000, "omic": 1_000, "genomic": 100, "biometric": 1_000, "geolocation": 1_000}
LEARNED = {"dp_update", "masked_update", "aggregate", "released_model", "metric"}
_LOST = "whose address was not kept"  # of a copy that nobody can compare again: never primary
SITES = {"update": None, "masked": 3, "aggregate": 2}
FILES = {file.pack: file for file in load_folder()}


def _rules(name):
    return {rule.id.removeprefix(f"{name}."): rule for rule in PACKS[name].rules}


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_says_where_and_what_was_not_read_is_low(name):
    pack = PACKS[name]
    for statement in (*pack.rules, *pack.retention, *pack.deadlines):
        told = statement.url.startswith("http") or (statement.source_kind == "secondary" and _LOST in statement.source)
        assert told or statement.source_kind not in {"primary", "secondary"}, statement
        assert (statement.source_kind == "memory") == (statement.confidence == "low"), statement
        assert statement.confidence != "high"
    assert any(rule.source_kind == "primary" for rule in pack.rules)
    assert pack.draft
    assert pack.not_covered
    assert (pack.verified_on, pack.expires_on) == ("2026-11-22", "2027-06-30")


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_speaks_in_a_case(name):
    results = run_cases([FILES[name]], PACKS)
    assert [result.wrong for result in results if not result.passed] == []
    assert len(results) >= 16
    decisions = [result.decision for result in results if result.decision is not None]
    spoke = {rule for d in decisions for leg in d.legs for rule in leg.rules} | {d.rule for d in decisions}
    assert {rule.id for rule in PACKS[name].rules} <= spoke


@pytest.mark.parametrize("name", NAMES)
def test_every_way_out_keeps_the_same_guarantees(name):
    for rule in PACKS[name].rules:
        if rule.effect == "allow" and rule.law:
            what = rule.id.split(".")[1]
            assert rule.house.unit == ("record", "patient")
            assert rule.house.epsilon_milli_at_most == 8000
            assert rule.house.min_sites_at_least == SITES[what]
            assert rule.house.secure_aggregation is (True if what == "masked" else None)
    assert set(_rules(name)["administration"].artifact) == METADATA


def test_bulk_is_what_28_cfr_202_205_says_wherever_it_goes():
    rules = _rules("us-202")
    for category, most in BULK.items():
        concern, foreign = rules[f"concern.{category}"], rules[f"foreign.{category}"]
        for rule in (concern, foreign):
            assert (rule.over.counter, rule.over.above) == ("us_12_months", most)
            assert rule.category == (category,)
            assert set(rule.artifact) == LEARNED
            assert rule.purpose == ("*",)
        assert set(concern.to_region) == {"US_COUNTRY_OF_CONCERN", COVERED_PERSON}
        assert not concern.to_region_except
        assert set(foreign.to_region_except) == {"US", "US_COUNTRY_OF_CONCERN"}
        assert (concern.unless.documents, concern.unless.any_of) == (("doj_license",), ())
        assert set(foreign.unless.any_of) == {("onward_prohibition",), ("doj_license",)}
    assert PACKS["us-202"].binds == "all"


def test_a_bucket_never_spans_a_threshold():
    china = _rules("cn")["volume"].over
    assert (china.counter, china.above) == ("cn_calendar_year", 9_999)  # the Chinese text counts 10,000 in
    # 28 CFR 202.205 leaves 10,000 out; a bucket of 10,000 alone would tell a number, so exactly 10,000 counts as above
    assert {100, 1_000, 9_999} <= set(EDGES)
    assert 10_000 not in EDGES


@pytest.mark.parametrize("name", ["us-hipaa", "us-ca"])
def test_who_is_bound_by_declaration_only_is_told(name):
    assert PACKS[name].binds == "declared"
    assert "signatory" in PACKS[name].binds_note


def test_denials_of_exports_reach_all_that_is_learned_for_any_purpose():
    for name, ids in {
        "us-hipaa": ("no-basis", "risk-analysis"),
        "us-ca": ("no-basis", "genetic", "abroad"),
        "jp": ("no-basis",),
        "cn": ("no-basis", "volume", "hgr", "hgr-omic", "consent"),
    }.items():
        for rule in (_rules(name)[short] for short in ids):
            assert set(rule.artifact) == LEARNED
            assert rule.purpose == ("*",)
            assert rule.to_region == ("ANY",)


def test_countries_of_concern_and_designated_countries_are_dated():
    assert set(REGIONS.members("US_COUNTRY_OF_CONCERN", DAY)) == CONCERN
    assert REGIONS.members("US_COUNTRY_OF_CONCERN", date(2025, 4, 7)) == ()
    designated = set(REGIONS.members("JP_DESIGNATED", DAY))
    assert len(designated) == 28
    assert designated == (set(REGIONS.members("EEA", DAY)) - {"IS", "LI", "NO"}) | {"GB"}
    assert REGIONS.members("JP_DESIGNATED", date(2019, 1, 22)) == ()
    assert [REGIONS.members(name, DAY) for name in ("US", "JP", "CN")] == [("US",), ("JP",), ("CN",)]


def test_retention_is_rounded_so_that_a_year_is_never_cut_short():
    for name in NAMES:
        for period in PACKS[name].retention:
            assert period.floor_days in {184, 731, 1096, 2192, 3653}, period
            assert period.ceiling_days is None
