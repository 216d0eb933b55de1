"""Dated sets of jurisdictions: which country was in which set at which time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import sha256_hex
from compliance.errors import InputError
from compliance.files import read_bytes
from compliance.law.countries import COUNTRIES
from compliance.law.fields import Day
from compliance.law.strict_yaml import MOST_BYTES, load_strict
from compliance.law.vocabulary import Confidence
from compliance.training_spec import Frozen
from compliance.validation import Mistake

ANY = "ANY"  # every jurisdiction
COVERED_PERSON = "COVERED_PERSON"  # a party that is a covered person (28 CFR 202.211), wherever it is
CODE = r"^[A-Z]{2}$"
_PSEUDO = frozenset({ANY, COVERED_PERSON})
_FILE = Path(__file__).with_name("regions.yaml")


class Membership(Frozen):
    """`codes` belong to the set from `since` (first day, 00:00 UTC) until `until` (first day outside), if any."""

    codes: tuple[str, ...] = Field(min_length=1)
    since: Day
    until: Day | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Membership:
        if self.until is not None and self.until <= self.since:
            raise ValueError("until must come after since")
        return self

    def holds(self, code: str, day: str) -> bool:
        """True if `code` is listed and `day` (YYYY-MM-DD) lies in the period."""
        return code in self.codes and self.since <= day and (self.until is None or day < self.until)

    def overlaps(self, other: Membership) -> bool:
        """True if some day lies in both periods."""
        return (self.until is None or other.since < self.until) and (other.until is None or self.since < other.until)


class Region(Frozen):
    """One named set, with where it was read."""

    title: str
    confidence: Confidence
    source: str
    members: tuple[Membership, ...] = Field(min_length=1)


class RegionFile(Frozen):
    """The file of sets."""

    schema_: Literal["residency.regions/1"] = Field(alias="schema")
    regions: dict[str, Region]


class Regions:
    """The sets of one file, by name; `digest` and `raw` are of exactly that file. Immutable; safe to share."""

    def __init__(self, file: RegionFile, raw: bytes) -> None:
        self.sets: Mapping[str, Region] = dict(file.regions)
        self.raw = raw
        self.digest = sha256_hex(raw)
        self.names = frozenset(self.sets) | _PSEUDO  # every name that a rule may use
        self._found: dict[tuple[str, date], frozenset[str]] = {}

    def of(self, code: str, day: date) -> frozenset[str]:
        """All sets that `code` was in on `day`; `ANY` always."""
        found = self._found.get((code, day))
        if found is None:
            text = day.isoformat()
            inside = {n for n, r in self.sets.items() if any(m.holds(code, text) for m in r.members)}
            found = self._found[code, day] = frozenset(inside | {ANY})
        return found

    def members(self, name: str, day: date) -> tuple[str, ...]:
        """The codes that were in the set `name` on `day`, in order; of `ANY` every code. Raises InputError RSD-3003."""
        if name not in self.names:
            raise InputError(
                "RSD-3003", f"there is no region set {name}", found=name, limit=", ".join(sorted(self.names))
            )
        return tuple(code for code in COUNTRIES if name in self.of(code, day))


def load_regions(source: Path | bytes | None = None) -> Regions:
    """Read a file of sets; None: the one that comes with the package, read once.

    Raises InputError RSD-2005, RSD-3001 (YAML) or RSD-3002 (every mistake, with its line).
    """
    if source is None:
        return _builtin()
    raw = source if isinstance(source, bytes) else read_bytes(source, "the region sets", MOST_BYTES)
    what = "region sets" if isinstance(source, bytes) else f"region sets {source.name}"
    return Regions(load_strict(RegionFile, raw, what, _mistakes), raw)


@lru_cache(maxsize=1)
def _builtin() -> Regions:
    return load_regions(_FILE)


def _mistakes(file: RegionFile) -> Iterator[Mistake]:
    for name, region in file.regions.items():
        field = f"regions.{name}"
        if name in _PSEUDO:
            yield Mistake(field, "this name is the engine's")
        seen: dict[str, list[Membership]] = {}
        for i, member in enumerate(region.members):
            for j, code in enumerate(member.codes):
                place = f"{field}.members[{i}].codes[{j}]"
                if code not in COUNTRIES:
                    yield Mistake(place, f"{code} is no country code of ISO 3166-1")
                if any(member.overlaps(earlier) for earlier in seen.get(code, [])):
                    yield Mistake(place, f"{code} is a member already in a part of this period")
                seen.setdefault(code, []).append(member)
