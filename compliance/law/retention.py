"""How long a site keeps what kind of record: floors and ceilings of the regimes that bind it, and of its own schedule.

Conflicts are shown, never resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from compliance.canonical import Json
from compliance.law.pack import Pack, Retention
from compliance.law.vocabulary import RECORD_CLASSES, RecordClass

OWN = "the site's own schedule"


def joined(*parts: str) -> str:
    """The parts that are not empty, each a sentence."""
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


@dataclass(frozen=True)
class Limit:
    """One limit on one class of record. `by`: a pack's id, or OWN. `may`: why it may not bind; empty if it binds."""

    by: str
    most: bool
    days: int
    row: Retention | None = None
    may: str = ""

    def shown(self) -> str:
        """Days, regime, citation, what the reading is worth, and the note."""
        told = f"{'at most' if self.most else 'at least'} {self.days} days by {self.by}"
        if self.row is not None:
            cited = f"{'; '.join(self.row.law)}; " if self.row.law else ""
            told += f" ({cited}confidence {self.row.confidence}, {self.row.source_kind})"
        return joined(told, self.may, self.row.note if self.row else "")

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        row = self.row
        return {
            "pack": self.by,
            "days": self.days,
            "law": list(row.law) if row else [],
            "confidence": row.confidence if row else "",
            "source_kind": row.source_kind if row else "",
            "note": row.note if row else "",
            "may_bind": self.may,
        }


@dataclass(frozen=True)
class Kept:
    """One class of record: the largest floor and the smallest ceiling come first. `may` governs nothing."""

    record_class: RecordClass
    floors: tuple[Limit, ...]
    ceilings: tuple[Limit, ...]
    may: tuple[Limit, ...]

    @property
    def conflict(self) -> str:
        """Says that the governing floor lies above the governing ceiling; empty if it does not."""
        if not self.floors or not self.ceilings or self.floors[0].days <= self.ceilings[0].days:
            return ""
        least, most = self.floors[0], self.ceilings[0]
        return f"{least.by} asks for at least {least.days} days, {most.by} for at most {most.days}"

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "class": self.record_class,
            "floors": [limit.as_json() for limit in self.floors],
            "ceilings": [limit.as_json() for limit in self.ceilings],
            "may_bind": [{**limit.as_json(), "most": limit.most} for limit in self.may],
            "conflict": self.conflict,
        }


def retention(
    packs: Iterable[Pack], day: str, *, adopted: bool, own: Iterable[tuple[str, int]] = ()
) -> tuple[Kept, ...]:
    """Every record class, with all limits of the packs on `day` (YYYY-MM-DD): floors falling, ceilings rising.

    `own`: the site's own ceilings, class and days. `adopted`: a signatory chose the packs, so each of them binds;
    else one with `binds` declared may (its `binds_note` says whom).
    """
    rows = [(name, limit) for pack in packs for name, limit in _limits(pack, day, adopted)]
    rows += [(name, Limit(OWN, True, days)) for name, days in own]
    return tuple(_kept(name, [limit for other, limit in rows if other == name]) for name in RECORD_CLASSES)


def _limits(pack: Pack, day: str, adopted: bool) -> Iterator[tuple[str, Limit]]:
    whom = f"If {pack.id} binds the site" if pack.binds == "declared" and not adopted else ""
    for row in pack.retention:
        since = f"From {row.since}" if row.since is not None and day < row.since else ""
        may = joined(since, row.who, whom) if since or row.who or whom else ""
        days = row.floor_days if row.ceiling_days is None else row.ceiling_days
        assert days is not None  # noqa: S101 - a row has exactly one of them
        for name in row.classes:
            yield name, Limit(pack.id, row.ceiling_days is not None, days, row, may)


def _kept(name: RecordClass, limits: list[Limit]) -> Kept:
    binding = [limit for limit in limits if not limit.may]
    floors = sorted((x for x in binding if not x.most), key=lambda x: (-x.days, x.by))
    ceilings = sorted((x for x in binding if x.most), key=lambda x: (x.days, x.by))
    may = sorted((x for x in limits if x.may), key=lambda x: (x.most, -x.days, x.by))
    return Kept(name, tuple(floors), tuple(ceilings), tuple(may))
