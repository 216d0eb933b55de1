"""Every slip of one code or one day in the file of region sets, one at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from compliance.canonical import Json
from compliance.errors import InputError
from compliance.law.regions import Regions, load_regions
from compliance.law.strict_yaml import parse_yaml

STRANGERS = ("RS", "RU", "CN", "CU", "IN", "GB", "US")  # tried in every set in which they are not
_FILE: Json = parse_yaml(load_regions().raw, "the region sets").value


@dataclass(frozen=True)
class RegionMutant:
    """The file of sets with one thing changed."""

    told: str
    file: Json

    def load(self) -> Regions | None:
        """The changed sets; None if the loader refuses them."""
        try:
            return load_regions(json.dumps(self.file).encode())
        except InputError:
            return None


def region_mutants() -> Iterator[RegionMutant]:
    """All of them."""
    for name, region in _FILE["regions"].items():
        yield _changed(f"{name} dropped", partial(_drop, name))
        for i, member in enumerate(region["members"]):
            listed = {code for m in region["members"] for code in m["codes"]}
            for code in member["codes"]:
                yield _member(f"{name} without {code}", name, i, codes=[c for c in member["codes"] if c != code])
            for code in (code for code in STRANGERS if code not in listed):
                yield _member(f"{name} with {code}", name, i, codes=[*member["codes"], code])
            for field in ("since", "until"):
                for days in (-1, 1, 365):
                    if field in member:
                        day = (date.fromisoformat(member[field]) + timedelta(days=days)).isoformat()
                        yield _member(f"{name} {member['codes'][0]} {field} {day}", name, i, **{field: day})
            ends = "2027-01-01" if "until" not in member else None
            yield _member(f"{name} {member['codes'][0]} until {ends}", name, i, until=ends)


def _drop(name: str, regions: dict[str, Json]) -> None:
    del regions[name]


def _member(told: str, name: str, place: int, **changed: Json) -> RegionMutant:
    def change(regions: dict[str, Json]) -> None:
        member = regions[name]["members"][place] | changed
        regions[name]["members"][place] = {k: v for k, v in member.items() if v is not None}
        if not member["codes"]:
            del regions[name]["members"][place]

    return _changed(told, change)


def _changed(told: str, change: Callable[[dict[str, Json]], object]) -> RegionMutant:
    file = copy.deepcopy(_FILE)
    change(file["regions"])
    return RegionMutant(told, file)
