"""Backup and restore of an agent's home."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from compliance.errors import Refused
from compliance.log import backup, tree
from compliance.log.backup import BackupList, Kind, Made
from compliance.log.read_only import look
from compliance.privacy.ledger import Ledger

# Caches of embeddings and prepared models are made again from the data; nothing of them is worth a copy.
KIND: Final = Kind("agent", "agent.json", frozenset({"cache", "warm"}))


def make(home: Path, out: Path, *, keys: bool) -> Made:
    """`compliance.log.backup.make` of an agent's home."""
    return backup.make(home, out, KIND, keys=keys)


def restore(file: Path, home: Path) -> BackupList:
    """`compliance.log.backup.restore`; raises Refused RSD-1225 too, if the ledger lacks a charge that the log holds."""
    return backup.restore(file, home, KIND, _check_ledger)


def _check_ledger(home: Path) -> None:
    def charges(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
        origin = str(connection.execute("SELECT origin FROM log").fetchone()[0])
        entries = tree.read(connection, origin, 0, tree.size(connection))
        return [(str(e.body["source"]), int(e.body["seq"]), str(e.body["head"])) for e in entries if e.kind == "charge"]

    logged = look(home / "log.db", charges)
    ledger = Ledger.open(home / "ledger.db") if logged else None
    try:
        missing = [seq for source, seq, head in logged if ledger is None or not ledger.holds(source, seq, head)]
    finally:
        if ledger is not None:
            ledger.close()
    if missing:
        raise Refused(
            "RSD-1225",
            "the ledger in the backup lacks a charge that its log holds",
            rule="what was spent stays spent",
            found=f"no charge number {missing[0]}",
            limit="every charge of the log",
            next="restore another backup; nothing was restored",
        )
