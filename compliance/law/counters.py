"""How many persons' data has reached whom: the counters that some regimes' thresholds are about.

One SQLite file (WAL, synchronous=FULL, mode 0600) of rows, chained by hash, over all studies of a site for ever. What
was recorded is on disk when `record` returns, so a crash between that and the sending counts too much, never too
little. Persons in two data sources are counted twice, and whoever is in a party's country may be that party under
another name: every number here is an upper bound, and leaves only as the upper edge of a bucket. A file that was
deleted, or an older copy put back, looks like a new or an older one: only the log of the site's decisions shows that.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Final, Self

from pydantic import Field

from compliance.canonical import canonical, parse_canonical
from compliance.clock import parse_time, rfc3339
from compliance.errors import EnvironmentFault, InputError, Refused
from compliance.law.model import NAME, Code, Count, Party
from compliance.law.vocabulary import Category, CounterName
from compliance.log.database import Database
from compliance.training_spec import Frozen
from compliance.validation import load_model

# 9,999: China's threshold counts 10,000 in (CAC Order 16 Art 8), 28 CFR 202.205 does not; no bucket holds 10,000 alone.
EDGES: Final = (100, 1_000, 9_999, 100_000, 1_000_000, 10**9)
_MOST: Final = 2**53 - 1  # a count beyond the last edge
_CHINA: Final = timezone(timedelta(hours=8))  # China Standard Time, without summer time since 1991
_SET_BACK: Final = timedelta(minutes=5)
_SCHEMA: Final = """
CREATE TABLE counted (n INTEGER PRIMARY KEY, body BLOB NOT NULL, chain TEXT NOT NULL) STRICT;
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, chain TEXT NOT NULL) STRICT;
CREATE TABLE first (one INTEGER PRIMARY KEY CHECK (one = 1), chain TEXT NOT NULL) STRICT;
INSERT INTO first VALUES (1, lower(hex(randomblob(32))));
INSERT INTO head SELECT 1, 0, chain FROM first
"""  # the chain begins with chance: whoever sees a head cannot try out counts
_SETTLE_S: Final = 2.0  # another process may be creating the file just now


class Counted(Frozen):
    """One row: that data of up to `persons` persons of `source` went to a recipient for a study."""

    study: str = Field(pattern=r"^([0-9a-f]{64})?$")
    source: str = Field(min_length=1, max_length=128)
    recipient: str = Field(pattern=NAME)
    jurisdiction: Code
    access: tuple[Code, ...] = Field(default=(), max_length=250)
    persons: int = Field(ge=0, le=_MOST)
    categories: tuple[Category, ...] = Field(min_length=1)
    at: str

    @property
    def places(self) -> frozenset[str]:
        """Where the recipient holds it, and from where it can be reached."""
        return frozenset({self.jurisdiction, *self.access})

    def same(self, other: Counted) -> bool:
        """True if the two differ in `persons` and `at` only."""
        mine, theirs = (row.model_dump(exclude={"persons", "at"}) for row in (self, other))
        return mine == theirs


class Counters:
    """The counts of one site. Safe to use from several threads and processes.

    Every method raises InputError RSD-3050 if the file is damaged or a row was changed, Refused RSD-3051 if the clock
    stands before the newest row, and EnvironmentFault RSD-5030 if the disk fails.
    """

    def __init__(self, database: Database) -> None:
        """Use `open`."""
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the counters at `path`, and check every row."""
        _refuse_emptied(path)
        with _sound(path):
            database = Database(path, _SCHEMA)
        counters = cls(database)
        try:
            counters.check()
        except BaseException:
            database.close()
            raise
        return counters

    def close(self) -> None:
        """Close the file; further calls fail."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(
        self, study: str, source: str, recipient: Party, persons: int, categories: Collection[Category], at: str
    ) -> None:
        """Note that data of at most `persons` persons of `source` goes to `recipient`; on disk on return.

        A row of the same day with the same words and no fewer persons is not repeated.
        """
        new = Counted(
            study=study,
            source=source,
            recipient=recipient.name,
            jurisdiction=recipient.jurisdiction,
            access=tuple(sorted(set(recipient.access))),
            persons=persons,
            categories=tuple(sorted(set(categories))),
            at=rfc3339(parse_time(at)),
        )
        with _sound(self._database.path), self._database.writing() as connection:
            rows = _rows(connection, self._database.path)
            _refuse_set_back(rows, at)
            if any(_stands_for(row, new) for row in rows):
                return
            body = canonical(new.model_dump(mode="json"))
            chain = _link(_head(connection)[1], body)
            connection.execute("INSERT INTO counted VALUES (?, ?, ?)", (len(rows), body, chain))
            connection.execute("UPDATE head SET size = ?, chain = ?", (len(rows) + 1, chain))

    def check(self) -> None:
        """Every row is as it was written."""
        with self._reading():
            pass

    def head(self) -> tuple[int, str]:
        """How many rows there are, and the link of the chain after the last."""
        with _sound(self._database.path), self._database.reading() as connection:
            return _head(connection)

    def holds(self, size: int, chain: str) -> bool:
        """Whether the chain had this link after its first `size` rows."""
        with _sound(self._database.path), self._database.reading() as connection:
            found = connection.execute("SELECT chain FROM counted WHERE n = ?", (size - 1,)).fetchone()
        return found is not None and str(found[0]) == chain

    def counts(
        self,
        exporter: Party,
        parties: Iterable[Party],
        source: str,
        persons: int,
        categories: Collection[Category],
        at: str,
    ) -> tuple[Count, ...]:
        """What the counters would hold once data of `persons` persons of `source` has gone to `parties`.

        `us_12_months` for an exporter in the US, one count for each recipient, of what went to it or, under any name,
        to one of its places; `cn_calendar_year` for one in mainland China, over all recipients outside it.
        """
        parties = tuple(parties)
        with self._reading() as rows:
            _refuse_set_back(rows, at)
        added, nothing = _Sum(source, persons, frozenset(categories)), _Sum(source, 0, frozenset())
        return tuple(
            (added if adds else nothing).count(counter, recipient, _window(rows, counter, about, parse_time(at)))
            for (counter, recipient), adds in due_counts(exporter, parties).items()
            for about in [[party for party in parties if party.name == recipient]]
        )

    @contextmanager
    def _reading(self) -> Iterator[list[Counted]]:
        with _sound(self._database.path), self._database.reading() as connection:
            rows = _rows(connection, self._database.path)
        yield rows


class _Sum:
    """This transfer's persons, to be added to those of a window."""

    def __init__(self, source: str, persons: int, categories: frozenset[Category]) -> None:
        self._persons, self._source, self._categories = persons, source, categories

    def count(self, counter: CounterName, recipient: str, window: list[Counted]) -> Count:
        """The largest number of each source, summed over the sources."""
        most = {self._source: self._persons}
        for row in window:
            most[row.source] = max(row.persons, most.get(row.source, 0))
        categories = self._categories.union(*(row.categories for row in window))
        return Count(
            counter=counter,
            recipient=recipient,
            at_most=bucket(sum(most.values())),
            categories=tuple(sorted(categories)),
        )


def due_counts(exporter: Party, parties: Iterable[Party]) -> dict[tuple[CounterName, str], bool]:
    """The counts that a transfer to `parties` is decided by, as (counter, recipient); and whether it adds to them."""
    if exporter.jurisdiction == "US":
        return {("us_12_months", party.name): True for party in parties}
    if exporter.jurisdiction == "CN":
        return {("cn_calendar_year", "*"): any({party.jurisdiction, *party.access} != {"CN"} for party in parties)}
    return {}


def _window(rows: list[Counted], counter: CounterName, about: list[Party], at: datetime) -> list[Counted]:
    """The rows that count with what leaves `at`; `about`: the parties of one name, if the counter is of each."""
    if counter == "us_12_months":
        since = _year_before(at.date())
        recent = [row for row in rows if parse_time(row.at).date() >= since]
        return [row for row in recent if any(_perhaps_the_same(row, party) for party in about)]
    year = _china_year(at)
    return [row for row in rows if row.places != {"CN"} and _china_year(parse_time(row.at)) == year]


def _perhaps_the_same(row: Counted, party: Party) -> bool:
    """Members' names are no entities: whoever shares a place with the party may be it."""
    return row.recipient == party.name or not row.places.isdisjoint({party.jurisdiction, *party.access})


def bucket(persons: int) -> int:
    """The upper edge of the bucket that holds `persons`."""
    return next((edge for edge in EDGES if persons <= edge), _MOST)


def _stands_for(old: Counted, new: Counted) -> bool:
    """True if `old` lies in every window that `new` would lie in: one day in UTC, one year in China."""
    same_time = old.at[:10] == new.at[:10] and _china_year(parse_time(old.at)) == _china_year(parse_time(new.at))
    return same_time and old.same(new) and old.persons >= new.persons


def _china_year(at: datetime) -> int:
    return at.astimezone(_CHINA).year


def _year_before(day: date) -> date:
    """The same date a year earlier, which belongs to the window; for 29 February the 28th."""
    leap_day = (day.month, day.day) == (2, 29)
    return day.replace(year=day.year - 1, day=28 if leap_day else day.day)


def _rows(connection: sqlite3.Connection, path: Path) -> list[Counted]:
    """All rows, each checked against the chain, the last against the head. Raises InputError RSD-3050."""
    begun = connection.execute("SELECT chain FROM first").fetchone()
    found, chain = [], str(begun[0]) if begun else ""
    for n, (number, body, held) in enumerate(connection.execute("SELECT n, body, chain FROM counted ORDER BY n")):
        chain = _link(chain, body)
        if number != n or held != chain:
            raise _damaged(path, f"row {n} was changed, or one before it is missing")
        found.append(load_model(Counted, parse_canonical(body, f"row {n} of {path}"), "RSD-3050", f"row {n} of {path}"))
    if _head(connection) != (len(found), chain):
        raise _damaged(path, "the newest rows are missing")
    return found


def _head(connection: sqlite3.Connection) -> tuple[int, str]:
    found = connection.execute("SELECT size, chain FROM head").fetchone()
    return (int(found[0]), str(found[1])) if found else (-1, "")


def _link(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


def _refuse_set_back(rows: list[Counted], at: str) -> None:
    newest = max((row.at for row in rows), default="")
    if newest and parse_time(at) < parse_time(newest) - _SET_BACK:
        raise Refused(
            "RSD-3051",
            "the clock stands before the newest count",
            rule="windows of counters need a clock that was not set back",
            found=at,
            limit=f"5 minutes before {newest} at most",
            next="set the clock of this machine right; nothing leaves meanwhile",
        )


def _refuse_emptied(path: Path) -> None:
    """A file of no bytes is one that lost them, unless another process is creating it."""
    until = time.monotonic() + _SETTLE_S
    while path.is_file() and path.stat().st_size == 0:
        if time.monotonic() > until:
            raise _damaged(path, "the file is empty")
        time.sleep(0.05)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """What SQLite or the row's form says of damage is RSD-3050; a full or absent disk stays RSD-5030."""
    try:
        yield
    except EnvironmentFault as e:
        cause = e.__cause__
        unlike = isinstance(cause, sqlite3.OperationalError) and str(cause).startswith("no such")
        if unlike or (isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.OperationalError)):
            raise _damaged(path, str(cause)) from e
        raise
    except InputError as e:
        if e.code == "RSD-3050":
            raise
        raise _damaged(path, e.message) from e


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        "RSD-3050",
        f"the counters at {path} are damaged: {why}",
        rule="a count that may be too low lets nothing out",
        found=why,
        limit="every row as it was written",
        next="restore the newest backup of this file; what was sent since then stands in the site's log",
    )
