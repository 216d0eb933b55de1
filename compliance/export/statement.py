"""What an export says of itself: which log, up to where, what was asked for, which files, made when and for whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from compliance.canonical import Json, canonical, sha256_hex
from compliance.clock import parse_time, time_or_none
from compliance.law.model import Party
from compliance.law.vocabulary import RecordClass
from compliance.log.entry import Entry, Kind
from compliance.study import SHA256
from compliance.training_spec import Frozen

SCHEMA: Final = "residency.export/1"
STATEMENT: Final = "export.json"
LEAVES: Final = "leaf-hashes.txt"
_MOST_INDEX = (1 << 53) - 1

FormatName = Literal["jsonl", "csv", "fhir"]
Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]  # first and last index


class Selection(Frozen):
    """What was asked for: entries of `study` (empty: of all and of none), of `kinds` (empty: of all), at or after
    `since` and before `until` (empty: no bound)."""

    study: str = Field(default="", pattern=r"^(?:[0-9a-f]{64})?$")
    kinds: tuple[Kind, ...] = ()
    since: str = ""
    until: str = ""

    @model_validator(mode="after")
    def _in_one_form(self) -> Self:
        if list(self.kinds) != sorted(set(self.kinds)):
            raise ValueError("kinds are not in order, or one stands twice")
        if any(t and time_or_none(t) is None for t in (self.since, self.until)):
            raise ValueError("since or until is no UTC time")
        return self

    def takes(self, entry: Entry) -> bool:
        """Whether the entry was asked for."""
        return (
            (not self.study or entry.study == self.study)
            and (not self.kinds or entry.kind in self.kinds)
            and (not self.since or parse_time(entry.at) >= parse_time(self.since))
            and (not self.until or parse_time(entry.at) < parse_time(self.until))
        )

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical form."""
        return sha256_hex(canonical(self.model_dump(mode="json")))

    def words(self) -> str:
        """For people."""
        said = (
            f"study {self.study[:16]}" if self.study else "",
            f"kinds {', '.join(self.kinds)}" if self.kinds else "",
            f"since {self.since}" if self.since else "",
            f"until {self.until}" if self.until else "",
        )
        return "; ".join(filter(None, said)) or "every entry"


class FileRecord(Frozen):
    """One file beside the statement."""

    name: str = Field(pattern=r"^[a-z][a-z.-]{0,62}$")
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=0)


class Expired(Frozen):
    """Entries whose text the log no longer holds, by its retention: their leaf hashes alone are exported."""

    record_class: RecordClass
    ranges: tuple[Range, ...] = Field(min_length=1)


class Statement(Frozen):
    """export.json. `earlier`: smaller checkpoints with the cosignatures of others. `ranges`: which entries are in it.

    `to`: for whom it was made, if it leaves the house; `decision` is the entry that allowed it and `logged` the one
    that records this export; both None if nothing was logged.
    """

    schema_: Literal["residency.export/1"] = Field(alias="schema")
    origin: str
    size: int = Field(ge=0, le=_MOST_INDEX)
    root: str = Field(pattern=SHA256)
    checkpoint: str
    earlier: tuple[str, ...]
    selection: Selection
    format: FormatName
    version: Literal[1]
    entries: int = Field(ge=0)
    ranges: tuple[Range, ...]
    expired: tuple[Expired, ...]
    files: tuple[FileRecord, ...] = Field(min_length=2, max_length=2)
    created: str
    software: str = Field(pattern=r"^[0-9a-zA-Z.+-]{1,40}$")
    to: Party | None
    decision: int | None = Field(ge=0)
    logged: int | None = Field(ge=0)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.entries != sum(last - first + 1 for first, last in self.ranges):
            raise ValueError("the number of entries is not that of their indices")
        for ranges in (self.ranges, *(e.ranges for e in self.expired)):
            if not _ascending(ranges, self.size):
                raise ValueError("indices do not ascend below the size of the log")
        if time_or_none(self.created) is None:
            raise ValueError("created is no UTC time")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, as it is signed."""
        return self.model_dump(mode="json", by_alias=True)

    def indices(self) -> list[int]:
        """Which entries are in the export, in order."""
        return list(spread(self.ranges))

    def expired_classes(self) -> dict[int, RecordClass]:
        """Index -> class, of the entries that had expired when the export was made."""
        return {i: e.record_class for e in self.expired for i in spread(e.ranges)}


def ranges_of(indices: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending indices as (first, last) of each run without a gap."""
    out: list[tuple[int, int]] = []
    for index in indices:
        if out and index == out[-1][1] + 1:
            out[-1] = (out[-1][0], index)
        else:
            out.append((index, index))
    return tuple(out)


def spread(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The indices of `ranges`."""
    for first, last in ranges:
        yield from range(first, last + 1)


def _ascending(ranges: tuple[Range, ...], size: int) -> bool:
    ends = [-2, *(bound for pair in ranges for bound in pair)]
    gaps = all(ends[i] + 1 < ends[i + 1] for i in range(0, len(ends) - 1, 2))
    return gaps and all(first <= last for first, last in ranges) and ends[-1] < size
