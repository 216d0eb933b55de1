"""The tables of the log store: entries, and the hashes of all complete subtrees over them.

Functions of an open transaction; who opens it decides about atomicity.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.errors import CheckFailed, ResidencyError
from compliance.log import merkle
from compliance.log.entry import Entry, decode
from compliance.log.merkle import Subtrees

SCHEMA = """
CREATE TABLE log (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL, public_key BLOB NOT NULL) STRICT;
CREATE TABLE entries (idx INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE nodes (
    level INTEGER NOT NULL, i INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, i)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
CREATE TABLE cosignatures (
    size INTEGER NOT NULL, name TEXT NOT NULL, line TEXT NOT NULL, PRIMARY KEY (size, name)
) STRICT, WITHOUT ROWID
"""
_RULE = "every stored hash is checked again"
_NEXT = "stop; restore the newest backup of the log, and tell the witnesses and the auditor"


def claim(connection: sqlite3.Connection, origin: str, public_key: Ed25519PublicKey) -> None:
    """Bind a new file to its log; require that an old one is of this log. Raises CheckFailed RSD-5031."""
    raw = public_key.public_bytes_raw()
    connection.execute("INSERT OR IGNORE INTO log VALUES (1, ?, ?)", (origin, raw))
    held = connection.execute("SELECT origin, public_key FROM log").fetchone()
    if tuple(held) != (origin, raw):
        raise CheckFailed(
            "RSD-5031",
            "this file is the log of another origin or key",
            rule="one file, one log, one key",
            found=f"{held[0]} {held[1].hex()[:16]}",
            limit=f"{origin} {raw.hex()[:16]}",
            next="open the log with its own origin and key, or choose another file",
        )


def size(connection: sqlite3.Connection) -> int:
    """The number of leaves."""
    found = connection.execute("SELECT max(i) FROM nodes WHERE level = 0").fetchone()[0]
    return 0 if found is None else int(found) + 1


def insert(connection: sqlite3.Connection, entry: Entry) -> bytes:
    """Insert the next entry and the subtrees that it completes; returns its leaf hash. Raises CheckFailed RSD-5035."""
    data = entry.encode()
    connection.execute("INSERT INTO entries VALUES (?, ?)", (entry.index, data))
    leaf = merkle.leaf_hash(data)
    lookup = subtrees(connection)
    level, i, node = 0, entry.index, leaf
    connection.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, i, node))
    while i & 1:
        node = merkle.node_hash(lookup(level, i - 1), node)
        level, i = level + 1, i >> 1
        connection.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, i, node))
    return leaf


def subtrees(connection: sqlite3.Connection) -> Subtrees:
    """The lookup of complete subtrees. It raises CheckFailed RSD-5035 for one that should be there and is not."""

    def lookup(level: int, i: int) -> bytes:
        row = connection.execute("SELECT hash FROM nodes WHERE level = ? AND i = ?", (level, i)).fetchone()
        if row is None:
            raise _damaged(f"the tree lacks node {i} of level {level}", "nothing", "32 bytes")
        return bytes(row[0])

    return lookup


def leaf_hashes(connection: sqlite3.Connection, count: int) -> list[bytes]:
    """The first `count` leaf hashes. Raises CheckFailed RSD-5035 if some are missing."""
    rows = connection.execute("SELECT hash FROM nodes WHERE level = 0 AND i < ? ORDER BY i", (count,)).fetchall()
    if len(rows) != count:
        raise _damaged("the tree lacks leaf hashes", len(rows), count)
    return [bytes(row[0]) for row in rows]


def read(
    connection: sqlite3.Connection, origin: str, start: int, end: int, marks: tuple[bytes, ...] = ()
) -> Iterator[Entry]:
    """The entries [start, end) in order, each checked against its leaf hash. Raises CheckFailed RSD-5033, RSD-5035.

    Those whose bytes lack one of `marks` are hashed and not parsed.
    """
    query = (
        "SELECT n.i, n.hash, e.data FROM nodes n LEFT JOIN entries e ON e.idx = n.i"
        " WHERE n.level = 0 AND n.i >= ? AND n.i < ? ORDER BY n.i"
    )
    rows = connection.execute(query, (start, end))
    for expected in range(start, end):
        row = rows.fetchone()
        if row is None or row[0] != expected:
            raise _damaged(f"the tree of log {origin} lacks leaf {expected}", "nothing", "32 bytes")
        data = hashed(origin, expected, row[1], row[2])
        if all(mark in data for mark in marks):
            yield _parsed(origin, expected, data)


def check_ends(connection: sqlite3.Connection, origin: str) -> None:
    """The cheap check: as many entries as leaves, without gaps, all peaks there, the last entry as hashed.

    Raises CheckFailed RSD-5033, RSD-5035.
    """
    leaves = size(connection)
    count, last = connection.execute("SELECT count(*), coalesce(max(idx) + 1, 0) FROM entries").fetchone()
    nodes = connection.execute("SELECT count(*) FROM nodes").fetchone()[0]
    expected = 2 * leaves - leaves.bit_count()  # leaves and complete inner nodes
    if (count, last, nodes) != (leaves, leaves, expected):
        found = f"{count} entries up to {last}, {nodes} nodes"
        raise _damaged(f"entries and tree of log {origin} differ", found, f"{leaves} entries, {expected} nodes")
    for _ in read(connection, origin, max(leaves - 1, 0), leaves):
        merkle.root_from(subtrees(connection), leaves)


def check_all(connection: sqlite3.Connection, origin: str) -> int:
    """Hash all entries and nodes again; returns the number of entries. Raises CheckFailed RSD-5033, RSD-5035."""
    leaves = size(connection)
    lookup = subtrees(connection)
    for entry in read(connection, origin, 0, leaves):
        _check_nodes_above(lookup, entry.index)
    check_ends(connection, origin)
    return leaves


def _check_nodes_above(lookup: Subtrees, index: int) -> None:
    """Check the inner nodes that leaf `index` completes, given that all nodes before them are right."""
    level, i = 0, index
    while i & 1:
        level, i = level + 1, i >> 1
        stored = lookup(level, i)
        computed = merkle.node_hash(lookup(level - 1, 2 * i), lookup(level - 1, 2 * i + 1))
        if stored != computed:
            raise _damaged(f"node {i} of level {level} is not the hash of its children", stored.hex(), computed.hex())


def hashed(origin: str, index: int, leaf: bytes, data: bytes | None) -> bytes:
    """`data`, if its leaf hash is `leaf`. Raises CheckFailed RSD-5033."""
    found = "nothing" if data is None else merkle.leaf_hash(data).hex()
    if data is None or found != leaf.hex():
        raise _bad_entry(origin, index, found, leaf.hex())
    return data


def _parsed(origin: str, index: int, data: bytes) -> Entry:
    try:
        entry = decode(data)
    except ResidencyError as e:
        raise _bad_entry(origin, index, e.message, "an entry") from e
    if entry.index != index:
        raise _bad_entry(origin, index, f"entry {entry.index}", f"entry {index}")
    return entry


def _bad_entry(origin: str, index: int, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5033",
        f"entry {index} of log {origin} is not the one that was hashed into the tree",
        rule=_RULE,
        found=found,
        limit=limit,
        next=_NEXT,
    )


def _damaged(message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed("RSD-5035", message, rule=_RULE, found=found, limit=limit, next=_NEXT)
