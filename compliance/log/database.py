"""SQLite as the log and the witness use it: durable, private to its owner, whole transactions or none."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compliance.errors import EnvironmentFault
from compliance.files import require_same_files, which_files

BUSY_TIMEOUT_S = 30.0
_OPEN_ATTEMPTS = 50


class Database:
    """One connection, usable from several threads and beside other processes. A failed write changes nothing."""

    def __init__(self, path: Path, schema: str) -> None:
        """Open or create `path` (mode 0600) with `schema`. Raises EnvironmentFault RSD-5030."""
        self.path = path
        self._lock = threading.RLock()
        with self._translated("open"):
            _create_private(path)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._configure(schema)
                self._opened = which_files(path)
            except BaseException:
                self._connection.close()
                raise

    def _configure(self, schema: str) -> None:
        self._use_wal()
        for pragma in ("synchronous=FULL", "trusted_schema=OFF", "cell_size_check=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self._transaction("BEGIN IMMEDIATE", "write") as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            for statement in [] if tables else schema.split(";"):
                connection.execute(statement)

    def _use_wal(self) -> None:
        # SQLite does not wait for another process here, whatever the busy timeout says.
        for attempt in range(_OPEN_ATTEMPTS):
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                if attempt == _OPEN_ATTEMPTS - 1:
                    raise
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """Close the connection; the object cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def fold(self) -> bool:
        """Move what is in the write-ahead file into the database file; whether that file is empty afterwards."""
        with self._lock, self._translated("fold"):
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, alone among all processes; on return from the block it is on disk.

        Any exception rolls everything back. SQLite's become EnvironmentFault RSD-5030.
        """
        with self._transaction("BEGIN IMMEDIATE", "write") as connection:
            yield connection
        with self._translated("write"):
            require_same_files(self.path, self._opened)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction: everything read in the block is of one moment. Raises EnvironmentFault RSD-5030."""
        with self._transaction("BEGIN", "read") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str, doing: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated(doing):
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as e:  # the last: text of a damaged file
            if doing == "read":
                raise unreadable(self.path, e) from e
            raise EnvironmentFault(
                "RSD-5030",
                f"cannot {doing} {self.path}: {e}",
                rule="what is not on disk did not happen: nothing may be released without its log entry",
                found=e,
                limit="a durable commit",
                next="free disk space, check the disk and the file's owner, then repeat; nothing was half written",
            ) from e


def unreadable(path: Path, error: Exception) -> EnvironmentFault:
    """RSD-5030 of who only reads: the file at `path` is damaged, or not this user's to read."""
    return EnvironmentFault(
        "RSD-5030",
        f"cannot read {path}: {error}",
        rule="a reader changes nothing, and repairs nothing",
        found=error,
        limit="a whole SQLite file that this user may read",
        next="check the file's owner; if it was cut off or damaged, obtain it again or restore the newest backup; "
        "if a .db-wal lies there without a .db-shm, start what writes the file once",
    )


def _create_private(path: Path) -> None:
    """Create `path` as 0600 before SQLite sees it: its -wal and -shm files inherit the mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
