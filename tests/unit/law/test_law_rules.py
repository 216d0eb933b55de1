"""Each rule feature, case by case, in both evaluators; and mutants of the small packs that the cases must catch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from compliance.law.cedar_eval import CedarPack
from compliance.law.facts import facts_of
from compliance.law.model import Transfer
from compliance.law.pack import Pack
from compliance.law.python_eval import evaluate
from compliance.law.rule import Limits, Requires, Rule
from tests.unit.law.small_packs import ENGINE, PACKS, REGIONS, transfer, us_count

HOME = "dpia art6_basis ethics"
COVERED = {"covered_person": True}
GENOMIC = {"categories": ("genomic",)}
PLACES = {"categories": ("geolocation",), "counts": (us_count(0),)}
LATE = {"at": "2026-12-01T00:00:00Z"}
CASES: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    # artifact, leg, papers, the rule that decides, the rest
    ("dp_update", "DE FR", HOME, "alpha.update.within", {}),
    ("metric", "FR DE", HOME, "alpha.update.within", {"given": {"unit": "record"}}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"given": {"unit": "none"}}),
    ("dp_update", "DE FR", HOME, "alpha.update.within", {"given": {"epsilon_milli": 8000}}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"given": {"epsilon_milli": 8001}}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"given": {"epsilon_milli": None}}),
    ("dp_update", "DE FR", HOME, "alpha.update.within", {"given": {"inverse_delta": 1000}}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"given": {"inverse_delta": 999}}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"given": {"inverse_delta": None}}),
    ("dp_update", "DE FR", "dpia ethics", "alpha.default-deny", {}),
    ("dp_update", "DE FR", "art6_basis ethics", "alpha.default-deny", {}),
    ("dp_update", "DE FR", "dpia art6_basis", "alpha.default-deny", {}),
    ("dp_update", "DE FR", HOME, "alpha.default-deny", {"purpose": "quality_improvement"}),
    ("dp_update", "DE GB", HOME, "alpha.no-basis", {}),
    ("dp_update", "DE GB", HOME, "alpha.update.within", {"at": "2020-12-31T23:59:59Z"}),
    ("dp_update", "DE FR", HOME, "alpha.update.within", {"at": "2018-05-25T00:00:00Z"}),
    ("dp_update", "DE FR", HOME, "alpha.not-yet", {"at": "2018-05-24T23:59:59Z"}),
    # abroad
    ("dp_update", "DE CN", HOME, "alpha.no-basis", {}),
    ("dp_update", "DE CN", HOME + " scc", "alpha.no-basis", {}),
    ("dp_update", "DE CN", HOME + " tia", "alpha.no-basis", {}),
    ("dp_update", "DE CN", HOME + " bcr scc", "alpha.no-basis", {}),
    ("dp_update", "DE CN", HOME + " scc tia", "alpha.update.abroad", {}),
    ("dp_update", "DE CN", HOME + " bcr tia", "alpha.update.abroad", {}),
    ("dp_update", "DE CN", "ethics bcr tia", "alpha.default-deny", {}),
    ("dp_update", "DE CN", "dpia bcr tia", "alpha.default-deny", {}),
    ("dp_update", "DE CN", HOME + " scc tia", "alpha.default-deny", {"given": {"unit": "record"}}),
    ("masked_update", "DE CN", HOME, "alpha.no-basis", {}),
    ("aggregate", "DE CN", "", "alpha.no-basis", {}),
    ("released_model", "DE CN", "", "alpha.no-basis", {}),
    ("metric", "DE CN", "", "alpha.no-basis", {}),
    ("metric", "DE CN", "scc tia", "alpha.default-deny", {}),
    ("dp_update", "DE JP", HOME, "alpha.unconfirmed", {}),
    ("dp_update", "DE BR", HOME + " adequacy_confirmation", "alpha.update.abroad", {}),
    ("dp_update", "DE BR", HOME + " adequacy_confirmation", "alpha.no-basis", {"at": "2026-01-27T23:59:59Z"}),
    ("dp_update", "DE JP", HOME + " tia", "alpha.unconfirmed", {}),
    ("dp_update", "DE CN", HOME + " scc tia", "alpha.default-deny", {"purpose": "audit"}),
    ("aggregate", "DE JP", "", "alpha.unconfirmed", {}),
    ("metric", "DE JP", "", "alpha.unconfirmed", {}),
    ("masked_update", "DE JP", "dpia", "alpha.unconfirmed", {}),
    ("metric", "DE JP", "adequacy_confirmation", "alpha.default-deny", {}),
    ("dp_update", "DE JP", HOME + " scc tia", "alpha.update.abroad", {}),
    # secure aggregation, groups, patients, keys
    ("masked_update", "DE FR", "dpia", "alpha.masked", {}),
    ("masked_update", "DE CH", "dpia adequacy_confirmation", "alpha.masked", {}),
    ("masked_update", "DE FR", "", "alpha.default-deny", {}),
    ("masked_update", "DE CN", "dpia scc tia", "alpha.default-deny", {}),
    ("masked_update", "DE FR", "dpia", "alpha.default-deny", {"purpose": "audit"}),
    ("masked_update", "DE FR", "dpia", "alpha.default-deny", {"given": {"secure_aggregation": False}}),
    ("masked_update", "DE FR", "dpia", "alpha.default-deny", {"given": {"secure_aggregation_threshold": 2}}),
    ("masked_update", "DE FR", "dpia", "alpha.default-deny", {"given": {"min_sites": 2}}),
    ("masked_update", "DE FR", "dpia", "alpha.masked", {"given": {"min_sites": 3}}),
    ("masked_update", "DE FR", "dpia", "alpha.default-deny", {"given": {"group_sum": False}}),
    ("aggregate", "DE FR", "", "alpha.sums", {}),
    ("aggregate", "DE CN", "scc tia", "alpha.sums", {}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"purpose": "publication"}),
    ("aggregate", "DE FR", "", "alpha.sums", {"given": {"min_patients": 50}}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"given": {"min_patients": 49}}),
    ("aggregate", "DE FR", "", "alpha.sums", {"given": {"keys_in": ("JP",)}}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"given": {"keys_in": ()}}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"given": {"keys_in": ("US", "DE")}}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"given": {"keys_in": ("DE", "FR", "CH", "US")}}),
    ("aggregate", "DE FR", "", "alpha.default-deny", {"given": {"keys_in": ("BR",)}, "at": "2025-12-01T00:00:00Z"}),
    # rules that expire before their pack
    ("released_model", "DE FR", "", "alpha.model", {"purpose": "publication"}),
    ("released_model", "DE FR", "", "alpha.model.old", {"at": "2026-11-30T23:59:59Z"}),
    ("released_model", "DE US", "scc tia", "alpha.model.old", {}),
    ("released_model", "DE FR", "", "alpha.default-deny", LATE),
    ("released_model", "DE CH", "", "alpha.paused", {"purpose": "publication"}),
    ("released_model", "DE CH", "bcr", "alpha.model", {"purpose": "publication"}),
    ("released_model", "DE CH", "bcr", "alpha.paused", {"purpose": "publication", **LATE}),
    ("released_model", "DE CN", "scc tia", "alpha.default-deny", {"purpose": "publication"}),
    ("dp_update", "DE FR", HOME, "alpha.update.within", {"at": "2027-06-29T23:59:59Z"}),
    ("dp_update", "DE FR", HOME, "alpha.expired", {"at": "2027-06-30T00:00:00Z"}),
    # metadata, and what never leaves
    ("roster", "DE CN", "", "alpha.metadata", {"purpose": "study_administration"}),
    ("dataset_descriptor", "DE CN", "", "alpha.metadata", {"purpose": "study_administration"}),
    ("answer", "FR DE", "", "alpha.metadata", {"purpose": "study_administration"}),
    ("roster", "DE CN", "", "alpha.default-deny", {}),
    ("support_file", "DE DE", HOME, "alpha.default-deny", {"purpose": "study_administration"}),
    ("plain_update", "DE DE", HOME, "alpha.default-deny", {}),
    ("raw_record", "DE DE", HOME, "alpha.never-raw", {}),
    ("gradient", "FR FR", HOME, "alpha.never-raw", {"purpose": "audit"}),
    ("embedding", "DE CN", HOME, "alpha.never-raw", {}),
    ("raw_record", "US US", "", "beta.never-raw", {}),
    ("embedding", "US US", "", "beta.never-raw", {}),
    ("gradient", "US US", "", "beta.never-raw", {}),
    # counters and categories
    ("dp_update", "US CN", "", "beta.update", {"counts": (us_count(10_000),)}),
    ("dp_update", "US RU", "", "beta.rival.health", {"counts": (us_count(100_000),)}),
    ("dp_update", "US CN", "", "beta.rival.health", {"counts": (us_count(10_000), us_count(10_001))}),
    ("dp_update", "US CN", "", "beta.rival.health", {"counts": (us_count(10_001), us_count(10_000))}),
    ("dp_update", "US CN", "", "beta.rival.health", {}),
    ("dp_update", "US CN", "", "beta.rival.health", {"counts": (us_count(100, recipient="another"),)}),
    ("dp_update", "US CN", "", "beta.update", {"counts": (us_count(100, recipient="*"),)}),
    ("aggregate", "US CN", "doj_license", "beta.update", {"counts": (us_count(100_000),)}),
    ("dp_update", "US CN", "doj_license", "beta.rival.genomic", {}),
    ("dp_update", "US CN", "", "beta.update", {"counts": (us_count(100, "genomic"),), **GENOMIC}),
    ("dp_update", "US CN", "", "beta.rival.genomic", {"counts": (us_count(1_000, "genomic"),), **GENOMIC}),
    ("dp_update", "US CN", "", "beta.rival.genomic", {"counts": (us_count(1_000, "health", "genomic"),)}),
    ("dp_update", "US CN", "", "beta.update", {"counts": (us_count(100, "health", "genomic"),)}),
    ("dp_update", "US CN", "", "beta.rival.geolocation", PLACES),
    ("dp_update", "US DE", "", "beta.update", {"categories": ("geolocation", "health")}),
    ("dp_update", "US DE", "", "beta.default-deny", {"categories": ("biometric", "health")}),
    ("dp_update", "US DE", "", "beta.update", {}),
    ("dp_update", "US DE", "", "beta.default-deny", {"purpose": "audit"}),
    ("dp_update", "US DE", "", "beta.rival.health", {"recipient": COVERED}),
    ("dp_update", "US US", "", "beta.rival.health", {"recipient": COVERED}),
    ("dp_update", "US DE", "", "beta.update", {"recipient": COVERED, "counts": (us_count(100),)}),
    ("dp_update", "US DE", "", "beta.rival.genomic", {"recipient": COVERED, "counts": (us_count(1_000, "genomic"),)}),
    ("dp_update", "US DE", "", "beta.rival.geolocation", {"recipient": COVERED, **PLACES}),
    ("roster", "US CN", "", "beta.rival.health", {"purpose": "audit"}),
    ("aggregate", "US DE", "", "beta.small", {"given": {"min_patients": 19}}),
    ("aggregate", "US DE", "", "beta.update", {"given": {"min_patients": 20}}),
    ("roster", "IN IN", "", "gamma.no-reviewed-pack", {"purpose": "audit"}),
    ("dp_update", "IN DE", HOME, "gamma.no-reviewed-pack", {}),
    ("dp_update", "GB FR", HOME, "engine.no-pack", {}),
)
ALLOWS = {rule.id for pack in PACKS.values() for rule in pack.rules if rule.effect == "allow"}


def _sent(case: Any) -> Transfer:
    artifact, leg, docs, _, rest = case
    return transfer(artifact, leg, docs, **rest)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{n:03}-{CASES[n][0]}-{CASES[n][3]}")
def test_case(number):
    case = CASES[number]
    decision = ENGINE.decide(_sent(case))
    allow = case[3] in ALLOWS
    assert decision.allow is allow, decision.plain
    assert case[3] in decision.legs[0].rules if allow else case[3] == decision.rule
    assert decision.evaluators.python == decision.evaluators.cedar == decision.effect
    assert bool(decision.would_allow) is not allow


def _of(pack: str) -> Iterator[Any]:
    return (case for case in CASES if case[3].startswith(f"{pack}."))


@pytest.mark.parametrize("name", sorted(PACKS))
def test_each_evaluator_alone_agrees_with_the_table(name):
    compiled = CedarPack(PACKS[name])
    for case in _of(name):
        facts = facts_of(_sent(case), _sent(case).recipient, REGIONS)
        for verdict in (evaluate(PACKS[name], facts), compiled.evaluate(facts)):
            assert verdict.allow is (case[3] in ALLOWS), case
            assert case[3] in verdict.rules or case[3].endswith("default-deny"), case


def test_every_rule_decides_a_case():
    assert {rule.id for pack in PACKS.values() for rule in pack.rules} <= {case[3] for case in CASES}


def _caught(mutant: Pack) -> bool:
    cedar = CedarPack(mutant)
    for case in _of(mutant.id):
        facts = facts_of(_sent(case), _sent(case).recipient, REGIONS)
        ours = evaluate(mutant, facts)
        if ours != cedar.evaluate(facts):  # a rule that the loader refuses: the engine denies on disagreement
            return True
        named = not ours.rules if case[3].endswith("default-deny") else case[3] in ours.rules
        if ours.allow is not (case[3] in ALLOWS) or not named:
            return True
    return False


def _with(pack: Pack, index: int, rule: Rule | None) -> Pack:
    rules = [*pack.rules]
    rules[index : index + 1] = [] if rule is None else [rule]
    return pack.model_copy(update={"rules": tuple(rules)})


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_flipped_or_removed_rule_is_caught(name):
    pack = PACKS[name]
    assert not _caught(pack)
    for index, rule in enumerate(pack.rules):
        flipped = rule.model_copy(update={"effect": "deny" if rule.effect == "allow" else "allow"})
        assert _caught(_with(pack, index, flipped)), f"flip of {rule.id}"
        assert _caught(_with(pack, index, None)), f"removal of {rule.id}"


def _kinder_deny(rule: Rule) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of a deny rule made kinder, one at a time."""
    for field in ("artifact", "to_region", "category"):
        for value in getattr(rule, field):
            left = tuple(v for v in getattr(rule, field) if v != value)
            if left:
                yield f"{field} without {value}", {field: left}
    if rule.over:
        yield "over", {"over": rule.over.model_copy(update={"above": 10**8})}
    for papers in rule.unless.any_of:
        more = (*rule.unless.any_of, papers[1:] or ("ethics",))
        yield "unless", {"unless": rule.unless.model_copy(update={"any_of": more})}


def _kinder_allow(rule: Rule) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of an allow rule made kinder, one at a time."""
    for part in ("house", "requires"):
        asked = getattr(rule, part)
        for kind in asked.documents:
            left = tuple(k for k in asked.documents if k != kind)
            yield f"{part} without {kind}", {part: asked.model_copy(update={"documents": left})}
    for field in Limits.model_fields:
        if getattr(rule.house, field):
            empty = () if field in {"unit", "keys_within"} else None
            yield f"house {field}", {"house": rule.house.model_copy(update={field: empty})}
    for field, value in (("purpose", ("*",)), ("to_region", ("ANY",)), ("expires_on", None), ("category", ())):
        if getattr(rule, field) != value:
            yield field, {field: value}
    if not rule.requires.guarantees.limits_nothing:
        yield "guarantees", {"requires": Requires()}


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_loosened_field_is_caught(name):
    pack = PACKS[name]
    tried = 0
    for index, rule in enumerate(pack.rules):
        for what, change in _kinder_deny(rule) if rule.effect == "deny" else _kinder_allow(rule):
            tried += 1
            assert _caught(_with(pack, index, rule.model_copy(update=change))), f"{rule.id}: {what}"
    assert tried > 12
