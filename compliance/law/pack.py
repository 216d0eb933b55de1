"""Law packs: one regime each, and loading them by digest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from compliance.canonical import sha256_hex
from compliance.files import read_bytes
from compliance.law.countries import COUNTRIES
from compliance.law.fields import NOBODY, Citation, Day, Reviewer
from compliance.law.regions import ANY, COVERED_PERSON, Regions, load_regions
from compliance.law.rule import Limits, Over, Requires, Rule
from compliance.law.strict_yaml import MOST_BYTES, load_strict
from compliance.law.vocabulary import ARTIFACTS, NEVER_LEAVES, PURPOSES, Confidence, RecordClass, SourceKind
from compliance.training_spec import Frozen
from compliance.validation import Mistake

__all__ = ["Deadline", "Limits", "Over", "Pack", "Requires", "Retention", "Rule", "builtin_packs", "load_pack"]

_FOLDER = Path(__file__).with_name("packs")
_ENGINE = "engine"  # begins the ids of the engine's own rules


class Retention(Frozen):
    """How long records of these classes are kept: at least `floor_days`, or at most `ceiling_days`.

    `since`: the first day on which it binds. `binds` declared: it binds only whom the sentence `who` describes.
    """

    classes: tuple[RecordClass, ...] = Field(min_length=1)
    floor_days: int | None = Field(default=None, ge=1, le=40_000)
    ceiling_days: int | None = Field(default=None, ge=1, le=40_000)
    since: Day | None = None
    binds: Literal["all", "declared"] = "all"
    who: str = Field(default="", pattern=r"^([A-Z][^\n]*\.)?$")
    law: tuple[Citation, ...]
    confidence: Confidence
    source_kind: SourceKind
    source: str = Field(min_length=10)
    url: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _one_limit(self) -> Retention:
        if (self.floor_days is None) == (self.ceiling_days is None):
            raise ValueError("either floor_days or ceiling_days")
        if (self.binds == "declared") != bool(self.who):
            raise ValueError("binds declared, and only that, needs who: a sentence that says who is bound")
        _cited(self.law, self.source_kind, self.confidence, self.note)
        return self


class Deadline(Frozen):
    """Within which time who must act after `event`. `since`: the first day on which it binds."""

    event: str = Field(min_length=5, max_length=300)
    within: str = Field(min_length=2, max_length=60)
    who: str = Field(min_length=2, max_length=120)
    since: Day | None = None
    law: tuple[Citation, ...]
    confidence: Confidence
    source_kind: SourceKind
    source: str = Field(min_length=10)
    url: str = ""

    @model_validator(mode="after")
    def _is_cited(self) -> Deadline:
        _cited(self.law, self.source_kind, self.confidence, "")
        return self


def _cited(law: tuple[str, ...], kind: str, confidence: str, note: str) -> None:
    if not law and not note:
        raise ValueError("a citation is missing in law")
    if kind == "memory" and confidence != "low":
        raise ValueError("what nobody has read, source_kind memory, has confidence low")


class Pack(Frozen):
    """The rules of one regime. `reviewer` is counsel by name, or `none`: then everything shown says DRAFT.

    `kind` facts: nobody has turned this regime into rules, so everything from it is denied. `binds` declared: it binds
    only whom `binds_note` describes, and a site's signatory may declare that it does not bind the site.
    """

    schema_: Literal["residency.law-pack/2"] = Field(alias="schema")
    id: str = Field(pattern=r"^[a-z][a-z0-9-]{1,19}$")
    title: str = Field(min_length=1)
    jurisdictions: tuple[str, ...] = Field(min_length=1)
    version: int = Field(ge=1)
    kind: Literal["full", "facts"]
    binds: Literal["all", "declared"] = "all"
    binds_note: str = ""
    reviewer: Reviewer
    confidence: Confidence
    verified_on: Day
    expires_on: Day
    source: str = Field(min_length=10)
    not_covered: tuple[str, ...]
    rules: tuple[Rule, ...] = Field(min_length=1)
    retention: tuple[Retention, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    _raw: bytes = PrivateAttr(default=b"")
    _digest: str = PrivateAttr(default="")

    @property
    def draft(self) -> bool:
        """True if the pack or a rule of it has no named reviewer."""
        return NOBODY in {self.reviewer, *(self.reviewer_of(rule) for rule in self.rules)}

    @property
    def digest(self) -> str:
        """SHA-256 of the file that this pack was read from; empty for one that was made in memory."""
        return self._digest

    @property
    def raw(self) -> bytes:
        """The bytes of that file."""
        return self._raw

    def reviewer_of(self, rule: Rule) -> str:
        """Who reviewed the rule: its own reviewer, else the pack's."""
        return rule.reviewer or self.reviewer

    def verified_of(self, rule: Rule) -> str:
        """The first day on which the rule allows or excepts anything, when it was read: its own, else the pack's."""
        return rule.verified_on or self.verified_on

    def expires_of(self, rule: Rule) -> str:
        """The first day on which the rule no longer allows or excepts anything: its own, else the pack's."""
        return rule.expires_on or self.expires_on

    def is_intact(self) -> bool:
        """True if the bytes behind `digest` say exactly what this object says."""
        return bool(self._raw) and _read(self._raw, f"law pack {self.id}", None) == self


def load_pack(source: Path | bytes, regions: Regions | None = None) -> Pack:
    """Read a pack whose rules name sets of `regions` (None: those of the package).

    Raises InputError RSD-2005, RSD-3001 (YAML) or RSD-3002 (every mistake, with its field and line).
    """
    raw = source if isinstance(source, bytes) else read_bytes(source, "a law pack", MOST_BYTES)
    what = "law pack" if isinstance(source, bytes) else f"law pack {source.name}"
    return _read(raw, what, regions or load_regions())


def pack_digest(source: Path | bytes) -> str:
    """SHA-256 of the pack's file bytes: what a signatory adopts. Raises InputError RSD-2005."""
    return sha256_hex(source if isinstance(source, bytes) else read_bytes(source, "a law pack", MOST_BYTES))


def builtin_packs() -> dict[str, Pack]:
    """The packs that come with the package, by id. None is in force until a site adopts its digest."""
    return dict(_builtin())


@lru_cache(maxsize=1)
def _builtin() -> dict[str, Pack]:
    packs = [load_pack(path) for path in sorted(_FOLDER.glob("*.yaml"))]
    return {pack.id: pack for pack in packs}


def _read(raw: bytes, what: str, regions: Regions | None) -> Pack:
    def check(pack: Pack) -> list[Mistake]:
        return [*_incoherent(pack), *(_strange(pack, regions) if regions else ())]

    pack = load_strict(Pack, raw, what, check)
    pack._raw, pack._digest = raw, sha256_hex(raw)  # noqa: SLF001  only the loader sets them
    return pack


def _incoherent(pack: Pack) -> Iterator[Mistake]:
    """What is wrong with the pack as a whole, beyond each rule."""
    if pack.id == _ENGINE:
        yield Mistake("id", f"{_ENGINE} is no name for a pack")
    for i, code in enumerate(pack.jurisdictions):
        if code not in COUNTRIES or code in pack.jurisdictions[:i]:
            yield Mistake(f"jurisdictions[{i}]", f"{code} is no country code of ISO 3166-1, or stands twice")
    if (pack.binds == "declared") != bool(pack.binds_note):
        yield Mistake("binds", "binds declared, and only that, needs binds_note: who is bound")
    yield from _rules_of(pack)
    if pack.confidence == "high" and pack.reviewer == NOBODY:
        yield Mistake("confidence", "confidence high needs a named reviewer")
    if pack.kind == "facts":
        yield from _facts_only(pack)
    elif not any(_denies_raw_data(rule) for rule in pack.rules):
        yield Mistake("rules", f"a pack must deny {sorted(NEVER_LEAVES)} from ANY to ANY for every purpose")


def _rules_of(pack: Pack) -> Iterator[Mistake]:
    seen: set[str] = set()
    for i, rule in enumerate(pack.rules):
        place = f"rules[{i}]"
        if rule.id in seen or not rule.id.startswith(f"{pack.id}."):
            yield Mistake(f"{place}.id", f"rule ids stand once and begin with {pack.id}.")
        seen.add(rule.id)
        if rule.id in {f"{pack.id}.{name}" for name in ("not-yet", "expired", "default-deny")}:
            yield Mistake(f"{place}.id", "the ids not-yet, expired and default-deny are the engine's")
        if rule.confidence == "high" and pack.reviewer_of(rule) == NOBODY:
            yield Mistake(f"{place}.confidence", "confidence high needs a named reviewer")
        if rule.expires_on is not None and rule.expires_on > pack.expires_on:
            yield Mistake(f"{place}.expires_on", "a rule expires with its pack at the latest")
        own = rule.verified_on or rule.expires_on  # of a rule without days of its own the pack's are told once
        if own and pack.verified_of(rule) >= pack.expires_of(rule):
            yield Mistake(f"{place}.expires_on", "verified_on must come before expires_on")
    if pack.verified_on >= pack.expires_on:
        yield Mistake("expires_on", "verified_on must come before expires_on")


def _facts_only(pack: Pack) -> Iterator[Mistake]:
    for i, rule in enumerate(pack.rules):
        if rule.effect != "deny":
            yield Mistake(f"rules[{i}].effect", "a pack of facts has deny rules only")
    last = pack.rules[-1]
    whole = (
        _denies_always(last) and ANY in last.to_region and all(last.concerns(a, p) for a in ARTIFACTS for p in PURPOSES)
    )
    if last.id != f"{pack.id}.no-reviewed-pack" or not whole or not last.house.note:
        yield Mistake(
            f"rules[{len(pack.rules) - 1}].id",
            f"the last rule of a pack of facts is {pack.id}.no-reviewed-pack, which denies everything, with house.note",
        )


def _denies_always(rule: Rule) -> bool:
    conditional = rule.to_region_except or rule.category or rule.over or not rule.unless.empty
    return rule.effect == "deny" and not conditional


def _denies_raw_data(rule: Rule) -> bool:
    everywhere = ANY in rule.from_region and ANY in rule.to_region
    return _denies_always(rule) and everywhere and all(rule.concerns(a, p) for a in NEVER_LEAVES for p in PURPOSES)


def unknown_regions(pack: Pack, regions: Regions) -> Iterator[Mistake]:
    """Each name in the rules that is no set of `regions`: a rule with one would be silent where it should speak."""
    for i, rule in enumerate(pack.rules):
        named = {
            "from_region": rule.from_region,
            "to_region": rule.to_region,
            "to_region_except": rule.to_region_except,
            **{f"{part}.keys_within": limits.keys_within for part, limits in rule.limits()},
        }
        for field, names in named.items():
            barred = {"to_region": set(), "to_region_except": {ANY, COVERED_PERSON}}.get(field, {COVERED_PERSON})
            known = regions.names - barred
            for j, name in enumerate(names):
                if name not in known:
                    yield Mistake(f"rules[{i}].{field}[{j}]", f"there is no region set {name}")


def _strange(pack: Pack, regions: Regions) -> Iterator[Mistake]:
    """What `regions` say against the pack: names that they lack, and facts that leave a jurisdiction out."""
    yield from unknown_regions(pack, regions)
    if pack.kind == "facts":
        day, last = date.fromisoformat(pack.verified_on), pack.rules[-1]
        left = [code for code in pack.jurisdictions if regions.of(code, day).isdisjoint(last.from_region)]
        if left:
            yield Mistake(f"rules[{len(pack.rules) - 1}].from_region", f"the last rule leaves out {left}")
