"""Random transfers near the edges of packs, and packs with changes. From a seed: a failure can be repeated."""

from __future__ import annotations

import copy
import random
from functools import lru_cache
from typing import get_args

from compliance.canonical import Json
from compliance.law.model import Count, Document, Guarantees, Party, Transfer
from compliance.law.pack import Pack
from compliance.law.rule import Limits
from compliance.law.vocabulary import (
    ARTIFACTS,
    CATEGORIES,
    COUNTERS,
    DOCUMENT_KINDS,
    NEVER_ALLOWED,
    PURPOSES,
    RECORD_CLASSES,
    CounterName,
)
from compliance.validation import try_model

CODES = ("DE", "FR", "NO", "GB", "CH", "US", "JP", "CN", "HK", "RU", "KR", "IN", "CA", "BR", "MO", "AE")
NAMES = ("server", "clinic-a", "clinic-b")
DAYS = ("2026-11-22T12:00:00Z",) * 6 + (
    *("2026-11-21T23:59:59Z", "2026-11-22T00:00:00Z", "2026-12-31T23:59:59Z"),
    *("2027-06-29T23:59:59Z", "2027-06-30T00:00:00Z"),
)
REGIONS = ("ANY", "EEA", "EU_ADEQUATE", "UK", "CH", "JP", "US", "US_COUNTRY_OF_CONCERN", "CN", "COVERED_PERSON")
_EDGES = (100, 101, 1_000, 1_001, 10_000, 10_001, 100_000, 10**9)


def source(seed: int) -> random.Random:
    """A generator of its own."""
    return random.Random(seed)  # noqa: S311 - which cases are tried, nothing secret


def transfer(rng: random.Random, exporters: tuple[str, ...] = CODES) -> Transfer:
    """Half of them with nearly everything in order, so that allows are common enough to be broken."""
    generous = rng.random() < 0.6
    names = rng.sample(NAMES, 2)
    recipient = _party(rng, names[0])
    onward = (_party(rng, names[1]),) if rng.random() < 0.2 else ()
    known = [p.name for p in (recipient, *onward)]
    return Transfer(
        artifact=rng.choice(sorted(set(ARTIFACTS) - NEVER_ALLOWED) if generous else ARTIFACTS),
        exporter=Party(name="exporter", jurisdiction=rng.choice(exporters)),
        recipient=recipient,
        onward=onward,
        purpose="scientific_research" if generous or rng.random() < 0.5 else rng.choice(PURPOSES),
        study="cd" * 32,
        documents=_papers(rng, known, generous),
        guarantees=_guarantees(rng, generous),
        categories=tuple(rng.sample(CATEGORIES, 1 if rng.random() < 0.8 else 2)),
        counts=_counts(rng, known),
        at=rng.choice(DAYS),
    )


def _party(rng: random.Random, name: str) -> Party:
    code = rng.choice(CODES)
    access = tuple({rng.choice(CODES)} - {code}) if rng.random() < 0.1 else ()
    return Party(name=name, jurisdiction=code, access=access, covered_person=rng.random() < 0.05)


def _papers(rng: random.Random, names: list[str], generous: bool) -> tuple[Document, ...]:
    left_out = rng.sample(DOCUMENT_KINDS, rng.choice((0, 0, 1, 1, 2, 6)) if generous else 20)
    kinds = [kind for kind in DOCUMENT_KINDS if kind not in left_out]
    return tuple(
        _paper(
            kind,
            "2030-01-01" if rng.random() < 0.97 else rng.choice(("2026-11-22", "2026-11-22T12:00:00Z")),
            "*" if rng.random() < 0.97 else rng.choice(CODES),
            name,
        )
        for kind in kinds
        for name in names
    )


@lru_cache(maxsize=10_000)
def _paper(kind: str, expires: str, to: str, name: str) -> Document:
    return Document(kind=kind, sha256="ab" * 32, expires=expires, to_jurisdiction=to, covers=name)


def _guarantees(rng: random.Random, generous: bool) -> Guarantees:
    if generous and rng.random() < 0.6:
        return Guarantees(
            unit="patient", epsilon_milli=1, inverse_delta=10**9, min_sites=100, min_patients=10**6,
            secure_aggregation=True, secure_aggregation_threshold=100, group_sum=True, keys_in=("DE",),
        )  # fmt: skip
    return Guarantees(
        unit=rng.choice(("none", "record", "patient")),
        epsilon_milli=rng.choice((None, 0, 1, 2_999, 3_000, 3_001, 7_999, 8_000, 8_001)),
        inverse_delta=rng.choice((None, 1, 99_999, 100_000, 10**6)),
        min_sites=rng.choice((0, 1, 2, 3, 10)),
        min_patients=rng.choice((0, 1, 2, 10, 11, 1000)),
        secure_aggregation=rng.random() < 0.5,
        secure_aggregation_threshold=rng.choice((0, 1, 2, 3, 10)),
        group_sum=rng.random() < 0.3,
        keys_in=tuple(rng.sample(CODES, rng.choice((0, 1, 2)))),
    )


def _counts(rng: random.Random, names: list[str]) -> tuple[Count, ...]:
    return tuple(
        Count(
            counter=counter,
            recipient=rng.choice((*names, "*")),
            at_most=rng.choice(_EDGES),
            categories=tuple(rng.sample(CATEGORIES, rng.choice((1, 1, 2)))),
        )
        for counter in get_args(CounterName)
        if rng.random() < 0.7
    )


_LISTS: dict[str, tuple[str, ...]] = {
    "artifact": ARTIFACTS,
    "purpose": PURPOSES,
    "category": CATEGORIES,
    "from_region": REGIONS[1:-1],
    "to_region": REGIONS,
    "to_region_except": REGIONS[1:-1],
    "retention": RECORD_CLASSES,
}
_NUMBERS = tuple(name for name in Limits.model_fields if name.endswith(("_at_most", "_at_least")))


def changed_pack(pack: Pack, rng: random.Random, most: int = 4) -> Pack | None:
    """The pack with up to `most` changes to its rules; None if no such pack may be loaded."""
    raw: dict[str, Json] = pack.model_dump(mode="json", by_alias=True, exclude_none=True)
    raw = copy.deepcopy(raw)
    for _ in range(rng.randint(1, most)):
        _change(rng.choice(raw["rules"]), rng)
    return try_model(Pack, raw)[1]


def _change(rule: dict[str, Json], rng: random.Random) -> None:
    field = rng.choice(
        (*_LISTS, "papers", "any_of", "house", "house", "guarantees", "over", "verified_on", "expires_on")
    )
    if field in _LISTS:
        rule[field] = sorted({*_some(rule.get(field, []), rng), *rng.sample(_LISTS[field], rng.choice((0, 1, 2)))})
    elif field == "over":
        rule["over"] = {"counter": rng.choice(COUNTERS), "above": rng.choice((0, 100, 1_000, 10_000))}
    elif field == "expires_on":
        rule["expires_on"] = rng.choice(("2026-12-31", "2027-06-29"))
    elif field == "verified_on":
        rule["verified_on"] = rng.choice(("2026-11-22", "2026-11-23", "2026-12-31"))
    elif field == "house":
        rule["house"] = {**rule.get("house", {}), **_limits(rng), "documents": rng.sample(DOCUMENT_KINDS, 1)}
    else:
        part = rule.setdefault("requires" if rule["effect"] == "allow" else "unless", {})
        if field == "guarantees":
            part["guarantees"] = _limits(rng)
        elif field == "papers":
            part["documents"] = rng.sample(DOCUMENT_KINDS, rng.choice((0, 1, 2)))
        else:
            part["any_of"] = [rng.sample(DOCUMENT_KINDS, rng.choice((1, 2))) for _ in range(rng.choice((1, 2)))]


def _some(values: list[Json], rng: random.Random) -> list[Json]:
    return [value for value in values if rng.random() < 0.8]


def _limits(rng: random.Random) -> dict[str, Json]:
    number: dict[str, Json] = {rng.choice(_NUMBERS): rng.choice((2, 3, 10, 3_000, 100_000))}
    more: list[dict[str, Json]] = [
        {"unit": ["patient"]},
        {"secure_aggregation": True},
        {"group_sum": True},
        {"keys_within": rng.sample(("EEA", "UK", "CH"), 2)},
        {},
    ]
    return number | rng.choice(more)
