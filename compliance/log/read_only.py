"""A store read while others write it, or while nobody does: nothing is created, changed or locked for long."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed, ResidencyError
from compliance.log.database import BUSY_TIMEOUT_S, Database, unreadable
from compliance.log.store import LogStore

T = TypeVar("T")
# SQLite creates the shared-memory file even for a reader, unless it is told not to.
_BESIDE_A_WRITER: Final = "mode=ro&readonly_shm=1"
_ALONE: Final = "mode=ro&immutable=1"


class ReadOnlyDatabase(Database):
    """A `Database` over a connection that cannot write; `writing` fails with EnvironmentFault RSD-5030."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = connection


def look(path: Path, action: Callable[[sqlite3.Connection], T]) -> T:
    """What `action` reads from the SQLite file at `path`; no byte of the folder changes, whoever else has it open.

    The connection is in autocommit mode and closed afterwards. Raises what `action` raises, and EnvironmentFault
    RSD-5030 where the file cannot be read: missing, damaged, or a write-ahead log lies beside it without its shared
    memory. `action` may be called twice.
    """
    try:
        return _settled(path, action)
    except (sqlite3.Error, UnicodeDecodeError) as e:  # the last: text of a damaged file
        raise unreadable(path, e) from e


def _settled(path: Path, action: Callable[[sqlite3.Connection], T]) -> T:
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        return _look(path, _BESIDE_A_WRITER, action)
    try:
        found = _look(path, _ALONE, action)
    except (sqlite3.Error, UnicodeDecodeError, ResidencyError):
        if not wal.exists():
            raise
    else:
        if not wal.exists():
            return found
    return _look(path, _BESIDE_A_WRITER, action)  # somebody began to write in between: what was read may be torn


def _look(path: Path, how: str, action: Callable[[sqlite3.Connection], T]) -> T:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{how}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    try:
        return action(connection)
    finally:
        connection.close()


def look_at_log(path: Path, origin: str, key: Ed25519PrivateKey, action: Callable[[LogStore], T]) -> T:
    """What `action` reads from the log at `path`. Raises CheckFailed RSD-5031 for the log of another origin or key."""

    def opened(connection: sqlite3.Connection) -> T:
        database = ReadOnlyDatabase(path, connection)
        _require_origin(database, origin, key)
        return action(LogStore(database, origin, key))

    return look(path, opened)


def _require_origin(database: Database, origin: str, key: Ed25519PrivateKey) -> None:
    own = (origin, key.public_key().public_bytes_raw())
    with database.reading() as connection:
        held = connection.execute("SELECT origin, public_key FROM log").fetchone()
    if held is None or tuple(held) != own:
        raise CheckFailed(
            "RSD-5031",
            "this file is the log of another origin or key",
            rule="one file, one log, one key",
            found="no owner" if held is None else f"{held[0]} {held[1].hex()[:16]}",
            limit=f"{own[0]} {own[1].hex()[:16]}",
            next="put this home's own log and key back where they were",
        )
