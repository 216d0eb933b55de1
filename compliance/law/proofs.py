"""What no exporter can bring about under these packs, proved by the solver z3 from a model of the packs' words.

A proof covers every transfer that the model can express, at the days on which the packs' answers may change. It proves
that the packs refuse; that nothing leaves without asking them is tested, not proved. A counter-example is a transfer in
the form of a reference case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import Any, TypeAlias

import yaml
import z3

from compliance.canonical import Json
from compliance.law.cases import CaseTransfer
from compliance.law.decide import Engine
from compliance.law.model import Transfer
from compliance.law.pack import Pack
from compliance.law.proof_model import Leg, Reading, Sent, Term, World
from compliance.law.proof_papers import KEYS, PAPERS, keys_abroad, leaves, without_papers
from compliance.law.proof_regions import differences
from compliance.law.regions import ANY, Regions
from compliance.law.rule import Limits, Rule
from compliance.law.vocabulary import ARTIFACTS, CATEGORIES, METADATA, NEVER_ALLOWED
from compliance.validation import load_model

# 28 CFR 202.601 and 202.205, written here again: a slip in the region sets or in a pack shows as a counter-example.
COUNTRIES_OF_CONCERN = ("CN", "CU", "HK", "IR", "KP", "MO", "RU", "VE")
BULK = {"health": 10_000, "omic": 1_000, "genomic": 100, "biometric": 1_000, "geolocation": 1_000}
# What this product asks of whatever was learned from patients, under every pack.
HOUSE_EPSILON, HOUSE_SITES, HOUSE_MASKED_SITES = 8_000, 2, 3
_US = "us_12_months"
_S, _A, _B = Sent("sent"), Leg("first"), Leg("second")
Solver: TypeAlias = Any
_PERSONAL = tuple(sorted(set(ARTIFACTS) - METADATA))


@dataclass(frozen=True)
class Proof:
    """One statement: proved, or a counter-example that a person can read."""

    name: str
    says: str
    proved: bool
    counter_example: str = ""

    def as_json(self) -> dict[str, Json]:
        """As `law check --json` shows it."""
        return {"name": self.name, "proved": self.proved}


@dataclass(frozen=True)
class _Broken(Exception):
    told: str
    day: date | None = None  # if another than the world's


def prove(packs: Mapping[str, Pack], regions: Regions) -> tuple[Proof, ...]:
    """Every statement, each on every day on which the packs' answers may change."""
    return tuple(proofs(packs, regions))


def proofs(packs: Mapping[str, Pack], regions: Regions) -> Iterator[Proof]:
    """The same one by one: who looks for the first that fails need not wait for the rest."""
    worlds = [World(packs, regions, day) for day in days(packs, regions)]
    return (_proof(name, says, check, worlds) for name, (says, check) in STATEMENTS.items())


def only_by(one: Pack, other: Pack, regions: Regions) -> str:
    """A transfer that `one` allows and `other`, another version of it, does not; empty if there is none.

    Asked from the day on which both have been verified.
    """
    both = max(date.fromisoformat(pack.verified_on) for pack in (one, other))
    for day in [d for d in (both, *days({"one": one, "other": other}, regions)) if d >= both]:
        ours, theirs = World({one.id: one}, regions, day), World({other.id: other}, regions, day)
        solver = _solver(ours.allows(one, _S, _A), z3.Not(theirs.allows(other, _S, _A)))
        if _possible(solver):
            return f"on {day.isoformat()}: {readable(_least(solver).case(_S, _A))}"
    return ""


def days(packs: Mapping[str, Pack], regions: Regions) -> list[date]:
    """The first day of any pack, and every later day on which a set changes or a rule begins or ends to hold."""
    first = min(date.fromisoformat(p.verified_on) for p in packs.values())
    last = max(date.fromisoformat(p.expires_on) for p in packs.values())
    members = [m for region in regions.sets.values() for m in region.members]
    changes = {day for m in members for day in (m.since, m.until) if day}
    changes |= {day for p in packs.values() for r in p.rules for day in (p.verified_of(r), p.expires_of(r))}
    changes |= {p.verified_on for p in packs.values()}
    found = {date.fromisoformat(day) for day in changes}
    return [first, *sorted(day for day in found if first < day < last)]


def _proof(name: str, says: str, check: Callable[[World], None], worlds: list[World]) -> Proof:
    for world in worlds:
        try:
            check(world)
        except _Broken as e:
            return Proof(name, says, False, f"on {(e.day or world.day).isoformat()}: {e.told}")
    return Proof(name, says, True)


def _never(what: str, *facts: Term, onward: bool = False) -> None:
    """Raises _Broken with a case if the facts can hold together."""
    solver = _solver(*facts)
    if _possible(solver):
        raise _Broken(f"{what}: {readable(_least(solver).case(_S, _A, _B if onward else None))}")


def _solver(*facts: Term) -> Solver:
    solver = z3.SolverFor("QF_LIA")
    solver.add(_S.bounds(), _A.bounds(), _B.bounds(), *facts)
    return solver


def _possible(solver: Solver, *more: Term) -> bool:
    answer = solver.check(*more)
    if answer == z3.unknown:
        raise _Broken(f"the solver gave no answer: {solver.reason_unknown()}")
    return bool(answer == z3.sat)


def _least(solver: Solver) -> Reading:
    """A model with as few papers and other facts as can be: what is left is what the counter-example rests on."""
    model, tried = solver.model(), set()
    while spare := [n for n in _true(model) if n not in tried]:
        tried.add(spare[0])
        solver.push()
        solver.add(z3.Not(z3.Bool(spare[0])))
        if _possible(solver):
            model = solver.model()
        else:
            solver.pop()
    return Reading(model)


def _true(model: Any) -> list[str]:
    return sorted(d.name() for d in model.decls() if d.range() == z3.BoolSort() and z3.is_true(model[d]))


def readable(case: dict[str, Json]) -> str:
    """One line of YAML that can stand under `transfer:` in a file of cases."""
    return " ".join(yaml.safe_dump(case, default_flow_style=True, sort_keys=False, width=10_000).split())


def _personal() -> Term:
    return z3.Or(*(_S.artifact(a) for a in _PERSONAL))


def _records_stay(world: World) -> None:
    for pack in world.packs.values():
        kinds = z3.Or(*(_S.artifact(a) for a in sorted(NEVER_ALLOWED)))
        _never(f"pack {pack.id} allows it", kinds, world.allows(pack, _S, _A))


def _bulk(leg: Leg) -> Term:
    """The leg brings the recipient above the lowest threshold of the categories, or nobody counted."""
    known, count = leg.counted(_US)
    held = {c: z3.Or(_S.category(c), leg.window(_US, c)) for c in CATEGORIES}
    return z3.And(_personal(), z3.Or(z3.Not(known), *(z3.And(held[c], count > BULK[c]) for c in CATEGORIES)))


def _of_concern(world: World, leg: Leg) -> Term:
    return z3.Or(world.one_of(COUNTRIES_OF_CONCERN, leg.place), leg.covered)


def _from_us(world: World) -> Term:
    return world.one_of(("US",), _S.origin)


def _us_bulk_direct(world: World) -> None:
    bad = (_from_us(world), _of_concern(world, _A), _bulk(_A), z3.Not(_A.paper("doj_license")))
    _never("US bulk data reach a country of concern or a covered person", *bad, world.whole(_S, _A))


def _us_bulk_onward(world: World) -> None:
    """By a party that the transfer names: who can access it, or who gets it later. Both are legs of their own."""
    bad = (_from_us(world), _of_concern(world, _B), _bulk(_B), z3.Not(_B.paper("doj_license")))
    both = z3.And(world.whole(_S, _A), world.whole(_S, _B))
    _never("US bulk data reach a country of concern by access or onward", *bad, both, onward=True)


def _us_bulk_reexport(world: World) -> None:
    """By a recipient that sends it on as its own later: no pack stops it, and no paper on file forbids it to."""
    again = Sent("again")
    same = [again.artifact(a) == _S.artifact(a) for a in ARTIFACTS]
    same += [again.category(c) == _S.category(c) for c in CATEGORIES]
    free_to = z3.Or(z3.Not(world.bound(again)), world.whole(again, _B))
    sent_on = z3.And(again.bounds(), again.origin == _A.place, *same, free_to)
    bad = (_from_us(world), _bulk(_A), _of_concern(world, _B), _bulk(_B), z3.Not(_B.paper("doj_license")))
    free = z3.Not(z3.Or(_A.paper("onward_prohibition"), _A.paper("doj_license")))
    message = "US bulk data reach a country of concern over a recipient that may send them on"
    _never(message, *bad, free, world.whole(_S, _A), sent_on, onward=True)


def _eea_basis(world: World) -> None:
    adequate = z3.And(world.inside(("EU_ADEQUATE",), _A.place), _A.paper("adequacy_confirmation"))
    safeguard = z3.And(z3.Or(_A.paper("scc"), _A.paper("bcr")), _A.paper("tia"))
    leaves = z3.And(world.inside(("EEA",), _S.origin), z3.Not(world.inside(("EEA",), _A.place)), _personal())
    without = z3.Not(z3.Or(adequate, safeguard))
    _never("it leaves the EEA with neither adequacy nor basis", leaves, without, world.whole(_S, _A))


def _papers_on_file(world: World) -> None:
    for row in PAPERS:
        left = leaves(world, row, _S, _A)
        message = f"it leaves under {row.pack} without {row.told}"
        _never(message, _personal(), without_papers(world, row, _S, _A), left)


def _keys_stay(world: World) -> None:
    for row in KEYS:
        left = leaves(world, row, _S, _A)
        _never(f"it leaves under {row.pack} with a key elsewhere", keys_abroad(world, row, _S, _A), left)


def _region_sets(world: World) -> None:
    for day, told in differences(world.regions):
        raise _Broken(told, day)


def _house_floor(world: World) -> None:
    noised = z3.And(z3.Not(_S.unit("none")), _S.flag("has_epsilon_milli"), _S.number("epsilon_milli") <= HOUSE_EPSILON)
    masked = z3.And(_S.flag("secure_aggregation"), _S.number("min_sites") >= HOUSE_MASKED_SITES)
    kept = z3.And(
        noised,
        z3.Implies(_S.artifact("masked_update"), masked),
        *(z3.Implies(_S.artifact(a), _S.number("min_sites") >= HOUSE_SITES) for a in ("aggregate", "released_model")),
    )
    for pack in world.packs.values():
        _never(f"pack {pack.id} allows it", _personal(), z3.Not(kept), world.allows(pack, _S, _A))


def _limits_hold(world: World) -> None:
    for pack in world.packs.values():
        allowed = world.allows(pack, _S, _A)
        for field in Limits.model_fields:
            asked = list(_demands(world, pack, field))
            if asked:
                some = z3.Or(*(scope for scope, _ in asked))
                kept = z3.Or(*(z3.And(scope, limit) for scope, limit in asked))
                _never(f"pack {pack.id} asks for {field}, and allows it without", some, z3.Not(kept), allowed)


def _demands(world: World, pack: Pack, field: str) -> Iterator[tuple[Term, Term]]:
    """Scope and limit of each allow rule that asks. Where keys lie matters only where no rule names the destination."""
    allows = [rule for rule in pack.rules if rule.effect == "allow"]
    for rule in allows:
        parts = (world.kept_each(limits, _S) for limits in (rule.house, rule.requires.guarantees))
        limits = [part[field] for part in parts if field in part]
        if limits:
            scope = world.scope(rule, _S, _A)
            if field == "keys_within" and ANY in rule.to_region:
                named = {name for other in allows for name in other.to_region} - {ANY}
                scope = z3.And(scope, z3.Not(world.inside(sorted(named), _A.place, _A.covered)))
            yield scope, z3.And(*limits)


def _no_silent_contradiction(world: World) -> None:
    for one, other in combinations(world.packs.values(), 2):
        common = sorted(set(one.jurisdictions) & set(other.jurisdictions))
        if common:
            here = world.one_of(common, _S.origin)
            adopted = z3.And(*(world.binds(pack, _S) for pack in (one, other)))
            for first, second in ((one, other), (other, one)):
                split = z3.And(here, adopted, world.allows(first, _S, _A), z3.Not(world.allows(second, _S, _A)))
                _never(f"{first.id} allows, {second.id} denies, all allow", split, world.whole(_S, _A))
                _is_told(world, first, second, split)


def _is_told(world: World, first: Pack, second: Pack, split: Term) -> None:
    """Where the two disagree, the engine itself denies and names a rule of the pack that denies."""
    solver = _solver(split)
    if not _possible(solver):
        return
    case = Reading(solver.model()).case(_S, _A)
    decision = _engine(world, (first, second)).decide(_transfer(case, world.day))
    if decision.allow or not decision.rule.startswith(f"{second.id}."):
        told = f"{decision.effect} by {decision.rule}"
        raise _Broken(f"{first.id} allows, {second.id} denies, the engine says {told}: {readable(case)}")


def _every_rule_speaks(world: World) -> None:
    for pack in world.packs.values():
        here = world.one_of(pack.jurisdictions, _S.origin)
        spoken, deciding = _solver(here), _solver(here, world.allows(pack, _S, _A))
        engine = _engine(world, (pack,))
        for rule in pack.rules:
            fires = world.fires(rule, pack, _S, _A)
            if rule.effect == "deny" and not _possible(spoken, fires):
                raise _Broken(f"deny rule {rule.id} is dead: it can never fire")
            if rule.effect == "allow" and world.holds(rule, pack):
                _reachable(world, engine, rule, deciding, fires)


def _reachable(world: World, engine: Engine, rule: Rule, deciding: Solver, fires: Term) -> None:
    """Some transfer passes by the rule, and the engine lets that transfer pass by it too."""
    if not _possible(deciding, fires):
        raise _Broken(f"allow rule {rule.id} is dead: where it fires a deny always fires too")
    case = Reading(deciding.model()).case(_S, _A)
    decision = engine.decide(_transfer(case, world.day))
    if not decision.allow or rule.id not in decision.legs[0].rules:
        told = f"{decision.effect} by {decision.rule}"
        raise _Broken(f"allow rule {rule.id} should let this pass, the engine says {told}: {readable(case)}")


def _engine(world: World, packs: tuple[Pack, ...]) -> Engine:
    return Engine({p.id: p for p in packs}, {p.id: p.digest for p in packs}, regions=world.regions)


def _transfer(case: dict[str, Json], day: date) -> Transfer:
    at = f"{day.isoformat()}T12:00:00Z"
    return load_model(CaseTransfer, case, "RSD-3079", "the solver's transfer").transfer(at)


STATEMENTS: dict[str, tuple[str, Callable[[World], None]]] = {
    "region-sets": (
        "the region sets are those that were written down a second time, for every code and on every day of a change",
        _region_sets,
    ),
    "records-stay": (
        "no pack allows raw records, embeddings, gradients, updates without noise or support files to leave",
        _records_stay,
    ),
    "us-bulk-direct": (
        "no US data above a threshold reach a country of concern or a covered person without a licence",
        _us_bulk_direct,
    ),
    "us-bulk-onward": (
        "nor by somebody who can access what the recipient holds, or to whom it is named as going on",
        _us_bulk_onward,
    ),
    "us-bulk-reexport": (
        "nor over a recipient that may send it on as its own, unless a paper on file forbids that recipient to",
        _us_bulk_reexport,
    ),
    "eea-basis": (
        "nothing on patients leaves the EEA without adequacy confirmed for the recipient, or a basis with assessment",
        _eea_basis,
    ),
    "papers-on-file": (
        "nothing on patients leaves without the papers that its regime always asks for, by a table of their own",
        _papers_on_file,
    ),
    "keys-stay": (
        "no masked update goes where nothing vouches for the recipient while a key is outside of where the law does",
        _keys_stay,
    ),
    "house-floor": (
        "nothing on patients leaves without a privacy unit and eps of 8 at most, or from fewer sites than we ask for",
        _house_floor,
    ),
    "limits-hold": (
        "where a rule asks for a guarantee, no other rule of the pack lets the same pass without it",
        _limits_hold,
    ),
    "no-silent-contradiction": (
        "where one pack allows and another that binds the same exporter denies, the whole denies by a named rule",
        _no_silent_contradiction,
    ),
    "every-rule-speaks": (
        "every allow rule lets some transfer pass, and every deny rule can fire: no rule is dead",
        _every_rule_speaks,
    ),
}
