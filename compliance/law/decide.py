"""The decision: may this leave, to these recipients, under the packs that the site adopted?

For every recipient, every adopted pack that binds the exporter is asked twice, by the Python evaluator and by Cedar.
Only if all of them allow, by the same rules, the answer is ALLOW.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

from compliance.law.advice import Advice, advise
from compliance.law.cedar_eval import CedarPack
from compliance.law.facts import Facts, facts_of
from compliance.law.model import Decision, Leg, Party, Transfer, Votes
from compliance.law.pack import Pack, builtin_packs, load_pack, pack_digest
from compliance.law.python_eval import Verdict, evaluate
from compliance.law.regions import load_regions

__all__ = ["Engine", "builtin_packs", "load_pack", "pack_digest"]

_DENIED = Votes(python="deny", cedar="deny")
_HOUSE = ("Fail closed: what cannot be decided is denied.",)


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

    A pack that is offered but not adopted is not asked, and denies where it binds the exporter; an adopted pack that
    is absent, or differs from its adopted digest, denies everything. Immutable after construction; safe to share
    between threads. Raises InputError RSD-3004 if a pack does not compile.
    """

    def __init__(self, packs: Mapping[str, Pack], adopted: Mapping[str, str]) -> None:
        self._offered = dict(packs)
        self._adopted = dict(adopted)
        self._broken = _first_broken(packs, adopted)
        in_force = {} if self._broken else {name: packs[name] for name in adopted}
        self._in_force = {name: (pack, CedarPack(pack)) for name, pack in in_force.items()}

    def decide(self, transfer: Transfer) -> Decision:
        """The decision for the recipient and every onward recipient; the first denial denies the whole."""
        packs = self._packs_for(transfer.exporter.jurisdiction)
        if isinstance(packs, _Finding):
            return self._decision(transfer, transfer.recipient, packs, (), [])
        used = [pack for pack, _ in packs]
        legs: list[Leg] = []
        findings: list[_Finding] = []
        for number, party in enumerate((transfer.recipient, *transfer.onward)):
            found = _decide_leg(packs, facts_of(transfer, party), party, onward=number > 0)
            legs.append(_leg(found, party, onward=number > 0))
            if not found.verdict.allow:
                return self._decision(transfer, party, found, tuple(legs), used)
            findings.append(found)
        return self._decision(transfer, transfer.recipient, findings[0], tuple(legs), used)

    def _packs_for(self, jurisdiction: str) -> list[tuple[Pack, CedarPack]] | _Finding:
        if self._broken is not None:
            return self._broken
        for name, pack in self._offered.items():
            if name not in self._adopted and jurisdiction in pack.jurisdictions:
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
            regions=load_regions()[1],
            evaluators=found.votes,
            draft=any(pack.draft for pack in used or self._offered.values()),
            transfer=transfer,
        )


def _first_broken(packs: Mapping[str, Pack], adopted: Mapping[str, str]) -> _Finding | None:
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
    return None


def _refused(rule: str, plain: str, wanted: str) -> _Finding:
    return _Finding(Verdict(False, frozenset()), _DENIED, rule, plain, (), _HOUSE, Advice((wanted,), wanted))


def _decide_leg(packs: list[tuple[Pack, CedarPack]], facts: Facts, party: Party, *, onward: bool) -> _Finding:
    """Ask every pack; the first one that does not allow decides, else the first one."""
    findings: list[_Finding] = []
    for pack, cedar in packs:
        found = _ask(pack, cedar, facts, party if onward else None)
        if not found.verdict.allow:
            return found
        findings.append(found)
    rules = frozenset(chain.from_iterable(found.verdict.rules for found in findings))
    return replace(findings[0], verdict=Verdict(True, rules))


def _ask(pack: Pack, cedar: CedarPack, facts: Facts, onward: Party | None) -> _Finding:
    ours, theirs = evaluate(pack, facts), cedar.evaluate(facts)
    votes = Votes(python=ours.effect, cedar=theirs.effect)
    suffix = f" This concerns the onward recipient {onward.name} in {onward.jurisdiction}." if onward else ""
    if ours != theirs:
        plain = (
            f"The evaluators disagree about pack {pack.id}: Python {ours.effect} by {_names(ours)}, "
            f"Cedar {theirs.effect} by {_names(theirs)}.{suffix}"
        )
        advice = Advice((), "nothing, report this: one of the evaluators has a defect")
        return _Finding(Verdict(False, frozenset()), votes, "engine.disagreement", plain, (), _HOUSE, advice)
    advice = Advice((), "") if ours.allow else advise(pack, facts)
    rule = next((r for r in pack.rules if r.id in ours.rules), None)
    expired = f"{pack.id}.expired"
    if expired in ours.rules or rule is None:
        name, plain = (expired, _expired(pack)) if expired in ours.rules else _default(pack, facts)
        return _Finding(ours, votes, name, plain + suffix, (), _HOUSE, advice)
    return _Finding(ours, votes, rule.id, rule.plain + suffix, rule.law, rule.house.lines(), advice)


def _names(verdict: Verdict) -> str:
    return ", ".join(sorted(verdict.rules)) or "no rule"


def _expired(pack: Pack) -> str:
    return f"Pack {pack.id} version {pack.version} expired on {pack.expires_on}."


def _default(pack: Pack, facts: Facts) -> tuple[str, str]:
    leg = f"{facts.from_jurisdiction} -> {facts.to_jurisdiction}"
    return f"{pack.id}.default-deny", f"No rule of pack {pack.id} allows this {facts.artifact} for {leg} as it stands."


def _leg(found: _Finding, party: Party, *, onward: bool) -> Leg:
    rules = tuple(sorted(found.verdict.rules)) or (found.rule,)
    return Leg(recipient=party, onward=onward, effect=found.verdict.effect, rules=rules)
