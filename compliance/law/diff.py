"""What another version of a pack means: rule by rule, and by the reference cases that it decides otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compliance.canonical import Json
from compliance.law.cases import CaseFile, run_cases
from compliance.law.pack import Pack
from compliance.law.regions import Regions


@dataclass(frozen=True)
class Change:
    """One rule (or the pack's head: its id) that is new, gone, or says something else in `fields`."""

    what: str
    kind: str  # new, gone, changed
    fields: tuple[tuple[str, Json, Json], ...]

    def lines(self) -> list[str]:
        """For people."""
        head = [f"{self.kind:8} {self.what}"]
        return head + [f"           {name}: {_shown(old)} -> {_shown(new)}" for name, old, new in self.fields]

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        rows = [{"field": name, "old": old, "new": new} for name, old, new in self.fields]
        return {"what": self.what, "kind": self.kind, "fields": rows}


@dataclass(frozen=True)
class Otherwise:
    """A reference case that the two versions decide differently."""

    case: str
    old: str
    new: str

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {"case": self.case, "old": self.old, "new": self.new}


def changes(old: Pack, new: Pack) -> tuple[Change, ...]:
    """The pack's head first, then every rule that differs, in the order of the new pack; rules that are gone last."""
    before, after = old.model_dump(mode="json", by_alias=True), new.model_dump(mode="json", by_alias=True)
    rules = ({r["id"]: r for r in before.pop("rules")}, {r["id"]: r for r in after.pop("rules")})
    order = [*rules[1], *(i for i in rules[0] if i not in rules[1])]
    found = [_change(new.id, before, after), *(_change(i, rules[0].get(i), rules[1].get(i)) for i in order)]
    return tuple(change for change in found if change is not None)


def _change(what: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Change | None:
    if old is None or new is None:
        whole = new or old or {}
        kind = "new" if old is None else "gone"
        return Change(what, kind, (("effect", *((None, whole["effect"]) if old is None else (whole["effect"], None))),))
    flat = _flat(old), _flat(new)
    names = dict.fromkeys((*flat[0], *flat[1]))
    fields = tuple((n, flat[0].get(n), flat[1].get(n)) for n in names if flat[0].get(n) != flat[1].get(n))
    return Change(what, "changed", fields) if fields else None


def _flat(value: dict[str, Any], at: str = "") -> dict[str, Json]:
    out: dict[str, Json] = {}
    for name, inner in value.items():
        out |= _flat(inner, f"{at}{name}.") if isinstance(inner, dict) else {f"{at}{name}": inner}
    return out


def _shown(value: Json) -> str:
    if value in (None, [], ""):
        return "nothing"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def decided_otherwise(
    files: Iterable[CaseFile], old: Pack, new: Pack, packs: Mapping[str, Pack], regions: Regions
) -> tuple[Otherwise, ...]:
    """The cases that concern the pack and come out otherwise, each version adopted in its turn."""
    files = tuple(files)
    before, after = (run_cases(files, {**packs, pack.id: pack}, regions) for pack in (old, new))
    out = []
    for one, other in zip(before, after, strict=True):
        first, second = one.outcome, other.outcome
        if first != second:
            out.append(Otherwise(one.case.id, first, second))
    return tuple(out)
