"""What would turn a denial into an ALLOW: exactly, or that nothing would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from compliance.law.facts import Facts
from compliance.law.pack import Pack
from compliance.law.python_eval import in_scope, in_time, met, past, unmet_guarantees
from compliance.law.rule import Over, Requires, Rule
from compliance.law.vocabulary import DOCUMENT_KINDS, NAMES_ITS_DESTINATION, NAMES_ITS_RECIPIENT


@dataclass(frozen=True, slots=True)
class Advice:
    """`missing` is all that lacks; with it there `pack` allows the leg. Empty: nothing helps."""

    missing: tuple[str, ...]
    would_allow: str


@dataclass(frozen=True, slots=True)
class _Lack:
    """Papers, guarantees and counts that are to be added to the facts, each once and in order."""

    papers: frozenset[str] = frozenset()
    others: dict[str, None] = field(default_factory=dict)

    def plus(self, papers: frozenset[str], others: tuple[str, ...]) -> _Lack:
        return _Lack(self.papers | papers, self.others | dict.fromkeys(others))

    def __len__(self) -> int:
        return len(self.papers) + len(self.others)


def advise(pack: Pack, facts: Facts) -> Advice:
    """The shortest way to an ALLOW by `pack` for a leg that it denies; among equals the first rule of the file."""
    if past(pack.expires_on, facts):
        wanted = f"a version of pack {pack.id} that has not expired on {facts.day} (this one: {pack.expires_on})"
        return Advice((wanted,), f"adopt {wanted}, then ask again")
    if not past(pack.verified_on, facts):
        wanted = f"a version of pack {pack.id} that was verified by {facts.day} (this one: {pack.verified_on})"
        return Advice((wanted,), f"adopt {wanted}, then ask again")
    denies = [rule for rule in pack.rules if rule.effect == "deny" and in_scope(rule, facts)]
    final = next((rule for rule in denies if rule.over is None and _no_exception(pack, rule, facts)), None)
    if final is not None:
        return Advice((), f"nothing, rule {final.id} has no exception{_when(pack, final, facts)}")
    allows = [rule for rule in pack.rules if rule.effect == "allow" and in_scope(rule, facts)]
    ways = [
        (rule, _lacking(pack, denies, facts, _unmet(way, facts).plus(*_house(rule, facts))))
        for rule in allows
        if in_time(pack, rule, facts)
        for way in _ways(rule.requires)
    ]
    if not ways:
        return _no_way(pack, allows, facts)
    return _advice(facts, *min(ways, key=lambda way: len(way[1])))


def _no_exception(pack: Pack, rule: Rule, facts: Facts) -> bool:
    return rule.unless.empty or not in_time(pack, rule, facts)


def _when(pack: Pack, rule: Rule, facts: Facts) -> str:
    """Since or until when a deny has none, if the day is why."""
    if rule.unless.empty:
        return ""
    expired = past(pack.expires_of(rule), facts)
    return f" since {pack.expires_of(rule)}" if expired else f" before {pack.verified_of(rule)}"


def _ways(requires: Requires) -> list[Requires]:
    """One for each alternative, without alternatives."""
    alternatives = requires.any_of or ((),)
    return [
        Requires(documents=(*requires.documents, *alternative), guarantees=requires.guarantees)
        for alternative in alternatives
    ]


def _unmet(way: Requires, facts: Facts) -> _Lack:
    return _Lack().plus(frozenset(way.documents) - facts.documents, _guarantees(way, facts))


def _guarantees(way: Requires, facts: Facts) -> tuple[str, ...]:
    return tuple(f"a guarantee: {text}" for text in unmet_guarantees(way.guarantees, facts))


def _house(rule: Rule, facts: Facts) -> tuple[frozenset[str], tuple[str, ...]]:
    limits = tuple(f"a guarantee: {text}" for text in unmet_guarantees(rule.house, facts))
    return frozenset(rule.house.documents) - facts.documents, limits


def _lacking(pack: Pack, denies: list[Rule], facts: Facts, lack: _Lack) -> _Lack:
    """`lack` and what must be added to it for every deny to hold back."""
    for rule in denies:
        then = replace(facts, documents=facts.documents | lack.papers)
        exceptions = [] if _no_exception(pack, rule, facts) else [_unmet(way, then) for way in _ways(rule.unless)]
        if exceptions and met(rule.unless, then):
            continue
        if rule.over is not None and (not exceptions or rule.over.counter not in facts.counts):
            exceptions = [_Lack().plus(frozenset(), (_count(rule.over, facts),))]
        least = min(exceptions, key=len)
        lack = lack.plus(least.papers, tuple(least.others))
    return lack


def _count(over: Over, facts: Facts) -> str:
    window = facts.counts.get(over.counter)
    found = f"up to {window.at_most}" if window else "none"
    return f"a count of at most {over.above} persons by counter {over.counter} for {facts.recipient} (found {found})"


def _no_way(pack: Pack, allows: list[Rule], facts: Facts) -> Advice:
    if allows:
        old = allows[0]
        if past(pack.expires_of(old), facts):
            fault = f"has not expired (this one: {pack.expires_of(old)})"
        else:
            fault = f"was verified by {facts.day} (this one: {pack.verified_of(old)})"
        wanted = f"a version of pack {pack.id} whose rule {old.id} {fault}"
        return Advice((wanted,), f"adopt {wanted}, then ask again")
    leg = f"{facts.artifact} go from {facts.from_jurisdiction} to {facts.to_jurisdiction} for {facts.purpose}"
    data = f" with {', '.join(sorted(facts.categories))} data" if facts.categories != {"health"} else ""
    return Advice((), f"nothing, no rule of pack {pack.id} lets {leg}{data}")


def _advice(facts: Facts, rule: Rule, lack: _Lack) -> Advice:
    named = [kind for kind in DOCUMENT_KINDS if kind in lack.papers & NAMES_ITS_RECIPIENT]
    placed = [kind for kind in DOCUMENT_KINDS if kind in lack.papers & NAMES_ITS_DESTINATION]
    other = [kind for kind in DOCUMENT_KINDS if kind in lack.papers - NAMES_ITS_RECIPIENT - NAMES_ITS_DESTINATION]
    leg = f"covering {facts.from_jurisdiction} -> {facts.to_jurisdiction}, unexpired on {facts.day}"
    papers = [f"a document of kind {_listed(other)} {leg}"] if other else []
    papers += [f"a document of kind {kind} naming {facts.recipient}, {leg}" for kind in named]
    papers += [f"a document of kind {kind} naming {facts.to_jurisdiction}, {leg}" for kind in placed]
    missing = (*papers, *lack.others)
    return Advice(missing, f"rule {rule.id}, once there is {'; '.join(missing)}")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
