"""The desk's read model: entries, decisions, charges and words of all places, in SQLite in memory, written once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from compliance.desk.sources import Flaw, Log, Place
from compliance.errors import ResidencyError
from compliance.log.entry import Entry
from compliance.release.bodies import ChargeBody, LoggedDecision, read_body, read_decision

_SCHEMA: Final = """
CREATE TABLE entry (
    log INT, idx INT, at TEXT, kind TEXT, study TEXT, gist TEXT, again INT, PRIMARY KEY (log, idx)) WITHOUT ROWID;
CREATE TABLE decision (
    log INT, idx INT, at TEXT, study TEXT, round INT, exporter TEXT, exporter_in TEXT, recipient TEXT,
    recipient_in TEXT, artifact TEXT, allow INT, rule TEXT, sent INT DEFAULT 0, leaf BLOB UNIQUE ON CONFLICT IGNORE);
CREATE TABLE charge (
    log INT, idx INT, at TEXT, study TEXT, site TEXT, round INT, attempt INT, leaf BLOB UNIQUE ON CONFLICT IGNORE);
CREATE INDEX decision_of ON decision (log, idx);
CREATE TABLE term (id INTEGER PRIMARY KEY, word TEXT UNIQUE);
CREATE TABLE occurs (term INT, log INT, idx INT, PRIMARY KEY (term, log, idx)) WITHOUT ROWID;
"""
_INDICES: Final = """
CREATE INDEX decision_at ON decision (at DESC, log, idx);
CREATE INDEX decision_allow ON decision (allow, at DESC, log, idx);
CREATE INDEX entry_kind ON entry (log, kind, idx);
CREATE INDEX charge_study ON charge (study, site, idx);
CREATE TABLE kinds AS SELECT log, study, kind, count(*) AS number, sum(1 - again) AS once, min(at) AS first,
    max(at) AS last FROM entry
    GROUP BY log, study, kind;
CREATE TABLE flow AS SELECT study, exporter, exporter_in, recipient, recipient_in, artifact, sum(allow) AS allowed,
    sum(1 - allow) AS denied, sum(sent) AS sent FROM decision
    GROUP BY study, exporter, exporter_in, recipient, recipient_in, artifact;
ANALYZE;
"""
_SHOWN: Final = (
    "statement", "site", "round", "attempt", "artifact", "recipient", "name", "run", "origin", "size", "code",
    "message", "reason", "call", "peer", "source", "rounds", "about", "class",
)  # fmt: skip
_LONGEST_WORD: Final = 128
Row = sqlite3.Row


class Books:
    """One connection for all threads; nothing can be written through it once it is built."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(_SCHEMA)
        self._terms: dict[str, int] = {}
        self._leaves: set[bytes] = set()

    def all(self, question: str, values: Sequence[object] = ()) -> list[Row]:
        """The rows that answer `question`."""
        with self._lock:
            return list(self._connection.execute(question, values))

    def one(self, question: str, values: Sequence[object] = ()) -> Any:
        """The first column of the first row, None without one."""
        found = self.all(question, values)
        return found[0][0] if found else None

    def add(self, log: Log, told: Callable[[int], None]) -> Iterator[Flaw]:
        """All entries of a log; `told` hears how many. Yields a flaw for each that no reader can make sense of."""
        self._connection.execute("BEGIN")
        for number, entry in enumerate(log.view.entries.values(), 1):
            try:
                self._add(log, entry)
            except ResidencyError as e:
                yield Flaw(f"entry {entry.index} of log {log.view.origin}", e)
            if number % 1000 == 0:
                told(1000)
        told(len(log.view.entries) % 1000)
        self._connection.execute("COMMIT")

    def finish(self) -> None:
        """Build the indices, and let nothing be written any more."""
        self._connection.executescript(_INDICES)
        self._terms, self._leaves = {}, set()
        self._connection.execute("PRAGMA query_only = ON")

    def _add(self, log: Log, entry: Entry) -> None:
        decided = read_decision(entry, f"entry {entry.index}") if entry.kind == "decision" else None
        leaf, run = log.view.leaf_hashes[entry.index], self._connection.execute
        row = (log.number, entry.index, entry.at, entry.kind, entry.study, gist(entry, decided), leaf in self._leaves)
        run("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._leaves.add(leaf)
        if decided is not None:
            self._add_decision(log, entry, decided, leaf)
        if entry.kind == "charge":
            paid = read_body(ChargeBody, entry, f"entry {entry.index}")
            made = (log.number, entry.index, entry.at, entry.study, log.view.member, paid.round, paid.attempt, leaf)
            run("INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?, ?)", made)
        if entry.kind == "transfer" and isinstance(entry.body.get("decision"), int):
            where = (log.number, entry.body["decision"])
            run("UPDATE decision SET sent = sent + 1 WHERE rowid = (SELECT rowid FROM decision WHERE log = ? AND"
                " idx = ?)", where)  # fmt: skip
        words = {leaf.hex(), entry.kind, log.view.member, entry.at[:10], *_words(entry.body)}
        found = [(self._term(word), log.number, entry.index) for word in words]
        self._connection.executemany("INSERT OR IGNORE INTO occurs VALUES (?, ?, ?)", found)

    def _add_decision(self, log: Log, entry: Entry, decided: LoggedDecision, leaf: bytes) -> None:
        decision, sent = decided.decision, decided.decision.transfer
        row = (
            log.number, entry.index, entry.at, entry.study, decided.round, sent.exporter.name,
            sent.exporter.jurisdiction, sent.recipient.name, sent.recipient.jurisdiction, sent.artifact,
            int(decision.allow), decision.rule, 0, leaf,
        )  # fmt: skip
        self._connection.execute("INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _term(self, word: str) -> int:
        known = self._terms.get(word)
        if known is None:
            known = self._terms[word] = len(self._terms) + 1
            self._connection.execute("INSERT INTO term VALUES (?, ?)", (known, word))
        return known


def build(places: Sequence[Place], told: Callable[[int], None] = lambda _: None) -> tuple[Books, tuple[Flaw, ...]]:
    """The books of all places, and what in them no reader can make sense of."""
    books = Books()
    flaws = [flaw for place in places for log in place.logs for flaw in books.add(log, told)]
    books.finish()
    return books, tuple(flaws)


def gist(entry: Entry, decided: LoggedDecision | None = None) -> str:
    """One line about an entry, for lists."""
    if decided is not None:
        decision, sent = decided.decision, decided.decision.transfer
        word = "ALLOW" if decision.allow else "DENY"
        return f"{word} {sent.artifact} to {sent.recipient.name} ({sent.recipient.jurisdiction}) by {decision.rule}"
    parts = [f"{key} {entry.body[key]}" for key in _SHOWN if isinstance(entry.body.get(key), str | int)]
    return ", ".join(parts)[:200]


def _words(body: object) -> Iterator[str]:
    """What somebody may look up: every short text in the body, in small letters."""
    if isinstance(body, str):
        if 2 <= len(body) <= _LONGEST_WORD:
            yield body.lower()
    elif isinstance(body, dict):
        for value in body.values():
            yield from _words(value)
    elif isinstance(body, list):
        for value in body:
            yield from _words(value)
