"""The first evaluator: rules read straight from the pack. Default deny; a deny beats every allow."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.law.facts import Facts
from compliance.law.pack import Pack
from compliance.law.rule import Limits, Over, Requires, Rule
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
    denies = {rule.id for rule in pack.rules if rule.effect == "deny" and fires(pack, rule, facts)}
    if not past(pack.verified_on, facts):
        denies.add(f"{pack.id}.not-yet")
    if past(pack.expires_on, facts):
        denies.add(f"{pack.id}.expired")
    if denies:
        return Verdict(False, frozenset(denies))
    allows = frozenset(rule.id for rule in pack.rules if rule.effect == "allow" and fires(pack, rule, facts))
    return Verdict(bool(allows), allows)


def fires(pack: Pack, rule: Rule, facts: Facts) -> bool:
    """Does the rule speak on this leg? An allow when all it asks for is there, a deny unless its exception is met.

    Outside its days an allow is silent and a deny has no exception.
    """
    if not in_scope(rule, facts):
        return False
    holds = in_time(pack, rule, facts)
    if rule.effect == "deny":
        return not holds or rule.unless.empty or not met(rule.unless, facts)
    documents = set(rule.house.documents) <= facts.documents
    return holds and documents and met(rule.requires, facts) and not unmet_guarantees(rule.house, facts)


def in_time(pack: Pack, rule: Rule, facts: Facts) -> bool:
    """True from the day on which the rule was verified until the day before it expires."""
    return past(pack.verified_of(rule), facts) and not past(pack.expires_of(rule), facts)


def past(day: str, facts: Facts) -> bool:
    """True on `day` and after it."""
    return facts.day >= day


def in_scope(rule: Rule, facts: Facts) -> bool:
    """Artifact, purpose, origin, destination and categories match, and the threshold, if any, is passed."""
    return (
        rule.concerns(facts.artifact, facts.purpose)
        and not facts.from_regions.isdisjoint(rule.from_region)
        and not facts.to_regions.isdisjoint(rule.to_region)
        and facts.to_regions.isdisjoint(rule.to_region_except)
        and _of_category(rule, facts)
        and (rule.over is None or is_over(rule.over, facts))
    )


def _of_category(rule: Rule, facts: Facts) -> bool:
    if not rule.category:
        return True
    if rule.effect == "allow":
        return facts.categories.issubset(rule.category)
    if rule.over is None:
        return not facts.categories.isdisjoint(rule.category)
    window = facts.counts.get(rule.over.counter)
    return window is None or not (facts.categories | window.categories).isdisjoint(rule.category)


def is_over(over: Over, facts: Facts) -> bool:
    """Is the count above the threshold? An unknown count is."""
    window = facts.counts.get(over.counter)
    return window is None or window.at_most > over.above


def met(requires: Requires, facts: Facts) -> bool:
    """Are the required papers on file and the required guarantees given?"""
    alternatives = requires.any_of or ((),)
    return (
        set(requires.documents) <= facts.documents
        and any(set(alternative) <= facts.documents for alternative in alternatives)
        and not unmet_guarantees(requires.guarantees, facts)
    )


def unmet_guarantees(limits: Limits, facts: Facts) -> tuple[str, ...]:
    """Each limit that is not kept, with both values; a value that is not given keeps no limit."""
    if limits.limits_nothing:
        return ()
    given, outside = facts.guarantees, _keys_outside(limits, facts)
    at_most = (("epsilon_milli", limits.epsilon_milli_at_most, given.epsilon_milli),)
    at_least = (
        ("inverse_delta", limits.inverse_delta_at_least, given.inverse_delta),
        ("sites", limits.min_sites_at_least, given.min_sites),
        ("patients", limits.min_patients_at_least, given.min_patients),
        ("secure aggregation threshold", limits.secure_aggregation_threshold_at_least, _threshold(facts)),
    )
    flags = (
        ("secure aggregation", limits.secure_aggregation, given.secure_aggregation),
        ("only sums of the region group leave it", limits.group_sum, given.group_sum),
    )
    out: list[str] = []
    if limits.unit and given.unit not in limits.unit:
        out.append(f"privacy unit {' or '.join(limits.unit)} (found {given.unit})")
    for name, most, value in at_most:
        if most is not None and (value is None or value > most):
            out.append(f"{name} at most {most} (found {_shown(value)})")
    for name, least, value in at_least:
        if least is not None and (value is None or value < least):
            out.append(f"{name} at least {least} (found {_shown(value)})")
    out += [f"{name} (found none)" for name, wanted, value in flags if wanted and not value]
    if outside:
        out.append(f"keys only in {' or '.join(limits.keys_within)} (found {outside})")
    return tuple(out)


def _threshold(facts: Facts) -> int | None:
    return facts.guarantees.secure_aggregation_threshold or None


def _keys_outside(limits: Limits, facts: Facts) -> str:
    """The jurisdictions of keys outside the allowed sets; `none` if no place is named at all."""
    if not limits.keys_within:
        return ""
    outside = [code for code, regions in facts.keys if regions.isdisjoint(limits.keys_within)]
    return ", ".join(outside) if facts.keys else "none"


def _shown(value: int | None) -> str:
    return "none" if value is None else str(value)
