"""The tables of the log store: entries, and the hashes of all complete subtrees over them.

Functions of an open transaction; who opens it decides about atomicity.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.errors import CheckFailed, InputError, Refused, ResidencyError
from compliance.log import expired, merkle
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


def require_sound(connection: sqlite3.Connection) -> None:
    """A file from somebody else has these tables and no others, with values of these types; reads all of it once.

    Raises CheckFailed RSD-5035.
    """
    held = {str(row[0]).strip() for row in connection.execute("SELECT sql FROM sqlite_schema")}
    if held != {statement.strip() for statement in SCHEMA.split(";")}:
        raise damaged("this file has not the tables of a log", f"{len(held)} tables or other things", "its 5 tables")
    said = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != ("ok",):
        raise damaged("SQLite finds the file damaged", str(said)[:200], "ok")


def size(connection: sqlite3.Connection) -> int:
    """The number of leaves."""
    found = connection.execute("SELECT max(i) FROM nodes WHERE level = 0").fetchone()[0]
    return 0 if found is None else int(found) + 1


def insert(connection: sqlite3.Connection, start: int, encoded: Sequence[bytes]) -> list[bytes]:
    """Insert the next entries, from index `start` on, and the subtrees that they complete; returns their leaf hashes.

    Raises CheckFailed RSD-5035.
    """
    lookup, fresh = subtrees(connection), dict[tuple[int, int], bytes]()
    leaves = []
    for index, data in enumerate(encoded, start):
        leaf = node = merkle.leaf_hash(data)
        level, i = 0, index
        fresh[level, i] = node
        while i & 1:
            node = merkle.node_hash(fresh.get((level, i - 1)) or lookup(level, i - 1), node)
            level, i = level + 1, i >> 1
            fresh[level, i] = node
        leaves.append(leaf)
    connection.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(encoded, start))
    connection.executemany("INSERT INTO nodes VALUES (?, ?, ?)", ((*at, node) for at, node in fresh.items()))
    return leaves


def subtrees(connection: sqlite3.Connection) -> Subtrees:
    """The lookup of complete subtrees. It raises CheckFailed RSD-5035 for one that should be there and is not."""

    def lookup(level: int, i: int) -> bytes:
        row = connection.execute("SELECT hash FROM nodes WHERE level = ? AND i = ?", (level, i)).fetchone()
        if row is None:
            raise damaged(f"the tree lacks node {i} of level {level}", "nothing", "32 bytes")
        return bytes(row[0])

    return lookup


def leaf_hashes(connection: sqlite3.Connection, count: int) -> list[bytes]:
    """The first `count` leaf hashes. Raises CheckFailed RSD-5035 if some are missing."""
    rows = connection.execute("SELECT hash FROM nodes WHERE level = 0 AND i < ? ORDER BY i", (count,)).fetchall()
    if len(rows) != count:
        raise damaged("the tree lacks leaf hashes", len(rows), count)
    return [bytes(row[0]) for row in rows]


def read(connection: sqlite3.Connection, origin: str, start: int, end: int) -> Iterator[Entry]:
    """The entries [start, end) in order, each checked against its leaf hash; those that expired are left out.

    Raises CheckFailed RSD-5033, RSD-5035, RSD-5062.
    """
    return _kept(connection, origin, raw(connection, origin, start, end))


def some(connection: sqlite3.Connection, origin: str, indices: Iterable[int]) -> Iterator[Entry]:
    """The entries at `indices`, as `read` gives them."""
    rows = (row for index in indices for row in raw(connection, origin, index, index + 1))
    return _kept(connection, origin, rows)


def _kept(connection: sqlite3.Connection, origin: str, rows: Iterable[tuple[int, bytes, bytes]]) -> Iterator[Entry]:
    marks = marks_of(connection, origin)
    for index, _, data in rows:
        if expired.is_mark(data):
            marks.removal(index, data)
        else:
            yield parsed(origin, index, data)


def one(connection: sqlite3.Connection, origin: str, index: int) -> Entry:
    """Entry `index`, checked against its leaf hash. Raises CheckFailed RSD-5033, RSD-5035, InputError RSD-5061."""
    (data,) = (data for _, _, data in raw(connection, origin, index, index + 1))
    if expired.is_mark(data):
        name = marks_of(connection, origin).removal(index, data).record_class
        raise InputError(
            "RSD-5061",
            f"entry {index} of log {origin} expired under class {name}; its leaf is in the tree",
            rule="what retention wants gone is gone; its hash stays",
            found=f"named by compaction entry {int.from_bytes(data, 'big')}",
            limit="an entry whose text is kept",
            next="see that compaction entry: residency log export",
        )
    return parsed(origin, index, data)


def marks_of(connection: sqlite3.Connection, origin: str) -> expired.Marks:
    """What the marks of this log say."""

    def read(index: int) -> Entry | None:
        ((_, _, data),) = raw(connection, origin, index, index + 1)
        return None if expired.is_mark(data) else parsed(origin, index, data)

    return expired.Marks(read)


def expired_by(connection: sqlite3.Connection, origin: str, indices: Iterable[int]) -> dict[int, int]:
    """Of these entries those that are marked: index -> the compaction entry. Raises CheckFailed as `read`."""
    marks = marks_of(connection, origin)
    found: dict[int, int] = {}
    for index in indices:
        for _, _, data in raw(connection, origin, index, index + 1):
            if expired.is_mark(data):
                marks.removal(index, data)
                found[index] = int.from_bytes(data, "big")
    return found


def leaves_to_strip(connection: sqlite3.Connection, ranges: Iterable[tuple[int, int]], covered: int) -> Iterator[bytes]:
    """The leaf hashes of entries whose texts are about to go. Raises Refused RSD-5065."""
    query = (
        "SELECT n.i, n.hash, length(e.data) FROM nodes n JOIN entries e ON e.idx = n.i"
        " WHERE n.level = 0 AND n.i BETWEEN ? AND ? ORDER BY n.i"
    )
    for first, last in ranges:
        found = connection.execute(query, (first, last)).fetchall()
        gone = [index for index, _, length in found if length <= expired.MARK_SIZE]
        if len(found) != last - first + 1 or gone or last >= covered:
            raise Refused(
                "RSD-5065",
                f"the entries {first} to {last} cannot lose their text now",
                rule="a text goes once, and after somebody cosigned its leaf",
                found=f"{len(found)} entries, {len(gone)} of them without text, cosigned up to {covered}",
                limit=f"{last - first + 1} entries, all with their text, before {covered}",
                next="plan again: residency log compact --dry-run",
            )
        yield from (bytes(leaf) for _, leaf, _ in found)


def remove_texts(connection: sqlite3.Connection, first: int, last: int, mark: bytes) -> None:
    """Put `mark` in place of the texts of the entries first to last."""
    connection.execute("UPDATE entries SET data = ? WHERE idx BETWEEN ? AND ?", (mark, first, last))


def raw(connection: sqlite3.Connection, origin: str, start: int, end: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Index, leaf hash, and text or mark, of the entries [start, end) in order; each text was hashed.

    Raises CheckFailed RSD-5033, RSD-5035.
    """
    query = (
        "SELECT n.i, n.hash, e.data FROM nodes n LEFT JOIN entries e ON e.idx = n.i"
        " WHERE n.level = 0 AND n.i >= ? AND n.i < ? ORDER BY n.i"
    )
    expected = start
    for index, leaf, data in connection.execute(query, (start, end)):
        if index != expected:
            break
        yield expected, leaf, data if expired.is_mark(data) else hashed(origin, expected, leaf, data)
        expected += 1
    if expected < end:
        raise damaged(f"the tree of log {origin} lacks leaf {expected}", "nothing", "32 bytes")


def check_ends(connection: sqlite3.Connection, origin: str) -> None:
    """The cheap check: as many entries as leaves, without gaps, all peaks there, the last entry as hashed.

    Raises CheckFailed RSD-5033, RSD-5035.
    """
    leaves = size(connection)
    query = "SELECT count(*), coalesce(min(idx), 0), coalesce(max(idx) + 1, 0) FROM entries"
    count, first, last = connection.execute(query).fetchone()
    nodes = connection.execute("SELECT count(*) FROM nodes").fetchone()[0]
    expected = 2 * leaves - leaves.bit_count()  # leaves and complete inner nodes
    if (count, first, last, nodes) != (leaves, 0, leaves, expected):
        found = f"{count} entries from {first} up to {last}, {nodes} nodes"
        raise damaged(f"entries and tree of log {origin} differ", found, f"{leaves} entries, {expected} nodes")
    for _ in read(connection, origin, max(leaves - 1, 0), leaves):
        merkle.root_from(subtrees(connection), leaves)


def hashed(origin: str, index: int, leaf: bytes, data: bytes | None) -> bytes:
    """`data`, if its leaf hash is `leaf`. Raises CheckFailed RSD-5033."""
    found = None if data is None else merkle.leaf_hash(data)
    if data is None or found != leaf:
        raise bad_entry(origin, index, found.hex() if found else "nothing", leaf.hex())
    return data


def parsed(origin: str, index: int, data: bytes) -> Entry:
    """The entry in a text that was hashed. Raises CheckFailed RSD-5033."""
    try:
        entry = decode(data)
    except ResidencyError as e:
        raise bad_entry(origin, index, e.message, "an entry") from e
    if entry.index != index:
        raise bad_entry(origin, index, f"entry {entry.index}", f"entry {index}")
    return entry


def bad_entry(origin: str, index: int, found: str, limit: str) -> CheckFailed:
    """RSD-5033."""
    return CheckFailed(
        "RSD-5033",
        f"entry {index} of log {origin} is not the one that was hashed into the tree",
        rule=_RULE,
        found=found,
        limit=limit,
        next=_NEXT,
    )


def damaged(message: str, found: object, limit: object) -> CheckFailed:
    """RSD-5035."""
    return CheckFailed("RSD-5035", message, rule=_RULE, found=found, limit=limit, next=_NEXT)
