"""A witness: cosigns a log's checkpoints, each only as a continuation of the one that it cosigned before.

It remembers on disk before it answers, so that no crash makes it cosign two histories (c2sp.org/tlog-witness).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance import clock
from compliance.errors import CheckFailed
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.database import Database

_SCHEMA = """
CREATE TABLE logs (origin TEXT PRIMARY KEY, public_key BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE cosigned (
    origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, line TEXT NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (origin, size)
) STRICT, WITHOUT ROWID;
CREATE TABLE refused (
    origin TEXT NOT NULL, code TEXT NOT NULL, note TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (origin, code)
) STRICT, WITHOUT ROWID
"""
_RULE = "c2sp.org/tlog-witness"
_REPORT = "cosign nothing more of this log; tell its site and the auditor, and keep both checkpoints"
_CONVICTING = ("RSD-5040", "RSD-5042")  # whoever has an older checkpoint can show it: no log is to blame for that


class Cosigned(NamedTuple):
    """A cosignature: the line to add to the checkpoint's note, and the checkpoint's size."""

    line: str
    size: int


class Seen(NamedTuple):
    """The last checkpoint of a log that was cosigned here, and the POSIX second of it."""

    origin: str
    size: int
    root: bytes
    at: int


class Refusal(NamedTuple):
    """A checkpoint that its log signed and that convicts it: the first fork, or the first under another key."""

    origin: str
    code: str
    note: str
    at: str


class WitnessStore:
    """What one witness has cosigned, in one SQLite file (WAL, synchronous=FULL, mode 0600).

    Every method may raise EnvironmentFault RSD-5030.
    """

    def __init__(self, path: Path, name: str, key: Ed25519PrivateKey) -> None:
        """Open or create the memory of the witness `name`. Raises InputError RSD-5003 for the name."""
        self.name = note.check_name(name)
        self._key = key
        self._database = Database(path, _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cosign(
        self,
        note_text: str,
        log_public_key: Ed25519PublicKey,
        old_size: int,
        consistency_proof: Sequence[bytes],
        *,
        origin: str | None = None,
        exact: bool = False,
    ) -> Cosigned:
        """Cosign a checkpoint that continues the last one; the memory of it is on disk when this returns.

        `old_size` is what the log believes to be the last size cosigned here (0: none), `consistency_proof` leads from
        it. The same size with the same root gives the same cosignature again, whatever `old_size` says, unless `exact`.
        A log's key is pinned at its first checkpoint, in both directions. The first fork and the first changed key are
        kept: the log's own signature proves them. Raises InputError (malformed note) and CheckFailed:
        RSD-5002 not signed by the log, RSD-5005 not of `origin`, RSD-5042 another key or origin than before, RSD-5041
        rollback, RSD-5040 fork, RSD-5043 `old_size` is stale, RSD-5011 the proof does not hold.
        """
        signed = checkpoint.open_signed(note_text, log_public_key, origin)
        new = signed.checkpoint
        try:
            with self._database.writing() as connection:
                _pin(connection, new.origin, log_public_key)
                last = _last(connection, new.origin)
                if last is not None and (last.size, last.root) == (new.size, new.root):
                    if exact and old_size != last.size:
                        raise _stale(new, old_size, last)
                    return Cosigned(_line(connection, last), last.size)
                _check_fork(connection, new)
                _check_continues(last, new, old_size, consistency_proof)
                return self._remember(connection, new, signed.signature)
        except CheckFailed as e:
            if e.code in _CONVICTING:
                self._keep(e.code, note.Note(new.text(), (signed.signature,)).encode(), new.origin)
            raise

    def _keep(self, code: str, note_text: str, origin: str) -> None:
        with self._database.writing() as connection:
            row = (origin, code, note_text, clock.rfc3339(clock.now()))
            connection.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?)", row)

    def _remember(self, connection: sqlite3.Connection, new: Checkpoint, by_log: note.Signature) -> Cosigned:
        cosignature = cosign.cosign(new.text(), self.name, self._key, int(clock.now().timestamp()))
        # Lines of others are not kept: nobody verified them here, and a bad one would spoil the note as proof.
        kept = note.Note(new.text(), (by_log, cosignature)).encode()
        row = (new.origin, new.size, new.root, cosignature.line(), kept)
        connection.execute("INSERT INTO cosigned VALUES (?, ?, ?, ?, ?)", row)
        return Cosigned(cosignature.line(), new.size)

    def last(self, origin: str) -> tuple[int, bytes] | None:
        """Size and root of the last checkpoint of `origin` that was cosigned here, None if there is none."""
        with self._database.reading() as connection:
            last = _last(connection, origin)
        return None if last is None else (last.size, last.root)

    def holds(self, origin: str, size: int, root: bytes) -> bool:
        """Whether just this checkpoint was cosigned here, lately or long ago."""
        query = "SELECT count(*) FROM cosigned WHERE origin = ? AND size = ? AND root = ?"
        with self._database.reading() as connection:
            return bool(connection.execute(query, (origin, size, root)).fetchone()[0])

    def seen(self) -> tuple[Seen, ...]:
        """Every log that was cosigned here, by its last checkpoint, in the order of origins."""
        with self._database.reading() as connection:
            return seen(connection)

    def refused(self) -> tuple[Refusal, ...]:
        """What was kept of forks and changed keys, in the order of origins and codes."""
        with self._database.reading() as connection:
            return tuple(Refusal(*row) for row in connection.execute("SELECT * FROM refused ORDER BY origin, code"))

    def last_note(self, origin: str) -> str:
        """The note of the last checkpoint of `origin` that was cosigned here, with our line; empty if there is none."""
        query = "SELECT note FROM cosigned WHERE origin = ? ORDER BY size DESC LIMIT 1"
        with self._database.reading() as connection:
            row = connection.execute(query, (origin,)).fetchone()
        return str(row[0]) if row else ""

    def notes(self, origin: str) -> tuple[str, ...]:
        """The notes of all checkpoints of `origin` that were cosigned here, with our line, smallest size first.

        They convict a log that was rebuilt: `evidence.compare_checkpoint`.
        """
        query = "SELECT note FROM cosigned WHERE origin = ? ORDER BY size"
        with self._database.reading() as connection:
            return tuple(row[0] for row in connection.execute(query, (origin,)))


def seen(connection: sqlite3.Connection) -> tuple[Seen, ...]:
    """`WitnessStore.seen` over an open file."""
    query = "SELECT origin, max(size), root, line FROM cosigned GROUP BY origin ORDER BY origin"  # SQLite: that row's
    rows = connection.execute(query).fetchall()
    return tuple(Seen(o, size, root, cosign.stated_time(note.parse_line(line))) for o, size, root, line in rows)


def _pin(connection: sqlite3.Connection, origin: str, public_key: Ed25519PublicKey) -> None:
    raw = public_key.public_bytes_raw()
    connection.execute("INSERT OR IGNORE INTO logs VALUES (?, ?)", (origin, raw))
    held = connection.execute(
        "SELECT origin, public_key FROM logs WHERE origin = ? OR public_key = ?", (origin, raw)
    ).fetchall()
    if [tuple(row) for row in held] != [(origin, raw)]:
        raise CheckFailed(
            "RSD-5042",
            f"log {origin} was known with another key, or this key with another log",
            rule="one log, one key",
            found=f"{origin} {raw.hex()[:16]}",
            limit=" and ".join(f"{row[0]} {row[1].hex()[:16]}" for row in held),
            next="ask the log's site whether it moved its key; if not, report the attempt",
        )


def _last(connection: sqlite3.Connection, origin: str) -> Checkpoint | None:
    query = "SELECT size, root FROM cosigned WHERE origin = ? ORDER BY size DESC LIMIT 1"
    row = connection.execute(query, (origin,)).fetchone()
    return None if row is None else Checkpoint(origin, row[0], row[1])


def _line(connection: sqlite3.Connection, last: Checkpoint) -> str:
    query = "SELECT line FROM cosigned WHERE origin = ? AND size = ?"
    return str(connection.execute(query, (last.origin, last.size)).fetchone()[0])


def _check_fork(connection: sqlite3.Connection, new: Checkpoint) -> None:
    """No other root of this size was cosigned, however long ago."""
    query = "SELECT root FROM cosigned WHERE origin = ? AND size = ?"
    row = connection.execute(query, (new.origin, new.size)).fetchone()
    if row is not None and row[0] != new.root:
        limit = _shown(Checkpoint(new.origin, new.size, row[0]))
        raise _refusal("RSD-5040", f"log {new.origin} shows two histories of one size", _shown(new), limit, _REPORT)


def _check_continues(last: Checkpoint | None, new: Checkpoint, old_size: int, proof: Sequence[bytes]) -> None:
    """Decide: may a witness that cosigned `last` cosign `new`?"""
    before = last or Checkpoint(new.origin, 0, merkle.EMPTY_ROOT)
    if new.size < before.size:
        raise _refusal("RSD-5041", f"log {new.origin} was rolled back", _shown(new), _shown(before), _REPORT)
    if old_size != before.size:
        raise _stale(new, old_size, before)
    merkle.verify_consistency(before.size, new.size, before.root, new.root, proof)


def _stale(new: Checkpoint, old_size: int, before: Checkpoint) -> CheckFailed:
    message = f"the proof for log {new.origin} starts at another size than was cosigned last"
    again = f"send the consistency proof from size {before.size}"
    return _refusal("RSD-5043", message, f"{old_size} entries", _shown(before), again)


def _shown(c: Checkpoint) -> str:
    return f"{c.size} entries with root {c.root.hex()}"


def _refusal(code: str, message: str, found: str, limit: str, next: str) -> CheckFailed:
    return CheckFailed(code, message, rule=_RULE, found=found, limit=limit, next=next)
