"""Law packs: the schema of the files, and loading them by digest."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from compliance.canonical import sha256_hex
from compliance.files import read_bytes
from compliance.law.regions import ANY, CODE, DAY, region_names
from compliance.law.strict_yaml import parse_yaml
from compliance.law.vocabulary import (
    NEVER_LEAVES,
    PURPOSES,
    Artifact,
    Confidence,
    DocumentKind,
    Effect,
    Purpose,
)
from compliance.training_spec import Frozen
from compliance.validation import load_model

_FOLDER = Path(__file__).with_name("packs")


class Requires(Frozen):
    """Documents on file: all of `documents`, and all of at least one entry of `any_of` where there is one."""

    documents: tuple[DocumentKind, ...] = ()
    any_of: tuple[tuple[DocumentKind, ...], ...] = ()

    @field_validator("any_of")
    @classmethod
    def _no_empty_way_out(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(not alternative for alternative in value):
            raise ValueError("an empty alternative would always be met")
        return value

    @property
    def empty(self) -> bool:
        """True if nothing is asked."""
        return not self.documents and not self.any_of


class House(Frozen):
    """What this product asks on top; no statute says it."""

    note: str = ""
    documents: tuple[DocumentKind, ...] = ()
    unit: tuple[Literal["record", "patient"], ...] = ()
    epsilon_milli_at_most: int | None = Field(default=None, ge=1)
    inverse_delta_at_least: int | None = Field(default=None, ge=1)
    min_sites_at_least: int | None = Field(default=None, ge=2)
    secure_aggregation: Literal[True] | None = None

    @property
    def limits_nothing(self) -> bool:
        """True if there is at most a note."""
        return self == House(note=self.note)

    def lines(self) -> tuple[str, ...]:
        """Each requirement as plain text, the note last."""
        found = (
            self.documents and f"documents: {', '.join(self.documents)}",
            self.unit and f"privacy unit {' or '.join(self.unit)}",
            self.epsilon_milli_at_most and f"epsilon_milli at most {self.epsilon_milli_at_most}",
            self.inverse_delta_at_least and f"inverse_delta at least {self.inverse_delta_at_least}",
            self.min_sites_at_least and f"at least {self.min_sites_at_least} sites",
            self.secure_aggregation and "secure aggregation",
            self.note,
        )
        return tuple(str(line) for line in found if line)


class Rule(Frozen):
    """One rule. `allow` permits what it names when `requires` and `house` are met; `deny` refuses it unless `unless`.

    A deny beats every allow; what no rule allows is denied. `*` (deny only) stands for every artifact or purpose.
    """

    id: str = Field(pattern=r"^[a-z]{2,20}(\.[a-z0-9-]{1,40}){1,3}$")
    effect: Effect
    plain: str = Field(min_length=10, max_length=300, pattern=r"^[A-Z][^\n]*\.$")
    law: tuple[str, ...]
    house: House = House()
    from_region: tuple[str, ...] = Field(min_length=1)
    to_region: tuple[str, ...] = Field(min_length=1)
    to_region_except: tuple[str, ...] = ()
    artifact: tuple[Artifact | Literal["*"], ...] = Field(min_length=1)
    purpose: tuple[Purpose | Literal["*"], ...] = Field(min_length=1)
    requires: Requires = Requires()
    unless: Requires = Requires()
    confidence: Confidence
    source: str = Field(min_length=10)

    @model_validator(mode="after")
    def _shape(self) -> Rule:
        unknown = {*self.from_region, *self.to_region, *self.to_region_except} - region_names()
        if unknown:
            raise ValueError(f"there is no region set {sorted(unknown)}")
        return self._allow_shape() if self.effect == "allow" else self._deny_shape()

    def _allow_shape(self) -> Rule:
        if self.confidence == "low":
            raise ValueError("a rule with confidence low may deny, never allow")
        if "*" in (*self.artifact, *self.purpose) or ANY in self.from_region:
            raise ValueError("an allow rule names its artifacts, purposes and origins one by one")
        if NEVER_LEAVES & set(self.artifact):
            raise ValueError(f"no rule may allow {sorted(NEVER_LEAVES & set(self.artifact))}")
        if not self.unless.empty:
            raise ValueError("unless belongs to deny rules; an allow rule has requires")
        return self

    def _deny_shape(self) -> Rule:
        if not self.requires.empty or not self.house.limits_nothing:
            raise ValueError("requires and house limits belong to allow rules; a deny rule has unless")
        return self

    def concerns(self, artifact: str, purpose: str) -> bool:
        """True if both are in scope, `*` resolved."""
        return not {"*", artifact}.isdisjoint(self.artifact) and not {"*", purpose}.isdisjoint(self.purpose)


class Pack(Frozen):
    """The rules of one regime. `reviewer` is counsel by name, or `none`: then everything shown says DRAFT."""

    schema_: Literal["residency.law-pack/1"] = Field(alias="schema")
    id: str = Field(pattern=r"^[a-z]{2,20}$")
    title: str = Field(min_length=1)
    jurisdictions: tuple[str, ...] = Field(min_length=1)
    version: int = Field(ge=1)
    reviewer: str = Field(min_length=1)
    confidence: Confidence
    verified_on: str = Field(pattern=DAY)
    expires_on: str = Field(pattern=DAY)
    source: str = Field(min_length=10)
    not_covered: tuple[str, ...]
    rules: tuple[Rule, ...] = Field(min_length=1)
    _raw: bytes = PrivateAttr(default=b"")

    @field_validator("jurisdictions")
    @classmethod
    def _are_codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(re.fullmatch(CODE, code) is None for code in value):
            raise ValueError(f"jurisdictions are ISO 3166-1 codes, {CODE}")
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Pack:
        ids = [rule.id for rule in self.rules]
        if len(set(ids)) != len(ids) or any(not i.startswith(f"{self.id}.") for i in ids):
            raise ValueError(f"rule ids stand once and begin with {self.id}.")
        if {f"{self.id}.expired", f"{self.id}.default-deny"} & set(ids):
            raise ValueError("the ids expired and default-deny are the engine's")
        if date.fromisoformat(self.verified_on) >= date.fromisoformat(self.expires_on):
            raise ValueError("verified_on must come before expires_on")
        if self.draft and "high" in {self.confidence, *(rule.confidence for rule in self.rules)}:
            raise ValueError("confidence high needs a named reviewer")
        if not any(_denies_raw_data(rule) for rule in self.rules):
            raise ValueError(f"a pack must deny {sorted(NEVER_LEAVES)} from ANY to ANY for every purpose")
        return self

    @property
    def draft(self) -> bool:
        """True without a named reviewer."""
        return self.reviewer == "none"

    @property
    def digest(self) -> str:
        """SHA-256 of the file that this pack was read from."""
        return sha256_hex(self._raw)

    @property
    def raw(self) -> bytes:
        """The bytes of that file."""
        return self._raw

    def is_intact(self) -> bool:
        """True if the bytes behind `digest` say exactly what this object says."""
        return bool(self._raw) and load_pack(self._raw) == self


def _denies_raw_data(rule: Rule) -> bool:
    always = rule.effect == "deny" and rule.unless.empty and not rule.to_region_except
    everywhere = ANY in rule.from_region and ANY in rule.to_region
    return always and everywhere and all(rule.concerns(a, p) for a in NEVER_LEAVES for p in PURPOSES)


def load_pack(source: Path | bytes) -> Pack:
    """Read a pack. Raises InputError RSD-2005, RSD-3001 (YAML) or RSD-3002 (every mistake, with its field)."""
    raw = source if isinstance(source, bytes) else read_bytes(source, "a law pack")
    what = "law pack" if isinstance(source, bytes) else f"law pack {source.name}"
    pack = load_model(Pack, parse_yaml(raw, what), "RSD-3002", what)
    pack._raw = raw  # noqa: SLF001  the digest is of these bytes; only the loader sets them
    return pack


def pack_digest(source: Path | bytes) -> str:
    """SHA-256 of the pack's file bytes: what a signatory adopts. Raises InputError RSD-2005."""
    return sha256_hex(source if isinstance(source, bytes) else read_bytes(source, "a law pack"))


def builtin_packs() -> dict[str, Pack]:
    """The packs that come with the package, by id. None is in force until a site adopts its digest."""
    packs = [load_pack(path) for path in sorted(_FOLDER.glob("*.yaml"))]
    return {pack.id: pack for pack in packs}
