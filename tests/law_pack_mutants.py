"""Every field of every rule of a pack dropped, flipped or misspelt, one at a time; and who notices."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from compliance.canonical import Json
from compliance.errors import InputError
from compliance.law.cases import CaseFile, noon, run_cases
from compliance.law.decide import Engine
from compliance.law.pack import Pack, builtin_packs, load_pack
from compliance.law.regions import load_regions
from compliance.law.strict_yaml import parse_yaml

PACKS = builtin_packs()


@dataclass(frozen=True)
class Mutant:
    """A pack with one field of one rule changed, and how."""

    pack: Pack
    rule: int
    field: str
    how: str
    new: Json

    @property
    def told(self) -> str:
        """Rule, field and change."""
        return f"{self.pack.rules[self.rule].id}.{self.field} {self.how}: {str(self.new)[:60]}"

    @property
    def raw(self) -> bytes:
        """The file, written again as JSON, which is YAML."""
        value = copy.deepcopy(_value(self.pack.raw))
        _put(value["rules"][self.rule], self.field, self.how, self.new)
        return json.dumps(value, ensure_ascii=False).encode()


@lru_cache
def _value(raw: bytes) -> Json:
    return parse_yaml(raw, "a law pack").value


def mutants(pack: Pack) -> Iterator[Mutant]:
    """All of one pack."""
    for number, rule in enumerate(_value(pack.raw)["rules"]):
        for field, old in rule.items():
            for how, new in _changes(field, old):
                yield Mutant(pack, number, field, how, new)


def _changes(field: str, old: Json) -> Iterator[tuple[str, Json]]:
    yield "dropped", None
    yield "misspelt key", f"{field[:-1]}"
    if isinstance(old, str):
        yield "misspelt", f"{old[:-2]}{old[-1]}{old[-2]}" if len(old) > 1 and old[-1] != old[-2] else f"{old}x"
        flipped = {"deny": "allow", "allow": "deny", "low": "medium", "medium": "low"}.get(old)
        yield from [("flipped", flipped)] if flipped else []
    if isinstance(old, list):
        yield from (("without one", old[:i] + old[i + 1 :]) for i in range(len(old)))
        yield from (("misspelt one", [*old[:i], f"{one}x", *old[i + 1 :]]) for i, one in enumerate(old))
        yield from [("anywhere", ["ANY"])] if field in {"from_region", "to_region", "to_region_except"} else []
    if isinstance(old, dict):
        for key, inner in old.items():
            yield f"{key} dropped", {k: v for k, v in old.items() if k != key}
            yield f"{key} misspelt", {(f"{k}x" if k == key else k): v for k, v in old.items()}
            if isinstance(inner, int) and not isinstance(inner, bool):
                yield f"{key} raised", {**old, key: inner * 10}
                yield f"{key} lowered", {**old, key: max(inner // 10, 1)}


def _put(rule: dict[str, Json], field: str, how: str, new: Json) -> None:
    if how == "dropped":
        del rule[field]
    elif how == "misspelt key":
        rule[str(new)] = rule.pop(field)
    else:
        rule[field] = new


def noticed(mutant: Mutant, files: tuple[CaseFile, ...]) -> tuple[str, Pack | None]:
    """`refused`, `case ID`, or `digest`: only that the adopted file is another one. And the mutant, if it loads.

    Whatever else sees it, an engine whose site adopted the true file must deny each case by the changed one.
    """
    pack = mutant.pack
    try:
        changed = load_pack(mutant.raw)
    except InputError:
        return "refused", None
    engine = Engine({pack.id: changed}, {pack.id: pack.digest})
    rules = {engine.decide(c.transfer.transfer(c.at or noon([pack]))).rule for f in files for c in f.cases}
    if rules != {"engine.pack-changed"}:
        return f"UNNOTICED: {rules}", changed
    results = run_cases(files, {**PACKS, pack.id: changed}, load_regions())
    wrong = next((r for r in results if not r.passed), None)
    return (f"case {wrong.case.id}" if wrong else "digest"), changed


def sample(seed: int, count: int) -> list[Mutant]:
    """Some of all, from every pack in turn."""
    rng = random.Random(seed)  # noqa: S311 - which mutants are tried
    every = [list(mutants(pack)) for pack in PACKS.values()]
    return [rng.choice(every[i % len(every)]) for i in range(count)]
