"""The decision: may this leave, to these recipients, under the packs that the site adopted?

For every recipient, every adopted pack that binds the exporter is asked twice, by the Python evaluator and by Cedar.
Only if all of them allow, by the same rules, the answer is ALLOW.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from compliance.law.advice import Advice, advise
from compliance.law.cedar_eval import CedarPack, compiled
from compliance.law.countries import COUNTRIES
from compliance.law.facts import Facts, facts_of, legs_of
from compliance.law.law_set import LawSet
from compliance.law.model import Decision, Leg, Party, Transfer, Votes
from compliance.law.pack import Pack, builtin_packs, load_pack, pack_digest, unknown_regions
from compliance.law.python_eval import Verdict, evaluate
from compliance.law.regions import Regions, load_regions
from compliance.law.vocabulary import ONE_SITES_UPDATE, Via

__all__ = ["Engine", "builtin_packs", "load_pack", "pack_digest"]

_DENIED = Votes(python="deny", cedar="deny")
_HOUSE = ("Fail closed: what cannot be decided is denied.",)
_COUNTRIES = frozenset(COUNTRIES)
_Binding = list[tuple[Pack, CedarPack]]


@dataclass(frozen=True, slots=True)
class _Finding:
    """The outcome of one leg."""

    verdict: Verdict
    votes: Votes
    rule: str
    plain: str
    law: tuple[str, ...]
    house: tuple[str, ...]
    advice: Advice


class Engine:
    """Decides transfers under `adopted` (pack id -> SHA-256 of the pack file that the signatory adopted).

    A pack that is offered but not adopted is not asked, and denies where it binds the exporter, unless it binds only
    whom it declares and stands in `not_binding`. An adopted pack that is absent, or differs from its adopted digest,
    denies everything. `regions` None: the sets of the package. Immutable after construction; safe to share between
    threads. Raises InputError RSD-3004 if a pack does not compile.
    """

    def __init__(
        self,
        packs: Mapping[str, Pack],
        adopted: Mapping[str, str],
        *,
        not_binding: Collection[str] = (),
        regions: Regions | None = None,
        law_set: str = "",
    ) -> None:
        self._offered = dict(packs)
        self._adopted = dict(adopted)
        self._not_binding = tuple(sorted(set(not_binding)))
        self._regions = regions or load_regions()
        self._law_set = law_set
        self._broken = _first_broken(packs, adopted, self._regions)
        in_force = {} if self._broken else {name: packs[name] for name in adopted}
        self._in_force = {name: (pack, compiled(pack)) for name, pack in in_force.items()}

    @classmethod
    def of(cls, law_set: LawSet, packs: Mapping[str, Pack], regions: Regions) -> Engine:
        """The engine of an adopted law set; it denies everything if `regions` are not the adopted ones."""
        left_out = [one.id for one in law_set.not_binding]
        engine = cls(packs, law_set.adopted, not_binding=left_out, regions=regions, law_set=law_set.digest)
        if law_set.regions != regions.digest and engine._broken is None:
            engine._broken = _refused(
                "engine.regions-changed",
                f"The region sets are not the adopted ones: found {regions.digest}, adopted {law_set.regions}.",
                f"the region sets with digest {law_set.regions}, or the adoption of the present ones",
            )
        return engine

    def decide(self, transfer: Transfer) -> Decision:
        """The decision for everyone who would hold or reach it; the first denial denies the whole."""
        packs = self._packs_for(transfer.exporter.jurisdiction)
        if isinstance(packs, _Finding):
            return self._decision(transfer, transfer.recipient, packs, (), [])
        used = [pack for pack, _ in packs]
        legs: list[Leg] = []
        findings: list[_Finding] = []
        for party, via in legs_of(transfer):
            found = _of_the_engine(transfer, party, via)
            found = found or _decide_leg(packs, facts_of(transfer, party, self._regions), _about(party, via))
            legs.append(_leg(found, party, via))
            if not found.verdict.allow:
                return self._decision(transfer, party, found, tuple(legs), used)
            findings.append(found)
        return self._decision(transfer, transfer.recipient, findings[0], tuple(legs), used)

    def _packs_for(self, jurisdiction: str) -> _Binding | _Finding:
        if self._broken is not None:
            return self._broken
        for name, pack in self._offered.items():
            left_out = pack.binds == "declared" and name in self._not_binding
            if jurisdiction in pack.jurisdictions and name not in self._adopted and not left_out:
                return _refused(
                    "engine.pack-not-adopted",
                    f"Pack {name} binds {jurisdiction}, and the site's signatory has not adopted it.",
                    f"the signatory's adoption of pack {name} by its digest {pack.digest}",
                )
        binding = [entry for entry in self._in_force.values() if jurisdiction in entry[0].jurisdictions]
        if not binding:
            return _refused(
                "engine.no-pack",
                f"No adopted law pack binds {jurisdiction}, the exporter's jurisdiction.",
                f"a law pack that binds {jurisdiction}, adopted by the site's signatory",
            )
        return binding

    def _decision(
        self, transfer: Transfer, party: Party, found: _Finding, legs: tuple[Leg, ...], used: list[Pack]
    ) -> Decision:
        return Decision(
            allow=found.verdict.allow,
            effect=found.verdict.effect,
            rule=found.rule,
            plain=found.plain,
            law=found.law,
            house=found.house,
            missing=found.advice.missing,
            would_allow=found.advice.would_allow,
            recipient=party,
            legs=legs,
            packs={pack.id: pack.digest for pack in used} or self._adopted,
            not_binding=self._not_binding,
            regions=self._regions.digest,
            law_set=self._law_set,
            evaluators=found.votes,
            draft=any(pack.draft for pack in used or self._offered.values()),
            transfer=transfer,
        )


def _first_broken(packs: Mapping[str, Pack], adopted: Mapping[str, str], regions: Regions) -> _Finding | None:
    for name, digest in adopted.items():
        pack = packs.get(name)
        if pack is None:
            return _refused(
                "engine.pack-missing", f"Adopted pack {name} is not installed.", f"pack {name} with digest {digest}"
            )
        if pack.id != name or pack.digest != digest or not pack.is_intact():
            return _refused(
                "engine.pack-changed",
                f"Pack {name} is not the one that was adopted: found {pack.digest}, adopted {digest}.",
                f"pack {name} with digest {digest}, or the adoption of the present one",
            )
        for mistake in unknown_regions(pack, regions):
            return _refused(
                "engine.region-missing",
                f"Pack {name} and the region sets do not fit each other: {mistake}.",
                "region sets that hold every name in the rules",
            )
    return None


def _refused(rule: str, plain: str, wanted: str) -> _Finding:
    return _Finding(Verdict(False, frozenset()), _DENIED, rule, plain, (), _HOUSE, Advice((wanted,), wanted))


def _of_the_engine(transfer: Transfer, party: Party, via: Via) -> _Finding | None:
    """What is denied whatever the packs say."""
    if party.jurisdiction not in _COUNTRIES:
        plain = f"{party.jurisdiction} is no country code of ISO 3166-1, so no rule can tell where {party.name} is."
        return _refused("engine.unknown-jurisdiction", plain, f"the country code of {party.name}")
    inside = not transfer.group or party.name in transfer.group_members or transfer.guarantees.group_sum
    if transfer.artifact in ONE_SITES_UPDATE and not inside:
        plain = f"Only sums of the region group {transfer.group} leave it; secure aggregation within it is needed."
        wanted = f"a guarantee: only sums of the region group {transfer.group} leave it (found none)"
        return _refused("engine.group-export", plain + _about(party, via), wanted)
    return None


def _about(party: Party, via: Via) -> str:
    if via == "access":
        return f" This concerns access by {party.name} from {party.jurisdiction}."
    return f" This concerns the onward recipient {party.name} in {party.jurisdiction}." if via == "onward" else ""


def _decide_leg(packs: _Binding, facts: Facts, about: str) -> _Finding:
    """Ask every pack; the first one that does not allow decides, else the first one."""
    findings: list[_Finding] = []
    for pack, cedar in packs:
        found = _ask(pack, cedar, facts, about)
        if not found.verdict.allow:
            return found
        findings.append(found)
    rules = frozenset(chain.from_iterable(found.verdict.rules for found in findings))
    return replace(findings[0], verdict=Verdict(True, rules))


def _ask(pack: Pack, cedar: CedarPack, facts: Facts, about: str) -> _Finding:
    ours, theirs = evaluate(pack, facts), cedar.evaluate(facts)
    votes = Votes(python=ours.effect, cedar=theirs.effect)
    if ours != theirs:
        plain = (
            f"The evaluators disagree about pack {pack.id}: Python {ours.effect} by {_names(ours)}, "
            f"Cedar {theirs.effect} by {_names(theirs)}.{about}"
        )
        advice = Advice((), "nothing, report this: one of the evaluators has a defect")
        return _Finding(Verdict(False, frozenset()), votes, "engine.disagreement", plain, (), _HOUSE, advice)
    advice = Advice((), "") if ours.allow else advise(pack, facts)
    rule = next((r for r in pack.rules if r.id in ours.rules), None)
    named = next((pair for pair in _out_of_time(pack) if pair[0] in ours.rules), None)
    if named is not None or rule is None:
        name, plain = named or _default(pack, facts)
        return _Finding(ours, votes, name, plain + about, (), _HOUSE, advice)
    return _Finding(ours, votes, rule.id, rule.plain + about, rule.law, rule.house.lines(), advice)


def _names(verdict: Verdict) -> str:
    return ", ".join(sorted(verdict.rules)) or "no rule"


def _out_of_time(pack: Pack) -> tuple[tuple[str, str], ...]:
    """Rule and sentence for each side of the days on which the pack holds."""
    version = f"Pack {pack.id} version {pack.version}"
    return (
        (f"{pack.id}.not-yet", f"{version} says nothing of days before {pack.verified_on}, when it was verified."),
        (f"{pack.id}.expired", f"{version} expired on {pack.expires_on}."),
    )


def _default(pack: Pack, facts: Facts) -> tuple[str, str]:
    leg = f"{facts.from_jurisdiction} -> {facts.to_jurisdiction}"
    return f"{pack.id}.default-deny", f"No rule of pack {pack.id} allows this {facts.artifact} for {leg} as it stands."


def _leg(found: _Finding, party: Party, via: Via) -> Leg:
    rules = tuple(sorted(found.verdict.rules)) or (found.rule,)
    return Leg(recipient=party, via=via, effect=found.verdict.effect, rules=rules)
