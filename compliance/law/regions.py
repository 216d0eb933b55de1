"""Dated sets of jurisdictions: which country was in which set at which time."""

from __future__ import annotations

from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import sha256_hex
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.law.strict_yaml import parse_yaml
from compliance.law.vocabulary import Confidence
from compliance.training_spec import Frozen
from compliance.validation import load_model

ANY = "ANY"  # every jurisdiction
CODE = r"^[A-Z]{2}$"
DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_FILE = Path(__file__).with_name("regions.yaml")


class Membership(Frozen):
    """`codes` belong to the set from `since` (first day, 00:00 UTC) until `until` (first day outside), if any."""

    codes: tuple[str, ...] = Field(min_length=1)
    since: str = Field(pattern=DAY)
    until: str | None = Field(default=None, pattern=DAY)

    @model_validator(mode="after")
    def _dates_exist(self) -> Membership:
        if self.until is not None and date.fromisoformat(self.until) <= date.fromisoformat(self.since):
            raise ValueError("until must come after since")
        date.fromisoformat(self.since)
        return self

    def holds(self, code: str, day: str) -> bool:
        """True if `code` is listed and `day` (YYYY-MM-DD) lies in the period."""
        return code in self.codes and self.since <= day and (self.until is None or day < self.until)


class Region(Frozen):
    """One named set, with where it was read."""

    title: str
    confidence: Confidence
    source: str
    members: tuple[Membership, ...] = Field(min_length=1)


class Regions(Frozen):
    """The file of sets."""

    schema_: Literal["residency.regions/1"] = Field(alias="schema")
    regions: dict[str, Region]


@lru_cache(maxsize=1)
def load_regions() -> tuple[Regions, str]:
    """The sets and the SHA-256 of their file. Raises InputError RSD-3001 or RSD-3002."""
    raw = read_bytes(_FILE, "the region sets")
    return load_model(Regions, parse_yaml(raw, "regions.yaml"), "RSD-3002", "regions.yaml"), sha256_hex(raw)


def region_names() -> frozenset[str]:
    """Every name that a rule may use, `ANY` included."""
    return frozenset(load_regions()[0].regions) | {ANY}


def in_region(code: str, name: str, at: datetime) -> bool:
    """Was jurisdiction `code` (ISO 3166-1 alpha-2) in the set `name` at `at`? Raises InputError RSD-3003 for no set."""
    if name not in region_names():
        raise InputError(
            "RSD-3003", f"there is no region set {name}", found=name, limit=", ".join(sorted(region_names()))
        )
    return name in regions_of(code, at.date())


@lru_cache(maxsize=8192)
def regions_of(code: str, day: date) -> frozenset[str]:
    """All sets that `code` was in on `day`; `ANY` always."""
    text = day.isoformat()
    sets = load_regions()[0].regions
    return frozenset(n for n, r in sets.items() if any(m.holds(code, text) for m in r.members)) | {ANY}
