"""Backup and restore of an agent's home."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from client.books import log_put_back
from compliance.errors import Refused
from compliance.log import backup, merkle, tree
from compliance.log.backup import BackupList, Kind, Made
from compliance.log.read_only import look
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import LogHead

# Caches of embeddings and prepared models are made again from the data; nothing of them is worth a copy.
KIND: Final = Kind("agent", "agent.json", frozenset({"cache", "warm"}))
_ANOTHER: Final = "restore another backup; nothing was restored"


def make(home: Path, out: Path, *, keys: bool) -> Made:
    """`compliance.log.backup.make` of an agent's home."""
    return backup.make(home, out, KIND, keys=keys)


def restore(file: Path, home: Path) -> BackupList:
    """`compliance.log.backup.restore`; raises Refused RSD-1225 too, if log and ledger are not of one time.

    Then the ledger lacks a charge that the log holds, or a charge found more of the log.
    """
    return backup.restore(file, home, KIND, _check_ledger)


def _check_ledger(home: Path) -> None:
    path, missing, seen = home / "ledger.db", _charges(home), {}
    if path.exists():
        with Ledger.open(path) as ledger:
            missing = [(source, seq, head) for source, seq, head in missing if not ledger.holds(source, seq, head)]
            seen = ledger.logs_seen()
    if missing:
        raise Refused(
            "RSD-1225",
            "the ledger in the backup lacks a charge that its log holds",
            rule="what was spent stays spent",
            found=f"no charge number {missing[0][1]}",
            limit="every charge of the log",
            next=_ANOTHER,
        )
    refusal = look(home / "log.db", lambda connection: _put_back(connection, seen))
    if refusal is not None:
        raise Refused(**(refusal.as_json() | {"next": _ANOTHER}))


def _charges(home: Path) -> list[tuple[str, int, str]]:
    """Source, number and head of every charge that the log holds."""

    def read(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
        entries = tree.read(connection, _origin(connection), 0, tree.size(connection))
        return [(str(e.body["source"]), int(e.body["seq"]), str(e.body["head"])) for e in entries if e.kind == "charge"]

    return look(home / "log.db", read)


def _put_back(connection: sqlite3.Connection, seen: Mapping[str, LogHead]) -> Refused | None:
    inner = tree.subtrees(connection)
    return log_put_back(_origin(connection), tree.size(connection), lambda n: merkle.root_from(inner, n), seen)


def _origin(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT origin FROM log").fetchone()[0])
