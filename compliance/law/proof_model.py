"""Law packs as formulas for the solver z3: a third reading of the rules, made from the packs' words alone.

It shares with the evaluators the loaded packs and the dated region sets, and nothing of how they decide. One `Sent` is
what leaves, the same for all who get it; one `Leg` is a party that comes to hold it, with the papers and counts for it.
Every fact is free unless the rules bound it: what the solver finds impossible no exporter can bring about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import z3

from compliance.canonical import Json
from compliance.law.countries import COUNTRIES
from compliance.law.pack import Pack
from compliance.law.regions import ANY, COVERED_PERSON, Regions
from compliance.law.rule import Limits, Requires, Rule
from compliance.law.vocabulary import ARTIFACTS, CATEGORIES, COUNTERS, DOCUMENT_KINDS, NAMES_ITS_DESTINATION, PURPOSES

UNITS = ("none", "record", "patient")
_MOST = 10**9  # of any count, eps or inverse delta; no limit of a pack comes near
Term: TypeAlias = Any  # a formula; the solver has no types of its own
Number: TypeAlias = Any
_NUMBERS = ("epsilon_milli", "inverse_delta", "min_sites", "min_patients", "secure_aggregation_threshold")
_OPTIONAL = frozenset({"epsilon_milli", "inverse_delta"})  # None promises nothing
_YES_OR_NO = ("secure_aggregation", "group_sum")


def _word(name: str, words: Sequence[str], word: str) -> Term:
    return z3.Int(name) == words.index(word)


@dataclass(frozen=True)
class Sent:
    """What leaves: names of the solver's variables, common to all legs."""

    prefix: str

    def number(self, field: str) -> Number:
        """A guarantee that is a number."""
        return z3.Int(f"{self.prefix}.{field}")

    def flag(self, field: str) -> Term:
        """A guarantee that holds or does not; `has_...`: that a number is given at all."""
        return z3.Bool(f"{self.prefix}.{field}")

    def artifact(self, word: str) -> Term:
        """It is of this kind."""
        return _word(f"{self.prefix}.artifact", ARTIFACTS, word)

    def purpose(self, word: str) -> Term:
        """It is for this purpose."""
        return _word(f"{self.prefix}.purpose", PURPOSES, word)

    def unit(self, word: str) -> Term:
        """The privacy unit."""
        return _word(f"{self.prefix}.unit", UNITS, word)

    def category(self, word: str) -> Term:
        """The persons' data are of this category, among others."""
        return z3.Bool(f"{self.prefix}.category.{word}")

    @property
    def origin(self) -> Number:
        """The exporter's jurisdiction, by its place among the country codes."""
        return z3.Int(f"{self.prefix}.from")

    def key_places(self) -> tuple[Number, Number]:
        """Where private keys live: two jurisdictions, perhaps the same; `has_keys` says whether any is told."""
        return z3.Int(f"{self.prefix}.key1"), z3.Int(f"{self.prefix}.key2")

    def bounds(self) -> Term:
        """What is true of everything that can be sent."""
        words = (("artifact", ARTIFACTS), ("purpose", PURPOSES), ("unit", UNITS))
        places = (self.origin, *self.key_places())
        return z3.And(
            *(_within(z3.Int(f"{self.prefix}.{name}"), len(values)) for name, values in words),
            *(_within(place, len(COUNTRIES)) for place in places),
            *(_within(self.number(field), _MOST) for field in _NUMBERS),
            self.number("inverse_delta") > 0,
            z3.Or(*(self.category(c) for c in CATEGORIES)),
        )


@dataclass(frozen=True)
class Leg:
    """One party that comes to hold it."""

    prefix: str

    @property
    def place(self) -> Number:
        """Its jurisdiction."""
        return z3.Int(f"{self.prefix}.to")

    @property
    def covered(self) -> Term:
        """It is a covered person."""
        return z3.Bool(f"{self.prefix}.covered")

    def paper(self, kind: str) -> Term:
        """A paper of this kind counts for this leg."""
        return z3.Bool(f"{self.prefix}.paper.{kind}")

    def counted(self, counter: str) -> tuple[Term, Number]:
        """Whether a count is known for this leg, and the count."""
        return z3.Bool(f"{self.prefix}.{counter}.known"), z3.Int(f"{self.prefix}.{counter}")

    def window(self, counter: str, category: str) -> Term:
        """The counter's window holds data of this category."""
        return z3.Bool(f"{self.prefix}.{counter}.{category}")

    def bounds(self) -> Term:
        """What is true of every leg."""
        counts = [self.counted(counter)[1] for counter in COUNTERS]
        return z3.And(_within(self.place, len(COUNTRIES)), *(z3.And(n >= 0, n <= _MOST) for n in counts))


class World:
    """The packs and region sets on one day."""

    def __init__(self, packs: Mapping[str, Pack], regions: Regions, day: date) -> None:
        self.packs, self.regions, self.day = dict(packs), regions, day
        self._sets: dict[str, list[tuple[int, int]]] = {}
        self._rules: dict[tuple[str, str, str], Term] = {}
        self._answers: dict[tuple[str, str, str], Term] = {}

    def inside(self, names: Iterable[str], place: Number, covered: Term | None = None) -> Term:
        """`place` lies in one of the sets; for COVERED_PERSON the party is one."""
        tests: list[Term] = []
        for name in names:
            if name == ANY:
                return z3.BoolVal(True)
            if name == COVERED_PERSON:
                tests += [covered] if covered is not None else []
            else:
                tests += [z3.And(place >= low, place <= high) for low, high in self._ranges(name)]
        return z3.Or(*tests)

    def one_of(self, codes: Iterable[str], place: Number) -> Term:
        """`place` is one of these codes."""
        return z3.Or(*(z3.And(place >= low, place <= high) for low, high in _runs(codes)))

    def _ranges(self, name: str) -> list[tuple[int, int]]:
        if name not in self._sets:
            self._sets[name] = _runs(self.regions.members(name, self.day))
        return self._sets[name]

    def scope(self, rule: Rule, sent: Sent, leg: Leg) -> Term:
        """The rule speaks of this artifact, purpose, origin and destination, and of data of this category."""
        tests = [
            self.inside(rule.from_region, sent.origin),
            self.inside(rule.to_region, leg.place, leg.covered),
            z3.Not(self.inside(rule.to_region_except, leg.place, leg.covered)),
        ]
        if "*" not in rule.artifact:
            tests.append(z3.Or(*(sent.artifact(a) for a in rule.artifact)))
        if "*" not in rule.purpose:
            tests.append(z3.Or(*(sent.purpose(p) for p in rule.purpose)))
        if rule.category:
            tests.append(self._category(rule, sent, leg))
        return z3.And(*tests)

    def _category(self, rule: Rule, sent: Sent, leg: Leg) -> Term:
        if rule.effect == "allow":
            return z3.Not(z3.Or(*(sent.category(c) for c in CATEGORIES if c not in rule.category)))
        here = [sent.category(c) for c in rule.category]
        if rule.over is not None:
            known, _ = leg.counted(rule.over.counter)
            here += [z3.Not(known), *(leg.window(rule.over.counter, c) for c in rule.category)]
        return z3.Or(*here)

    def fires(self, rule: Rule, pack: Pack, sent: Sent, leg: Leg) -> Term:
        """The rule speaks, and its conditions are met (allow) or its exception is not (deny)."""
        key = (rule.id, sent.prefix, leg.prefix)
        if key not in self._rules:
            self._rules[key] = self._fires(rule, pack, sent, leg)
        return self._rules[key]

    def _fires(self, rule: Rule, pack: Pack, sent: Sent, leg: Leg) -> Term:
        lapsed = not self.holds(rule, pack)
        scope = self.scope(rule, sent, leg)
        if rule.effect == "allow":
            if lapsed:
                return z3.BoolVal(False)
            house = z3.And(*(leg.paper(kind) for kind in rule.house.documents), self.kept(rule.house, sent))
            return z3.And(scope, self.met(rule.requires, sent, leg), house)
        tests = [scope]
        if rule.over is not None:
            known, count = leg.counted(rule.over.counter)
            tests.append(z3.Or(z3.Not(known), count > rule.over.above))
        if not rule.unless.empty and not lapsed:
            tests.append(z3.Not(self.met(rule.unless, sent, leg)))
        return z3.And(*tests)

    def holds(self, rule: Rule, pack: Pack) -> bool:
        """It is a day on which the rule, and its pack, have been verified and have not expired."""
        begun = max(pack.verified_of(rule), pack.verified_on) <= self.day.isoformat()
        return begun and self.day.isoformat() < pack.expires_of(rule)

    def met(self, requires: Requires, sent: Sent, leg: Leg) -> Term:
        """All documents, all of one alternative, and the statute's guarantees."""
        ways = [z3.And(*(leg.paper(kind) for kind in way)) for way in requires.any_of]
        either = [z3.Or(*ways)] if ways else []
        return z3.And(*(leg.paper(kind) for kind in requires.documents), *either, self.kept(requires.guarantees, sent))

    def kept(self, limits: Limits, sent: Sent) -> Term:
        """Every limit that is set."""
        return z3.And(*self.kept_each(limits, sent).values())

    def kept_each(self, limits: Limits, sent: Sent) -> dict[str, Term]:
        """Field of the limit -> that it is kept; only the limits that are set."""
        out: dict[str, Term] = {}
        if limits.unit:
            out["unit"] = z3.Or(*(sent.unit(u) for u in limits.unit))
        for field in _NUMBERS:
            most, least = getattr(limits, f"{field}_at_most", None), getattr(limits, f"{field}_at_least", None)
            given = sent.flag(f"has_{field}") if field in _OPTIONAL else z3.BoolVal(True)
            if most is not None:
                out[f"{field}_at_most"] = z3.And(given, sent.number(field) <= most)
            if least is not None:
                out[f"{field}_at_least"] = z3.And(given, sent.number(field) >= least)
        for field in _YES_OR_NO:
            if getattr(limits, field):
                out[field] = sent.flag(field)
        if limits.keys_within:
            places = [self.inside(limits.keys_within, key) for key in sent.key_places()]
            out["keys_within"] = z3.And(sent.flag("has_keys"), *places)
        return out

    def allows(self, pack: Pack, sent: Sent, leg: Leg) -> Term:
        """The pack's own answer: no deny fires, some allow does, and it is one of the pack's days."""
        key = (pack.id, sent.prefix, leg.prefix)
        if key not in self._answers:
            self._answers[key] = self._allows(pack, sent, leg)
        return self._answers[key]

    def _allows(self, pack: Pack, sent: Sent, leg: Leg) -> Term:
        if not pack.verified_on <= self.day.isoformat() < pack.expires_on:
            return z3.BoolVal(False)
        denies = [self.fires(rule, pack, sent, leg) for rule in pack.rules if rule.effect == "deny"]
        permits = [self.fires(rule, pack, sent, leg) for rule in pack.rules if rule.effect == "allow"]
        return z3.And(z3.Or(*permits), z3.Not(z3.Or(*denies)))

    def binds(self, pack: Pack, sent: Sent) -> Term:
        """The exporter is in one of the pack's jurisdictions and has adopted it; it must, unless it may declare."""
        adopted = z3.Bool(f"adopted.{pack.id}") if pack.binds == "declared" else z3.BoolVal(True)
        return z3.And(self.one_of(pack.jurisdictions, sent.origin), adopted)

    def bound(self, sent: Sent) -> Term:
        """Some pack binds the exporter."""
        return z3.Or(*(self.binds(pack, sent) for pack in self.packs.values()))

    def whole(self, sent: Sent, leg: Leg) -> Term:
        """Every pack that binds allows, and at least one binds."""
        answers = [z3.Implies(self.binds(p, sent), self.allows(p, sent, leg)) for p in self.packs.values()]
        return z3.And(self.bound(sent), *answers)


def _within(number: Number, size: int) -> Term:
    return z3.And(number >= 0, number < size)


def _runs(codes: Iterable[str]) -> list[tuple[int, int]]:
    """Places of the codes as runs of neighbours, so that formulas stay short."""
    out: list[tuple[int, int]] = []
    for place in sorted({COUNTRIES.index(code) for code in codes}):
        if out and out[-1][1] == place - 1:
            out[-1] = (out[-1][0], place)
        else:
            out.append((place, place))
    return out


class Reading:
    """A solver's model, read back in the words of a reference case."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def case(self, sent: Sent, leg: Leg, onward: Leg | None = None) -> dict[str, Json]:
        """The transfer in the form of `residency.law-cases/1`, without what is false or default."""
        out: dict[str, Json] = {
            "artifact": ARTIFACTS[self._number(z3.Int(f"{sent.prefix}.artifact"))],
            "from": COUNTRIES[self._number(sent.origin)],
            **self._party(leg),
            "purpose": PURPOSES[self._number(z3.Int(f"{sent.prefix}.purpose"))],
            "documents": self._papers(leg, "coordinator", onward),
            "guarantees": self._guarantees(sent),
            "categories": [c for c in CATEGORIES if self._true(sent.category(c))],
        }
        counts = {counter: self._count(leg, counter) for counter in COUNTERS if self._true(leg.counted(counter)[0])}
        if onward is not None:
            there = self._party(onward)
            out["onward"] = [{"name": "later", "jurisdiction": there.pop("to"), **there}]
            out["documents"] += self._papers(onward, "later", leg)
        return {k: v for k, v in (out | {"counts": counts}).items() if v not in ([], {})}

    def _count(self, leg: Leg, counter: str) -> dict[str, Json]:
        held = [c for c in CATEGORIES if self._true(leg.window(counter, c))]
        return {"at_most": self._number(leg.counted(counter)[1]), "categories": held}

    def _party(self, leg: Leg) -> dict[str, Json]:
        covered = {"covered_person": True} if self._true(leg.covered) else {}
        return {"to": COUNTRIES[self._number(leg.place)], **covered}

    def _papers(self, leg: Leg, name: str, other: Leg | None) -> list[Json]:
        kinds = [k for k in DOCUMENT_KINDS if self._true(leg.paper(k))]
        if other is None and name == "coordinator":
            return list(kinds)
        there = COUNTRIES[self._number(leg.place)]
        return [{"kind": k, "covers": name, **({"to": there} if k in NAMES_ITS_DESTINATION else {})} for k in kinds]

    def _guarantees(self, sent: Sent) -> dict[str, Json]:
        numbers = {field: self._number(sent.number(field)) for field in _NUMBERS}
        told = {f for f, n in numbers.items() if (self._true(sent.flag(f"has_{f}")) if f in _OPTIONAL else n)}
        out: dict[str, Json] = {f: n for f, n in numbers.items() if f in told}
        unit = UNITS[self._number(z3.Int(f"{sent.prefix}.unit"))]
        out |= {"unit": unit} if unit != "none" else {}
        out |= {field: True for field in _YES_OR_NO if self._true(sent.flag(field))}
        if self._true(sent.flag("has_keys")):
            out["keys_in"] = sorted({COUNTRIES[self._number(key)] for key in sent.key_places()})
        return out

    def _number(self, term: Number) -> int:
        return int(self._model.eval(term, model_completion=True).as_long())

    def _true(self, term: Term) -> bool:
        return bool(z3.is_true(self._model.eval(term, model_completion=True)))
