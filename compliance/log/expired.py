"""Entries that lost their text by retention: the leaf hash stays, and a `compaction` entry says that it was on purpose.

Where the text stood, the store holds a mark: the index of that compaction entry. A mark that no such entry confirms is
damage, and so is a text that is missing without a mark.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence

from compliance.errors import CheckFailed
from compliance.log.bodies import CompactionBody
from compliance.log.entry import MAX_INDEX, Entry
from compliance.validation import load_model

COMPACTION = "compaction"
MARK_SIZE = 8  # bytes; no entry is as short
ALL_MARKS = f"SELECT idx, data FROM entries WHERE length(data) = {MARK_SIZE}"  # noqa: S608 - a number
Read = Callable[[int], Entry | None]


def mark(by: int) -> bytes:
    """What stands in place of a text that the compaction entry at index `by` names."""
    return by.to_bytes(MARK_SIZE, "big")


def body_of(entry: Entry) -> CompactionBody:
    """The body of a compaction entry. Raises InputError RSD-9041."""
    return load_model(CompactionBody, entry.body, "RSD-9041", f"entry {entry.index}")


def expired_of(entries: Iterable[Entry], size: int) -> dict[int, str]:
    """Index -> record class of every entry that the compaction entries among `entries` name.

    Not all of them need be gone: a copy from before may hold their texts. `size`: of the log that is looked at. Raises
    CheckFailed RSD-5062.
    """
    found: dict[int, str] = {}
    for entry in entries:
        if entry.kind == COMPACTION:
            found.update(dict.fromkeys(_named(entry, size), body_of(entry).record_class))
    return found


def check_leaves(entry: Entry, leaf_hashes: Sequence[bytes]) -> None:
    """The leaf hashes that a compaction entry took over are those of the log. Raises CheckFailed RSD-5062."""
    body = body_of(entry)
    found = leaves_sha256(leaf_hashes[i] for i in _named(entry, len(leaf_hashes)))
    if found != body.leaves_sha256:
        raise _no_proof(entry.index, found, body.leaves_sha256)


def leaves_sha256(leaves: Iterable[bytes]) -> str:
    """SHA-256 of leaf hashes one after the other, in hex."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(leaf)
    return digest.hexdigest()


class Marks:
    """What the marks of one log say, each checked against the compaction entry that it names. Not thread-safe."""

    def __init__(self, read: Read) -> None:
        """`read` gives the entry at an index, checked against its leaf hash; None for one that is marked itself."""
        self._read = read
        self._known: dict[int, tuple[str, frozenset[int]]] = {}

    def record_class(self, index: int, data: bytes) -> str:
        """The class under which entry `index` expired, by its mark `data`. Raises CheckFailed RSD-5062."""
        by = int.from_bytes(data, "big")
        if by not in self._known:
            self._known[by] = self._named(index, by)
        name, named = self._known[by]
        if index not in named:
            raise _no_proof(index, f"entry {by} does not name it", "a compaction entry that names it")
        return name

    def _named(self, index: int, by: int) -> tuple[str, frozenset[int]]:
        if not index < by <= MAX_INDEX:
            raise _no_proof(index, f"a mark of entry {by}", "a later compaction entry")
        entry = self._read(by)
        if entry is None or entry.kind != COMPACTION:
            found = f"entry {by} is of kind {entry.kind}" if entry else f"entry {by} has no text itself"
            raise _no_proof(index, found, "a compaction entry")
        return body_of(entry).record_class, frozenset(_named(entry, by))


def is_mark(data: bytes | None) -> bool:
    """Whether a stored text is a mark that it is gone."""
    return data is not None and len(data) == MARK_SIZE


def marked(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Every index with a mark, and the mark."""
    for index, data in connection.execute(f"{ALL_MARKS} ORDER BY idx"):
        yield int(index), bytes(data)


def _named(entry: Entry, size: int) -> tuple[int, ...]:
    """What a compaction entry names: earlier entries only."""
    ranges = body_of(entry).ranges
    last = ranges[-1][1]
    if last >= min(entry.index, size):
        raise _no_proof(entry.index, f"it names entry {last}", f"entries before {entry.index}")
    return body_of(entry).indices()


def _no_proof(index: int, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5062",
        f"entry {index} is no proof, or has none, that texts went by retention",
        rule="a text goes only after a compaction entry named it",
        found=found,
        limit=limit,
        next="do not rely on this log; restore the newest backup, and tell the witnesses and the auditor",
    )
