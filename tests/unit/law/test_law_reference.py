"""Reference cases for both evaluators, and mutants of the packs that the cases must catch."""

from __future__ import annotations

import pytest

from compliance.law.cedar_eval import CedarPack
from compliance.law.decide import Engine, builtin_packs
from compliance.law.facts import facts_of
from compliance.law.pack import Pack, Rule
from compliance.law.python_eval import evaluate
from tests.unit.law.law_cases import CASES, Case

PACKS = builtin_packs()
ENGINE = Engine(PACKS, {name: pack.digest for name, pack in PACKS.items()})


def _pack(case: Case) -> Pack | None:
    return next((p for p in PACKS.values() if case.leg.split()[0] in p.jurisdictions), None)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.artifact}-{c.leg.replace(' ', '-')}-{c.rule}")
def test_reference_case(case):
    decision = ENGINE.decide(case.transfer())
    assert (decision.allow, decision.rule) == (case.allow, case.rule)
    assert decision.evaluators.python == decision.evaluators.cedar == decision.effect
    assert bool(decision.would_allow) is not case.allow


@pytest.mark.parametrize("which", ["python", "cedar"])
def test_each_evaluator_alone_agrees_with_the_table(which):
    compiled = {name: CedarPack(pack) for name, pack in PACKS.items()}
    for case in CASES:
        pack = _pack(case)
        if pack is not None:
            facts = facts_of(case.transfer(), case.transfer().recipient)
            verdict = evaluate(pack, facts) if which == "python" else compiled[pack.id].evaluate(facts)
            assert verdict.allow is case.allow, case


def test_table_is_long_enough_and_every_rule_decides_a_case():
    assert len(CASES) >= 40
    decided = {case.rule for case in CASES}
    assert {rule.id for pack in PACKS.values() for rule in pack.rules} <= decided


def _caught(mutant: Pack) -> bool:
    cedar = CedarPack(mutant)
    for case in CASES:
        pack = _pack(case)
        if pack is not None and pack.id == mutant.id:
            facts = facts_of(case.transfer(), case.transfer().recipient)
            ours = evaluate(mutant, facts)
            assert ours == cedar.evaluate(facts)
            if case.rule.endswith("default-deny"):
                named = not ours.rules
            else:  # an allow is given by one rule alone; a denial may have several
                named = ours.rules == {case.rule} if case.allow else case.rule in ours.rules
            if ours.allow is not case.allow or not named:
                return True
    return False


def _with(pack: Pack, index: int, rule: Rule | None) -> Pack:
    rules = [*pack.rules]
    rules[index : index + 1] = [] if rule is None else [rule]
    return pack.model_copy(update={"rules": tuple(rules)})


@pytest.mark.parametrize("name", sorted(PACKS))
def test_a_flipped_or_removed_rule_is_caught(name):
    pack = PACKS[name]
    for index, rule in enumerate(pack.rules):
        flipped = rule.model_copy(update={"effect": "deny" if rule.effect == "allow" else "allow"})
        assert _caught(_with(pack, index, flipped)), f"flip of {rule.id}"
        assert _caught(_with(pack, index, None)), f"removal of {rule.id}"
    assert not _caught(pack)


def test_loosened_limits_are_caught():
    pack = PACKS["eu"]
    index = next(i for i, rule in enumerate(pack.rules) if rule.id == "eu.update.within")
    rule = pack.rules[index]
    for change in (
        {"house": rule.house.model_copy(update={"epsilon_milli_at_most": 9000})},
        {"house": rule.house.model_copy(update={"unit": ()})},
        {"house": rule.house.model_copy(update={"documents": ()})},
        {"requires": rule.requires.model_copy(update={"documents": ("art6_basis", "art9_basis")})},
        {"to_region": ("ANY",)},
        {"purpose": ("*",)},
    ):
        assert _caught(_with(pack, index, rule.model_copy(update=change))), change
