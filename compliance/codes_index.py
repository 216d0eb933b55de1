"""What each error code means: the YAML files beside this package, as one index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from compliance.errors import InternalBug, UsageError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is there: ten times as fast


@dataclass(frozen=True)
class Meaning:
    """One code: its title, what happened, what to do. `area` is the file that it stands in."""

    code: str
    title: str
    meaning: str
    next: str
    area: str


@lru_cache(maxsize=1)
def index() -> dict[str, Meaning]:
    """All codes in order. Raises InternalBug RSD-7003 if one is described twice or badly: a fault of this package."""
    found: dict[str, Meaning] = {}
    folder = resources.files("compliance") / "codes"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml"):
            continue
        area = file.name.removesuffix(".yaml")
        rows = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
        for code, row in (rows or {}).items():
            words = isinstance(row, dict) and all(isinstance(v, str) and v for v in row.values())
            if code in found or not words or set(row) != {"title", "meaning", "next"}:
                raise InternalBug("RSD-7003", f"{code} in {file.name} is described twice or badly")
            found[code] = Meaning(code, row["title"], row["meaning"], row["next"], area)
    return dict(sorted(found.items()))


def explain(code: str) -> Meaning:
    """The meaning of `code`, in any case. Raises UsageError RSD-2010 for a code that does not exist."""
    codes = index()
    if code.upper() not in codes:
        raise UsageError(
            "RSD-2010",
            f"there is no code {code}",
            rule="codes are RSD- and four digits",
            found=code,
            limit=f"{len(codes)} codes, {min(codes)} to {max(codes)}",
            next="residency explain lists them all",
        )
    return codes[code.upper()]
