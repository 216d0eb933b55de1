"""Which entries of a log lose their text by retention. The choice only: `LogStore.compact` carries it out.

What is not known to be disposable stays: an entry that this software reads again, one of an open study, one that nobody
else has cosigned yet, and one whose floor has not passed, even by a regime that only may bind the site.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from compliance.clock import parse_time, rfc3339
from compliance.errors import UsageError
from compliance.law.retention import Kept, Limit
from compliance.law.vocabulary import RecordClass
from compliance.log.bodies import MOST_RANGES
from compliance.log.entry import Entry
from compliance.log.kinds import KIND_OF
from compliance.log.store import Compacted, LogStore

IN_USE: Final = "read again by this software, or of a study that is not closed here"
UNCOSIGNED: Final = "not cosigned by anybody yet"
TOO_YOUNG: Final = "its class is to be kept longer, or nothing asks to erase it"


@dataclass(frozen=True)
class Schedule:
    """From which date on one class goes, and by which limits."""

    record_class: RecordClass
    before: datetime
    policy: str


@dataclass(frozen=True)
class Plan:
    """What would go, and why the rest stays: reason -> number of entries."""

    parts: tuple[Compacted, ...]
    stays: Mapping[str, int]

    @property
    def entries(self) -> int:
        """How many texts would go."""
        return sum(last - first + 1 for part in self.parts for first, last in part.ranges)


def schedules(kept: Iterable[Kept], at: datetime, *, expired: bool) -> tuple[Schedule, ...]:
    """The classes that may go at all. A ceiling asks for it, or `expired`: whatever has passed its floor.

    The largest floor governs, also over a ceiling, and also one of a regime that may bind. A class without a floor
    goes by a ceiling alone.
    """
    found = []
    for row in kept:
        floors = [*row.floors, *(x for x in row.may if not x.most)]
        floor = max(floors, key=lambda x: x.days, default=None)
        asks = floor if expired and floor is not None else (row.ceilings[0] if row.ceilings else None)
        if asks is None:
            continue
        days = max(asks.days, floor.days if floor is not None else 0)
        found.append(Schedule(row.record_class, at - timedelta(days=days), _told(floor, asks)))
    return tuple(found)


def plan(log: LogStore, rows: Sequence[Schedule], law_set: str) -> Plan:
    """What `rows` let go of `log`. Raises what reading it raises."""
    by_class = {row.record_class: row for row in rows}
    cosigned = max(log.cosigned_sizes().values(), default=0)
    entries = log.entries()
    newest: dict[str, int] = {entry.kind: entry.index for entry in entries}
    last = {entry.study: entry.kind for entry in entries if entry.kind in {"join", "close"}}
    closed = {study for study, kind in last.items() if kind == "close"}  # and not joined again since
    stays: Counter[str] = Counter()
    goes: dict[RecordClass, list[int]] = {}
    for entry in entries:
        spec = KIND_OF[entry.kind]
        row = by_class.get(spec.record_class)
        if _needed(entry, closed, newest):
            stays[IN_USE] += 1
        elif entry.index >= cosigned:
            stays[UNCOSIGNED] += 1
        elif row is None or parse_time(entry.at) >= row.before:
            stays[TOO_YOUNG] += 1
        else:
            goes.setdefault(spec.record_class, []).append(entry.index)
    parts = [part for name, found in goes.items() for part in _parts(by_class[name], found, law_set)]
    return Plan(tuple(parts), dict(stays))


def check_moment(at: datetime, now: datetime, *, dry_run: bool) -> None:
    """What is to go is judged by the clock: a later time shows what would go then. Raises UsageError RSD-5064."""
    if at > now and not dry_run:
        raise UsageError(
            "RSD-5064",
            "texts do not go before their time",
            rule="retention is judged by this machine's clock",
            found=rfc3339(at),
            limit=f"{rfc3339(now)}, or --dry-run",
            next="add --dry-run to see what would go then",
        )


def _needed(entry: Entry, closed: set[str], newest: Mapping[str, int]) -> bool:
    needed = KIND_OF[entry.kind].needed
    study = entry.study or str(entry.body.get("study", ""))
    return (
        needed == "ever"
        or (needed == "study" and study != "" and study not in closed)
        or (needed == "newest" and newest[entry.kind] == entry.index)
    )


def _parts(row: Schedule, indices: Sequence[int], law_set: str) -> list[Compacted]:
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    some = (tuple(ranges[i : i + MOST_RANGES]) for i in range(0, len(ranges), MOST_RANGES))
    return [Compacted(row.record_class, rfc3339(row.before), part, row.policy, law_set) for part in some]


def _told(floor: Limit | None, asks: Limit) -> str:
    least = f"at least {floor.days} days by {floor.by}" if floor is not None else "no floor"
    most = f"at most {asks.days} days by {asks.by}" if asks is not floor else "nothing that is past its floor"
    return f"{least}; {most}"
