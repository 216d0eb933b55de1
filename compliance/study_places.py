"""Who can reach what a study sends: access from elsewhere, covered persons, and the groups that are summed first."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import Field

from compliance.canonical import Json
from compliance.law.countries import COUNTRIES
from compliance.training_spec import Frozen
from compliance.trust.root import NAME
from compliance.validation import Mistake

CODE = r"^[A-Z]{2}$"
Access: TypeAlias = tuple[Annotated[str, Field(pattern=CODE)], ...]


class RegionGroup(Frozen):
    """Sites whose updates leave the group only as one sum."""

    name: str = Field(pattern=NAME)
    sites: tuple[str, ...] = Field(min_length=1)


def place_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    """Rules between the fields of a raw study about places and groups; other shapes are the schema's to report."""
    rows = [("operator", raw.get("operator")), *((f"sites[{i}]", site) for i, site in _rows(raw, "sites"))]
    places = [m for field, row in rows if isinstance(row, dict) for m in _access_mistakes(field, row)]
    return [*places, *_category_mistakes(raw), *_group_mistakes(raw)]


def _access_mistakes(field: str, row: dict[str, Json]) -> list[Mistake]:
    out: list[Mistake] = []
    seen: list[Json] = [row.get("jurisdiction")]
    if isinstance(seen[0], str) and re.match(CODE, seen[0]) and seen[0] not in COUNTRIES:
        out.append(Mistake(f"{field}.jurisdiction", f"{seen[0]} is no country of ISO 3166-1"))
    for i, code in enumerate(_listed(row, "access")):
        where = f"{field}.access[{i}]"
        if code == seen[0]:
            out.append(Mistake(where, f"{code} is its own jurisdiction: list only others"))
        elif code in seen:
            out.append(Mistake(where, f"{code} is listed twice"))
        elif isinstance(code, str) and code not in COUNTRIES:
            out.append(Mistake(where, f"{code} is no country of ISO 3166-1"))
        seen.append(code)
    return out


def _category_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    named = _listed(raw, "data_categories")
    again = [i for i, category in enumerate(named) if category in named[:i]]
    return [Mistake(f"data_categories[{i}]", f"{named[i]} is listed twice") for i in again]


def _group_mistakes(raw: dict[str, Json]) -> list[Mistake]:
    """A group is of two or more sites of the study, and no site is in two."""
    known = [site.get("name") for _, site in _rows(raw, "sites")]
    out: list[Mistake] = []
    names: list[Json] = []
    home: dict[str, Json] = {}
    for i, group in _rows(raw, "groups"):
        name, sites = group.get("name"), _listed(group, "sites")
        if name in names:
            out.append(Mistake(f"groups[{i}].name", f"{name} is listed twice"))
        names.append(name)
        for j, site in enumerate(sites):
            where = f"groups[{i}].sites[{j}]"
            if site not in known:
                out.append(Mistake(where, f"{site} is no site of the study"))
            elif str(site) in home:
                out.append(Mistake(where, f"{site} is in group {home[str(site)]} already"))
            home.setdefault(str(site), name)
        if len(sites) == 1:
            out.append(Mistake(f"groups[{i}].sites", "the sum of one site is its own update: name two or more"))
    return out


def _rows(raw: dict[str, Json], field: str) -> list[tuple[int, dict[str, Json]]]:
    return [(i, row) for i, row in enumerate(_listed(raw, field)) if isinstance(row, dict)]


def _listed(row: dict[str, Json], field: str) -> list[Json]:
    found = row.get(field)
    return list(found) if isinstance(found, list | tuple) else []
