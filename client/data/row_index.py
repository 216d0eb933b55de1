"""rows.db: which people a site's extracts hold, as keyed hashes, and who has withdrawn. Never a value of a row.

The keys are HMACs under keys/rows.secret; the rows' content is sealed with a key of the same secret. Both stay at the
site. Safe to use from several threads and processes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.data.coincidence import MOST_ROWS, Content, coincide
from compliance.canonical import canonical
from compliance.errors import CheckFailed
from compliance.log.database import Database

_SCHEMA = """
CREATE TABLE extracts (name TEXT PRIMARY KEY, source TEXT NOT NULL, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE members (
    extract TEXT NOT NULL, position INTEGER NOT NULL, row BLOB NOT NULL, subject BLOB NOT NULL,
    PRIMARY KEY (extract, position)) STRICT, WITHOUT ROWID;
CREATE INDEX members_row ON members (row);
CREATE INDEX members_subject ON members (subject);
CREATE TABLE contents (extract TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE withdrawals (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, ground TEXT NOT NULL, done INTEGER NOT NULL) STRICT;
CREATE TABLE withdrawn (subject BLOB PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE touched (number INTEGER NOT NULL, extract TEXT NOT NULL, PRIMARY KEY (number, extract)) STRICT
"""
_NONCE = 12
_AT_ONCE = 500  # SQLite's bound on variables


@dataclass(frozen=True)
class Extract:
    """One extract as the index knows it: per row, in file order, the keys of its identifiers and of its subject."""

    name: str
    sha256: str
    rows: Sequence[bytes]
    subjects: Sequence[bytes]
    content: Content


@dataclass(frozen=True)
class Known:
    """Data sources that share rows with an extract: by identifiers, or by what the rows say."""

    by_identifier: frozenset[str]
    by_content: frozenset[str]

    @property
    def sources(self) -> frozenset[str]:
        """All of them."""
        return self.by_identifier | self.by_content


@dataclass(frozen=True)
class Withdrawn:
    """One withdrawal, as it is remembered: no identifier, no number of people."""

    number: int
    at: str
    ground: str
    extracts: tuple[str, ...]


class RowIndex:
    """One open handle on rows.db."""

    def __init__(self, path: Path, secret: bytes) -> None:
        """Open or create. Raises EnvironmentFault RSD-5030."""
        self._database = Database(path, _SCHEMA)
        self._seal = AESGCM(hmac.digest(secret, b"residency.contents/1", hashlib.sha256))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def writing(self) -> Iterator[Changes]:
        """A transaction, alone among all processes: everything in the block is on disk after it, or nothing is."""
        with self._database.writing() as connection:
            yield Changes(connection, self._seal)

    def excluded(self, extract: str, sha256: str) -> tuple[tuple[int, ...], int]:
        """Positions of withdrawn rows of the extract, in order, and the last withdrawal that touched its source (or 0).

        Raises CheckFailed RSD-2417 for an extract that the index does not know: then nobody could be left out.
        """
        with self._database.reading() as connection:
            found = connection.execute("SELECT source, sha256 FROM extracts WHERE name = ?", (extract,)).fetchone()
            if found is None or found[1] != sha256:
                raise CheckFailed(
                    "RSD-2417",
                    f"the index of rows does not know dataset {extract} as it is registered",
                    rule="who has withdrawn must be found in every extract",
                    found="another file" if found else "no such dataset",
                    limit="the registered extract",
                    next="restore rows.db and registry.json together, or register the extract under a new name",
                )
            positions = connection.execute(
                "SELECT position FROM members WHERE extract = ? AND subject IN (SELECT subject FROM withdrawn)"
                " ORDER BY position",
                (extract,),
            )
            return tuple(p for (p,) in positions), _last(connection, found[0])

    def people(self, source: str) -> int:
        """How many people all extracts of `source` hold together, each once. Stays inside this process."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT COUNT(DISTINCT subject) FROM members"
                " WHERE extract IN (SELECT name FROM extracts WHERE source = ?)",
                (source,),
            ).fetchone()
        return int(found[0])

    def last_withdrawal(self, source: str) -> int:
        """Number of the last withdrawal that touched `source`; 0 for none."""
        with self._database.reading() as connection:
            return _last(connection, source)

    def withdrawals(self, *, pending: bool = False) -> list[Withdrawn]:
        """All withdrawals with the extracts that they touched; with `pending` those whose traces are not yet purged."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT number, at, ground FROM withdrawals WHERE done <= ? ORDER BY number", (0 if pending else 1,)
            ).fetchall()
            touched = connection.execute("SELECT number, extract FROM touched ORDER BY extract").fetchall()
        names: dict[int, list[str]] = {}
        for number, extract in touched:
            names.setdefault(number, []).append(extract)
        return [Withdrawn(n, at, ground, tuple(names.get(n, ()))) for n, at, ground in rows]


class Changes:
    """What may be read and written inside one transaction."""

    def __init__(self, connection: sqlite3.Connection, seal: AESGCM) -> None:
        """Use `RowIndex.writing`."""
        self._connection = connection
        self._sealing = seal

    def holds(self, name: str) -> str | None:
        """The digest of the file that `name` was given to; None for a free name."""
        row = self._connection.execute("SELECT sha256 FROM extracts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def known(self, extract: Extract) -> Known:
        """Whose rows these are already."""
        rest = self._connection.execute(
            "SELECT e.source, c.extract, c.sealed FROM contents c JOIN extracts e ON e.name = c.extract"
        ).fetchall()
        by_content = {source for source, name, sealed in rest if coincide(self._opened(name, sealed), extract.content)}
        by_row = self._sources("row", extract.rows) | self._sources("subject", extract.subjects)
        return Known(frozenset(by_row), frozenset(by_content))

    def known_subjects(self, subjects: Sequence[bytes], besides: str) -> int:
        """How many of these keys are subjects of an extract other than `besides`."""
        found: set[bytes] = set()
        unique = list(dict.fromkeys(subjects))
        for start in range(0, len(unique), _AT_ONCE):
            part = unique[start : start + _AT_ONCE]
            query = f"SELECT DISTINCT subject FROM members WHERE extract != ? AND subject IN ({_marks(part)})"  # noqa: S608
            found |= {s for (s,) in self._connection.execute(query, (besides, *part))}
        return len(found)

    def add(self, extract: Extract, source: str) -> None:
        """Remember the extract and its rows under `source`, in the place of what a cut-short registration left."""
        for table, column in (("extracts", "name"), ("members", "extract"), ("contents", "extract")):
            self._connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (extract.name,))  # noqa: S608
        self._connection.execute("INSERT INTO extracts VALUES (?, ?, ?)", (extract.name, source, extract.sha256))
        self._connection.executemany(
            "INSERT INTO members VALUES (?, ?, ?, ?)",
            [(extract.name, i, r, s) for i, (r, s) in enumerate(zip(extract.rows, extract.subjects, strict=True))],
        )
        self._store(extract.name, _sampled(extract), self._withdrawn_among(extract.name))

    def withdraw(self, number: int, at: str, ground: str, subjects: Sequence[bytes]) -> None:
        """Remember that these subjects withdrew; whoever had withdrawn before stays as it was."""
        self._connection.execute("INSERT INTO withdrawals VALUES (?, ?, ?, 0)", (number, at, ground))
        self._connection.executemany(
            "INSERT OR IGNORE INTO withdrawn VALUES (?, ?)", [(s, number) for s in dict.fromkeys(subjects)]
        )
        self._connection.execute(
            "INSERT INTO touched SELECT DISTINCT ?, extract FROM members"
            " WHERE subject IN (SELECT subject FROM withdrawn WHERE number = ?)",
            (number, number),
        )
        for (name,) in self._connection.execute("SELECT extract FROM touched WHERE number = ?", (number,)).fetchall():
            self._forget_content(name)

    def next_number(self) -> int:
        """The number of the next withdrawal, from 1."""
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM withdrawals").fetchone()
        return int(last) + 1

    def finish(self, number: int) -> None:
        """The traces of this withdrawal are purged."""
        self._connection.execute("UPDATE withdrawals SET done = 1 WHERE number = ?", (number,))

    def sources(self, extracts: Sequence[str]) -> set[str]:
        """The data sources of these extracts."""
        found = self._connection.execute("SELECT name, source FROM extracts").fetchall()
        return {source for name, source in found if name in set(extracts)}

    def _sources(self, column: str, keys: Sequence[bytes]) -> set[str]:
        found: set[str] = set()
        unique = list(dict.fromkeys(keys))
        for start in range(0, len(unique), _AT_ONCE):
            part = unique[start : start + _AT_ONCE]
            found |= {
                source
                for (source,) in self._connection.execute(
                    "SELECT DISTINCT e.source FROM members m JOIN extracts e ON e.name = m.extract"  # noqa: S608
                    f" WHERE m.{column} IN ({_marks(part)})",
                    part,
                )
            }
        return found

    def _withdrawn_among(self, name: str) -> set[int]:
        rows = self._connection.execute(
            "SELECT position FROM members WHERE extract = ? AND subject IN (SELECT subject FROM withdrawn)", (name,)
        )
        return {position for (position,) in rows}

    def _forget_content(self, name: str) -> None:
        row = self._connection.execute("SELECT sealed FROM contents WHERE extract = ?", (name,)).fetchone()
        if row is not None:
            self._store(name, self._positioned(name, row[0]), self._withdrawn_among(name))

    def _store(self, name: str, kept: tuple[list[int], Content], without: set[int]) -> None:
        positions, content = kept
        keep = np.array([p not in without for p in positions], dtype=np.bool_)
        left = content.kept(keep)
        names = list(left.cells)
        places = [p for p, stays in zip(positions, keep, strict=True) if stays]
        head = canonical({"columns": names, "positions": places})
        body = b"".join(left.cells[n].astype("<u8").tobytes() for n in names)
        nonce = os.urandom(_NONCE)
        sealed = nonce + self._sealing.encrypt(nonce, len(head).to_bytes(8, "big") + head + body, name.encode())
        self._connection.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", (name, sealed))

    def _opened(self, name: str, sealed: bytes) -> Content:
        return self._positioned(name, sealed)[1]

    def _positioned(self, name: str, sealed: bytes) -> tuple[list[int], Content]:
        try:
            data = self._sealing.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
        except InvalidTag as e:
            raise CheckFailed(
                "RSD-2418",
                f"what the index of rows holds of dataset {name} cannot be opened",
                rule="the index belongs to keys/rows.secret",
                found="another key or changed bytes",
                limit="the site's own secret",
                next="restore rows.db together with keys/rows.secret",
            ) from e
        size = int.from_bytes(data[:8], "big")
        head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        rows = len(head["positions"])
        table = np.frombuffer(body, dtype="<u8").reshape(len(head["columns"]), rows).astype(np.uint64)
        return head["positions"], Content(dict(zip(head["columns"], table, strict=True)), rows)


def _marks(values: Sequence[bytes]) -> str:
    return ",".join("?" * len(values))


def _sampled(extract: Extract) -> tuple[list[int], Content]:
    """At most `MOST_ROWS` rows, chosen by their keys: as good as at random, and the same ones each time."""
    order = sorted(range(extract.content.rows), key=lambda i: (extract.rows[i], i))[:MOST_ROWS]
    positions = sorted(order)
    keep = np.zeros(extract.content.rows, dtype=np.bool_)
    keep[positions] = True
    return positions, extract.content.kept(keep)


def _last(connection: sqlite3.Connection, source: str) -> int:
    (last,) = connection.execute(
        "SELECT coalesce(max(t.number), 0) FROM touched t JOIN extracts e ON e.name = t.extract WHERE e.source = ?",
        (source,),
    ).fetchone()
    return int(last)
