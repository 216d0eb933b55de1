"""What would turn a denial into an ALLOW: exactly, or that nothing would."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from compliance.clock import parse_time
from compliance.law.facts import Facts
from compliance.law.pack import Pack, Requires, Rule
from compliance.law.python_eval import in_scope, met, unmet_guarantees
from compliance.law.vocabulary import DOCUMENT_KINDS, NAMES_ITS_RECIPIENT


@dataclass(frozen=True, slots=True)
class Advice:
    """`missing` is all that lacks; with it on file `pack` allows the leg. Empty: no paper helps."""

    missing: tuple[str, ...]
    would_allow: str


def advise(pack: Pack, facts: Facts) -> Advice:
    """The shortest way to an ALLOW by `pack` for a leg that it denies; among equals the first rule of the file."""
    if facts.at >= parse_time(pack.expires_on):
        wanted = (
            f"a version of pack {pack.id} that has not expired on {facts.at:%Y-%m-%d} (this one: {pack.expires_on})"
        )
        return Advice((wanted,), f"adopt {wanted}, then ask again")
    denies = [rule for rule in pack.rules if rule.effect == "deny" and in_scope(rule, facts)]
    final = next((rule for rule in denies if rule.unless.empty), None)
    if final is not None:
        return Advice((), f"nothing, rule {final.id} has no exception")
    ways = [
        (
            rule,
            _lacking(kinds.union(rule.house.documents), denies, facts),
            unmet_guarantees(rule.house, facts.guarantees),
        )
        for rule in pack.rules
        if rule.effect == "allow" and in_scope(rule, facts)
        for kinds in _ways(rule.requires)
    ]
    if not ways:
        leg = f"{facts.artifact} go from {facts.from_jurisdiction} to {facts.to_jurisdiction} for {facts.purpose}"
        return Advice((), f"nothing, no rule of pack {pack.id} lets {leg}")
    return _advice(facts, *min(ways, key=lambda way: len(way[1]) + len(way[2])))


def _ways(requires: Requires) -> list[frozenset[str]]:
    return [frozenset((*requires.documents, *alternative)) for alternative in requires.any_of or ((),)]


def _lacking(kinds: frozenset[str], denies: list[Rule], facts: Facts) -> frozenset[str]:
    """The kinds that must be added for `kinds` to be there and for every deny to hold back."""
    have = facts.documents | kinds
    for rule in denies:
        if not met(rule.unless, have):
            have |= min(_ways(rule.unless), key=lambda way: len(way - have))
    return have - facts.documents


def _advice(facts: Facts, rule: Rule, kinds: frozenset[str], guarantees: tuple[str, ...]) -> Advice:
    named = [kind for kind in DOCUMENT_KINDS if kind in kinds & NAMES_ITS_RECIPIENT]
    other = [kind for kind in DOCUMENT_KINDS if kind in kinds - NAMES_ITS_RECIPIENT]
    leg = f"covering {facts.from_jurisdiction} -> {facts.to_jurisdiction}, unexpired on {facts.at:%Y-%m-%d}"
    papers = [f"a document of kind {_listed(other)} {leg}"] if other else []
    papers += [f"a document of kind {kind} naming {facts.recipient}, {leg}" for kind in named]
    missing = tuple(chain(papers, (f"a guarantee: {text}" for text in guarantees)))
    return Advice(missing, f"rule {rule.id}, once there is {'; '.join(missing)}")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
