"""Logs as a reader finds them: in a bundle or run folder, in a file of evidence, or in a log.db. Judges nothing."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compliance.canonical import b64decode, parse_json
from compliance.errors import InputError
from compliance.files import read_bytes, read_head
from compliance.log import expired, note, tree
from compliance.log.entry import Entry, decode
from compliance.log.evidence import LogEvidence
from compliance.log.read_only import ReadOnlyDatabase, look
from compliance.validation import load_model

MAGIC = b"SQLite format 3\x00"
_LOG = "log.db"


@dataclass(frozen=True)
class LogView:
    """What can be seen of one log. Entries are those that their leaf hashes commit to; nothing else was checked.

    checkpoints: signed notes with the cosignature lines that are known here, smallest size first; the last may be
    smaller than the log. whole: every entry that is not expired can be seen, not only those of one study. expired:
    index -> class of record, of entries whose text went by retention, as an entry of kind `compaction` says; their
    leaf hashes stand.
    """

    origin: str
    leaf_hashes: Sequence[bytes]
    checkpoints: tuple[str, ...]
    entries: Mapping[int, Entry]
    whole: bool
    expired: Mapping[int, str] = field(default_factory=dict)

    @property
    def member(self) -> str:
        """Whose log it is, by its origin."""
        return self.origin.rpartition("/")[2]

    @property
    def size(self) -> int:
        """How many entries the log has, seen or not."""
        return len(self.leaf_hashes)

    def of(self, study: str, *kinds: str) -> list[Entry]:
        """The entries of a study, of these kinds if any are given, in order."""
        return [e for e in self.entries.values() if e.study == study and (not kinds or e.kind in kinds)]


def read_views(path: Path) -> tuple[LogView, ...]:
    """The logs at `path`: a bundle or run folder, the home of an agent or operator, a file of evidence, a log.db.

    Raises InputError RSD-2005 (no such file), RSD-9041 (malformed), RSD-5060 (no log there), CheckFailed RSD-5033,
    RSD-5035 (an entry is not what was hashed), RSD-5062 (one is missing), EnvironmentFault RSD-5030.
    """
    if not path.is_dir():
        return (_file(path),)
    if (path / _LOG).is_file():
        return (_database(path / _LOG),)
    found = sorted((path / "evidence").glob("*.json"))
    if not found:
        raise InputError(
            "RSD-5060",
            f"{path} holds no log",
            rule="logs stand in a bundle, a run folder, the evidence of a log, a home, or a log.db",
            found="neither log.db nor evidence/",
            limit="one of those",
            next="give the folder of a bundle, a run or a home, or a file",
        )
    return tuple(_file(file) for file in found)


def view_of(evidence: LogEvidence, what: str) -> LogView:
    """The log in a file of evidence. Raises InputError RSD-9041, CheckFailed RSD-5033, RSD-5062."""
    hashes = evidence.hashes()
    entries: dict[int, Entry] = {}
    for held in sorted(evidence.entries, key=lambda e: e.index):
        data = b64decode(held.entry, f"entry {held.index} in {what}")
        expected = hashes[held.index] if held.index < len(hashes) else b""
        entries[held.index] = decode(tree.hashed(evidence.origin, held.index, expected, data))
    notes = (*evidence.earlier, evidence.checkpoint)
    return seen(evidence.origin, hashes, notes, entries)


def seen(origin: str, hashes: list[bytes], notes: tuple[str, ...], entries: dict[int, Entry]) -> LogView:
    """The view of a log of which these entries are there. Raises CheckFailed RSD-5062 (a wrong compaction entry)."""
    named = expired.expired_of(entries.values(), len(hashes))
    gone = {index: name for index, name in named.items() if index not in entries}
    return LogView(origin, hashes, notes, entries, len(entries) + len(gone) == len(hashes), gone)


def _file(path: Path) -> LogView:
    if is_database(path):
        return _database(path)
    what = str(path)
    return view_of(load_model(LogEvidence, parse_json(read_bytes(path, "log"), what), "RSD-9041", what), what)


def is_database(path: Path) -> bool:
    """Whether `path` is a file of SQLite's, however large. Raises InputError RSD-2005 for what cannot be read."""
    return path.is_file() and read_head(path, "log", len(MAGIC)) == MAGIC


def _database(path: Path) -> LogView:
    def read(connection: sqlite3.Connection) -> LogView:
        with ReadOnlyDatabase(path, connection).reading() as reading:
            tree.require_sound(reading)
            origin = _origin(reading)
            tree.check_ends(reading, origin)
            size = tree.size(reading)
            with _without_collecting():
                entries = {e.index: e for e in tree.read(reading, origin, 0, size)}
            return seen(origin, tree.leaf_hashes(reading, size), _notes(reading), entries)

    return look(path, read)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """While thousands of objects are made that stay, looking for garbage among them again and again finds none."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _origin(reading: sqlite3.Connection) -> str:
    row = reading.execute("SELECT origin FROM log").fetchone()
    if row is None:
        raise tree.damaged("this file does not say whose log it is", "no origin", "its origin")
    return str(row[0])


def _notes(reading: sqlite3.Connection) -> tuple[str, ...]:
    signed = {size: note.parse(text) for size, text in reading.execute("SELECT size, note FROM checkpoints")}
    for size, line in reading.execute("SELECT size, line FROM cosignatures ORDER BY size, name"):
        if size not in signed:
            raise tree.damaged(f"there is a cosignature at {size}, and no checkpoint", line[:80], "its checkpoint")
        signed[size] = note.with_signature(signed[size], note.parse_line(line))
    return tuple(signed[size].encode() for size in sorted(signed))
