"""The first evaluator: rules read straight from the pack. Default deny; a deny beats every allow."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.clock import parse_time
from compliance.law.facts import Facts
from compliance.law.model import Guarantees
from compliance.law.pack import House, Pack, Requires, Rule
from compliance.law.vocabulary import Effect


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one evaluator says of one pack. `rules`: the denies that fired, else the allows; empty: none spoke."""

    allow: bool
    rules: frozenset[str]

    @property
    def effect(self) -> Effect:
        """`allow` or `deny`."""
        return "allow" if self.allow else "deny"


def evaluate(pack: Pack, facts: Facts) -> Verdict:
    """The verdict of `pack` on one leg."""
    denies = {rule.id for rule in pack.rules if rule.effect == "deny" and fires(rule, facts)}
    if facts.at >= parse_time(pack.expires_on):
        denies.add(f"{pack.id}.expired")
    if denies:
        return Verdict(False, frozenset(denies))
    allows = frozenset(rule.id for rule in pack.rules if rule.effect == "allow" and fires(rule, facts))
    return Verdict(bool(allows), allows)


def fires(rule: Rule, facts: Facts) -> bool:
    """Does the rule speak on this leg? An allow when all it asks for is there, a deny unless its exception is met."""
    if not in_scope(rule, facts):
        return False
    if rule.effect == "deny":
        return rule.unless.empty or not met(rule.unless, facts.documents)
    return (
        met(rule.requires, facts.documents)
        and set(rule.house.documents) <= facts.documents
        and not unmet_guarantees(rule.house, facts.guarantees)
    )


def in_scope(rule: Rule, facts: Facts) -> bool:
    """Artifact, purpose, origin and destination match."""
    return (
        rule.concerns(facts.artifact, facts.purpose)
        and not facts.from_regions.isdisjoint(rule.from_region)
        and not facts.to_regions.isdisjoint(rule.to_region)
        and facts.to_regions.isdisjoint(rule.to_region_except)
    )


def met(requires: Requires, documents: frozenset[str]) -> bool:
    """Are the required kinds among `documents`?"""
    alternatives = requires.any_of or ((),)
    return set(requires.documents) <= documents and any(set(a) <= documents for a in alternatives)


def unmet_guarantees(house: House, given: Guarantees) -> tuple[str, ...]:
    """Each limit that is not kept, with both values; a value that is not given keeps no limit."""
    out: list[str] = []
    if house.unit and given.unit not in house.unit:
        out.append(f"privacy unit {' or '.join(house.unit)} (found {given.unit})")
    most, least = house.epsilon_milli_at_most, house.inverse_delta_at_least
    if most is not None and (given.epsilon_milli is None or given.epsilon_milli > most):
        out.append(f"epsilon_milli at most {most} (found {_shown(given.epsilon_milli)})")
    if least is not None and (given.inverse_delta is None or given.inverse_delta < least):
        out.append(f"inverse_delta at least {least} (found {_shown(given.inverse_delta)})")
    if house.min_sites_at_least is not None and given.min_sites < house.min_sites_at_least:
        out.append(f"at least {house.min_sites_at_least} sites (found {given.min_sites})")
    if house.secure_aggregation and not given.secure_aggregation:
        out.append("secure aggregation (found none)")
    return tuple(out)


def _shown(value: int | None) -> str:
    return "none" if value is None else str(value)
