"""The ledger: the privacy budget of every data source, over all studies, for ever.

One SQLite file (WAL, synchronous=FULL, mode 0600) of append-only entries, chained by hash per data source. What is
spent is never stored: it is the fold of the entries (ledger_state), so it cannot disagree with them. A call that
writes returns after its entry is on disk; a crash leaves the entry whole or absent, and nothing but `release_unused`
ever gives back room, and only room that was not charged.

The chain shows an entry that was changed, or removed from the middle. A file whose newest entries were cut off, or an
older copy put back, is a valid chain: only a head that somebody else keeps (`head`, `Charge.head`) shows that.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Final, Self

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.files import require_same_files, sync_folder, which_files
from compliance.privacy import ledger_state as rules
from compliance.privacy.events import UNITS, PrivacyEvent, Unit
from compliance.privacy.ledger_records import Balance, Charge, Limit, LogHead, Plan, Reservation
from compliance.privacy.ledger_state import SourceState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    source TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    head TEXT NOT NULL,
    PRIMARY KEY (source, seq)
) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BUSY_S = 30.0
_VERSION: Final = 2  # of the entries' fields; in SQLite's user_version
_FORM: Final = f"residency.ledger/{_VERSION}"  # every chain begins with it


class Ledger:
    """Budgets keyed by data source. Safe to use from several threads and from several processes at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Use `Ledger.open`."""
        self._connection = connection
        self._path = path
        self._opened: tuple[tuple[int, int], ...] | None = None  # None: a reader, which writes nothing
        self._states: dict[str, SourceState] = {}
        self._lock = RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the ledger at `path`, readable by its owner only, and check every chain.

        Raises EnvironmentFault RSD-4120 if it cannot be read or written, RSD-4111 if another version of this software
        wrote it or an entry has other fields than this version's, CheckFailed RSD-4110 if an entry was altered
        or is missing.
        """
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)
            connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection)
                sync_folder(path.parent)
                ledger = cls(connection, path)
                ledger._opened = which_files(path)
                for source in ledger.sources():
                    ledger._read(source)
            except BaseException:
                connection.close()
                raise
        return ledger

    def close(self) -> None:
        """Close the file; further calls fail."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sources(self) -> tuple[str, ...]:
        """Names of all data sources, sorted."""
        with self._lock, _disk(self._path):
            rows = self._connection.execute("SELECT DISTINCT source FROM entries ORDER BY source").fetchall()
        return tuple(name for (name,) in rows)

    def set_limit(self, source: str, epsilon_milli: int, inverse_delta: int, policy_sha256: str = "") -> None:
        """Set, at registration, or change the budget of `source`. Lowering is free; it binds charges at once.

        Raising (larger eps or larger delta) needs the digest of another signed policy than the last one recorded,
        else Refused RSD-4102; the caller has checked that policy's signature. Raises InputError RSD-4121.
        """
        _check_name(source, "data source")
        if policy_sha256 and not _DIGEST.fullmatch(policy_sha256):
            raise _bad("policy_sha256", policy_sha256, "64 lower-case hex digits")
        if not (0 < epsilon_milli <= 1_000_000 and 2 <= inverse_delta <= 2**53 - 1):
            raise _bad("limit", f"{epsilon_milli} milli-eps, 1/{inverse_delta}", "1..1000000 milli-eps, delta <= 1/2")
        wanted = Limit(epsilon_milli, inverse_delta, policy_sha256)
        self._write(source, "limit", lambda state: rules.decide_limit(state, wanted))

    def reserve(
        self,
        source: str,
        study: str,
        event_template: PrivacyEvent,
        study_epsilon_milli: int,
        study_inverse_delta: int,
        units: tuple[Unit, ...] = (),
        also: tuple[PrivacyEvent, ...] = (),
    ) -> Reservation:
        """Hold room for a whole study, spare attempts and what it does `also` included. Idempotent per (source, study).

        Refused RSD-4101 with needed and left milli-eps if the filter has no room; RSD-4100 without a limit, RSD-4103
        for the sampler's errors, RSD-4104 after release, RSD-4107 for another event, RSD-4108 if what is held and this
        event have no unit in common. `units`: in which the event holds, its own unless said otherwise. The study's own
        claim is recorded; `accounting.check_claim` proves it beforehand.
        """
        _check_name(study, "study")
        claim, holds = (study_epsilon_milli, study_inverse_delta), _holds_in(event_template, units, also)
        state = self._write(
            source, "reserve", lambda s: rules.decide_reserve(s, study, event_template, claim, holds, also)
        )
        return state.reservations[study]

    def check(
        self,
        source: str,
        study: str,
        event_template: PrivacyEvent,
        study_epsilon_milli: int,
        study_inverse_delta: int,
        units: tuple[Unit, ...] = (),
        also: tuple[PrivacyEvent, ...] = (),
    ) -> None:
        """Raise what `reserve` would raise for these arguments; writes nothing."""
        claim, holds = (study_epsilon_milli, study_inverse_delta), _holds_in(event_template, units, also)
        with self._lock:
            rules.decide_reserve(self._read(source), study, event_template, claim, holds, also)

    def charge(
        self, source: str, study: str, round: int, attempt: int, event: PrivacyEvent, log: LogHead | None = None
    ) -> Charge:
        """Pay for one attempt (from 1, no gap) of one round, before its first batch is read; on disk when it returns.

        `log`: what the log is now, part of the charge: an older log beside this ledger is then seen (`logs_seen`).

        Refused RSD-4105 for an attempt already charged, RSD-4106 for a skipped one, RSD-4104 without an open
        reservation, RSD-4109 beyond the reservation, RSD-4101 if the limit was lowered below it.
        """
        if round < 0 or attempt < 1:
            raise _bad("round and attempt", f"{round}, {attempt}", "round >= 0, attempt >= 1")
        state = self._write(source, "charge", lambda s: rules.decide_charge(s, study, round, attempt, event, log))
        same = (study, round, attempt)
        return next(c for c in reversed(state.charges) if (c.study, c.round, c.attempt) == same)

    def release_unused(self, study: str) -> None:
        """Close `study` on every data source: its reservations shrink to what was charged; no charge follows."""
        with self._lock:
            for source in self.sources():
                self._write(source, "release", lambda state: rules.decide_release(state, study))

    def head(self, source: str) -> str:
        """Hash over all entries of `source`, 64 hex digits; that of the empty chain for an unknown source."""
        return self._read(source).head

    def balance(self, source: str) -> Balance:
        """Limit, charged, held and left, milli-eps by the filter. Refused RSD-4100 for a source without a limit."""
        with self._lock:
            return self._read(source).balance()

    def spent(self, source: str) -> int:
        """Milli-eps held: charged, and reserved by open studies."""
        return self.balance(source).held_milli

    def units(self, source: str) -> tuple[Unit, ...]:
        """The units in which `source` is accounted; all of them while nothing is held."""
        with self._lock:
            return self._read(source).units()

    def left(self, source: str) -> int:
        """Milli-eps not held; never negative."""
        return self.balance(source).left_milli

    def plan(self, source: str, event: PrivacyEvent, also: tuple[PrivacyEvent, ...] = ()) -> Plan:
        """What reserving `event` and what is done `also` would take; writes nothing."""
        with self._lock:
            return rules.plan(self._read(source), event, also)

    def holds(self, source: str, seq: int, head: str) -> bool:
        """Whether the entry `seq` of `source` is there and ends the chain at `head`."""
        with self._lock, _disk(self._path):
            row = self._connection.execute(
                "SELECT head FROM entries WHERE source = ? AND seq = ?", (source, seq)
            ).fetchone()
        return row is not None and row[0] == head

    def logs_seen(self) -> dict[str, LogHead]:
        """Origin -> the most of that log that a charge found; without logs of which no charge says anything."""
        found: dict[str, LogHead] = {}
        with self._lock:
            for source in self.sources():
                for head in self._read(source).logs.values():
                    rules.longest(found, head)
        return found

    def charges(self, study: str) -> tuple[Charge, ...]:
        """All charges of `study`, by data source and sequence number."""
        with self._lock:
            return tuple(c for source in self.sources() for c in self._read(source).charges if c.study == study)

    def reservation(self, source: str, study: str) -> Reservation | None:
        """The study's reservation on `source`, open or released; None if it never had one."""
        with self._lock:
            return self._read(source).reservations.get(study)

    def reservations(self, source: str) -> tuple[Reservation, ...]:
        """Every study that holds or held room on `source`, in the order of their reservations."""
        with self._lock:
            return tuple(self._read(source).reservations.values())

    def show(self, source: str) -> list[dict[str, str | int]]:
        """Rows for a table, oldest first: seq, at, kind, study, round, attempt, steps, noise, rate, unit, head."""
        with self._lock, _disk(self._path):
            self._read(source)
            found = self._connection.execute(
                "SELECT seq, at, kind, body, head FROM entries WHERE source = ? ORDER BY seq", (source,)
            ).fetchall()
        return [_row(seq, at, kind, parse_canonical(body, "ledger entry"), head) for seq, at, kind, body, head in found]

    def _read(self, source: str) -> SourceState:
        """The state of `source`, with all entries that any process has committed."""
        with self._lock, _disk(self._path):
            state = self._states.get(source) or SourceState(source, _genesis(source))
            rows = self._connection.execute(
                "SELECT seq, at, kind, body, head FROM entries WHERE source = ? AND seq > ? ORDER BY seq",
                (source, state.seq),
            )
            for seq, at, kind, body, head in rows:
                _check_entry(state, seq, at, kind, body, head)
                _count(state, seq, kind, body, head)
            self._states[source] = state
            return state

    def _write(self, source: str, kind: str, decide: Callable[[SourceState], Json | None]) -> SourceState:
        """Decide on the newest state and append, as one transaction; nobody else can write between the two."""
        with self._lock, _disk(self._path, writing=True):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                state = self._read(source)
                body = decide(state)
                if body is not None:
                    self._append(state, kind, canonical(body))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            if self._opened is not None:
                require_same_files(self._path, self._opened)  # a charge in a file that nobody finds is none
            return self._read(source)  # an entry counts only now that it is committed

    def _append(self, state: SourceState, kind: str, body: bytes) -> None:
        at = rfc3339(now())
        head = _link(state, state.seq + 1, at, kind, body)
        self._connection.execute(
            "INSERT INTO entries (source, seq, at, kind, body, head) VALUES (?, ?, ?, ?, ?, ?)",
            (state.source, state.seq + 1, at, kind, body, head),
        )


def _prepare(connection: sqlite3.Connection) -> None:
    """WAL and FULL: a committed entry survives a power cut. Some network file systems silently give no WAL."""
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"journal mode is {mode}, not wal; use a local disk")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(_SCHEMA)
    empty = connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is None  # first: a version precedes entries
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        if not empty:
            raise _other_form(f"residency.ledger/{version or 1}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _genesis(source: str) -> str:
    return sha256_hex(_FORM.encode() + b"\0" + source.encode())


def _link(state: SourceState, seq: int, at: str, kind: str, body: bytes) -> str:
    """Head after this entry: SHA-256 over the head before it and the entry's canonical JSON."""
    entry = {"source": state.source, "seq": seq, "at": at, "kind": kind, "body_sha256": sha256_hex(body)}
    return sha256_hex(bytes.fromhex(state.head) + canonical(entry))


def _check_entry(state: SourceState, seq: int, at: str, kind: str, body: bytes, head: str) -> None:
    expected = _link(state, seq, at, kind, body)
    if seq != state.seq + 1 or head != expected:
        raise CheckFailed(
            "RSD-4110",
            f"entry {seq} of the ledger of {state.source} is not the one that was written",
            rule="hash chain over all entries",
            found=f"seq {seq}, head {head[:16]}",
            limit=f"seq {state.seq + 1}, head {expected[:16]}",
            next="stop all studies on this data source; restore the ledger from a backup and compare heads with peers",
        )


def _count(state: SourceState, seq: int, kind: str, body: bytes, head: str) -> None:
    try:
        state.apply(seq, kind, parse_canonical(body, "ledger entry"), head)
    except (KeyError, TypeError, ValueError) as e:
        raise _other_form(f"entry {seq} of {state.source}: {type(e).__name__}") from e


def _other_form(found: str) -> EnvironmentFault:
    return EnvironmentFault(
        "RSD-4111",
        "the ledger was written by another version of this software",
        rule="a ledger is read by the version of its form",
        found=found,
        limit=_FORM,
        next="use the version that wrote it; keep the file, it is what was spent on these people",
    )


def _row(seq: int, at: str, kind: str, body: Json, head: str) -> dict[str, str | int]:
    event = body.get("event", {})
    row: dict[str, str | int] = {"seq": seq, "at": at, "kind": kind, "head": head}
    for key in ("study", "round", "attempt", "epsilon_milli", "inverse_delta", "policy_sha256"):
        if key in body:
            row[key] = body[key]
    if event:
        row["steps"] = event["steps"]
        row["noise_multiplier_micro"] = event["noise_multiplier_micro"]
        row["rate"] = f"{event['sample_numerator']}/{event['sample_denominator']}"
        row["unit"] = event["unit"]
    return row


def _holds_in(event: PrivacyEvent, units: tuple[Unit, ...], also: tuple[PrivacyEvent, ...]) -> tuple[Unit, ...]:
    """`units` in their fixed order, the event's own among them. Raises InputError RSD-4121."""
    if any(e.unit != event.unit for e in also):
        raise _bad("what a study does also", ", ".join(e.unit for e in also), f"per {event.unit}, as its rounds")
    if units and event.unit not in units:
        raise _bad("units", ", ".join(units), f"{event.unit} among them")
    return tuple(u for u in UNITS if u in (units or (event.unit,)))


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise _bad(what, repr(name[:64]), "1 to 128 of A-Z a-z 0-9 . _ : / -")


def _bad(what: str, found: str, limit: str) -> InputError:
    return InputError("RSD-4121", f"{what} is not valid", found=found, limit=limit, next="correct the value")


@contextmanager
def _disk(path: Path, *, writing: bool = False) -> Iterator[None]:
    """SQLite's and the system's errors as EnvironmentFault RSD-4120; a transaction was rolled back."""
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        raise EnvironmentFault(
            "RSD-4120",
            f"the ledger at {path} cannot be {'written' if writing else 'read'}: {e}",
            rule="no charge on disk, no training",
            found=str(e),
            limit="a durable write" if writing else "a whole ledger that this user may read and write",
            next="free disk space or fix the file's owner; what was not confirmed was not recorded"
            if writing
            else "check the file's owner and the disk; if the file is damaged, restore the newest backup of this home",
        ) from e
