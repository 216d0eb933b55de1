"""The region sets written a second time, from the same decisions and lists and not from the file.

A slip in `regions.yaml` changes who counts as vouched for, and no rule shows it. Both writings must agree on every code
on every day on which either changes; who changes the file changes this too, and says why twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import TypeAlias

from compliance.law.regions import ANY, Regions

Period: TypeAlias = tuple[str, date, date | None]  # codes, first day, first day outside
_GDPR = date(2018, 5, 25)
_UNION = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
_ALONE = {  # one country each, since the GDPR: the first day that any pack looks back to
    "UK": "GB", "CH": "CH", "US": "US", "JP": "JP", "CN": "CN",
    "IN": "IN", "KR": "KR", "SG": "SG", "AU": "AU", "CA": "CA", "BR": "BR", "SA": "SA",
    "AE": "AE", "RU": "RU", "ZA": "ZA",
}  # fmt: skip
AGAIN: Mapping[str, tuple[Period, ...]] = {
    "EEA": (
        (_UNION, _GDPR, None),
        ("IS LI NO", date(2018, 7, 20), None),  # the Joint Committee's decision took the GDPR over
        ("GB", _GDPR, date(2021, 1, 1)),  # a member, then the transition
    ),
    "EU_ADEQUATE": (
        ("AD AR CA CH FO GG IL IM JE NZ UY", _GDPR, None),  # decisions under the Directive, kept by Art 45(9)
        ("JP", date(2019, 1, 23), None),
        ("GB", date(2021, 6, 28), date(2031, 12, 27)),
        ("KR", date(2021, 12, 17), None),
        ("US", date(2023, 7, 10), None),  # who is certified
        ("BR", date(2026, 1, 28), None),
    ),
    "UK_APPROVED": (
        (_UNION, date(2021, 1, 1), None),
        ("IS LI NO", date(2021, 1, 1), None),
        ("AD AR CH FO GG GI IL IM JE NZ UY", date(2021, 1, 1), None),
    ),
    "UK_APPROVED_PARTLY": (
        ("CA JP", date(2021, 1, 1), None),
        ("KR", date(2022, 12, 19), None),
        ("US", date(2023, 10, 12), None),  # the data bridge
    ),
    "CH_ADEQUATE": (
        (_UNION, date(2023, 9, 1), None),
        ("IS LI NO", date(2023, 9, 1), None),
        ("AD AR FO GG GI IL IM JE", date(2023, 9, 1), None),
    ),
    "CH_ADEQUATE_PARTLY": (
        ("CA GB", date(2023, 9, 1), None),
        ("US", date(2024, 9, 15), None),
    ),
    "JP_DESIGNATED": ((f"{_UNION} GB", date(2019, 1, 23), None),),
    "US_COUNTRY_OF_CONCERN": (
        ("CU IR KP RU VE", date(2025, 4, 8), None),
        ("CN HK MO", date(2025, 4, 8), None),  # 28 CFR 202.208 counts Hong Kong and Macau in
    ),
    **{name: ((code, _GDPR, None),) for name, code in _ALONE.items()},
}


def differences(regions: Regions) -> Iterator[tuple[date, str]]:
    """Each code, set and day on which the sets of `regions` and the second writing do not say the same."""
    for name in sorted(set(regions.sets) | set(AGAIN)):
        if name not in regions.sets or name not in AGAIN:
            where = "the file" if name in regions.sets else "the second writing"
            yield _GDPR, f"the set {name} stands in {where} only"
            continue
        for day in _days(regions, name):
            said, again = set(_said(regions, name, day)), set(_again(name, day))
            for code in sorted(said ^ again):
                where = "the file" if code in said else "the second writing"
                yield day, f"{code} is in {name} by {where} only"


def _days(regions: Regions, name: str) -> list[date]:
    """Every day on which one of the two changes; before the first of them nobody is in the set."""
    members = regions.sets[name].members
    told = {date.fromisoformat(day) for m in members for day in (m.since, m.until) if day}
    return sorted(told | {day for _, since, until in AGAIN[name] for day in (since, until) if day})


def _said(regions: Regions, name: str, day: date) -> Iterator[str]:
    """As the engine reads the file."""
    listed = {code for member in regions.sets[name].members for code in member.codes}
    listed |= {code for codes, _, _ in AGAIN[name] for code in codes.split()}
    return (code for code in listed if name in regions.of(code, day) - {ANY})


def _again(name: str, day: date) -> Iterator[str]:
    for codes, since, until in AGAIN[name]:
        if since <= day and (until is None or day < until):
            yield from codes.split()
