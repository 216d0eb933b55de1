"""Durable files: whole or not at all."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from compliance.errors import EnvironmentFault, InputError

MOST_BYTES: Final = 64 << 20  # of one input file that is read whole


def quoted(path: Path) -> str:
    """`path` as one word of a command line that people copy into a shell."""
    return shlex.quote(str(path))


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in `folder` survive a power cut (fsync(2)). Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def which_files(database: Path) -> tuple[tuple[int, int], ...]:
    """Device and inode of a database of SQLite's that is open, and of its write-ahead file. Raises OSError."""
    found = (database.stat(), database.with_name(f"{database.name}-wal").stat())
    return tuple((file.st_dev, file.st_ino) for file in found)


def require_same_files(database: Path, opened: tuple[tuple[int, int], ...]) -> None:
    """Raises OSError if other files lie there than those that were `opened`: what went into those is lost."""
    if which_files(database) != opened:
        raise OSError("it was removed or replaced while it was open; what is written now, nobody finds")


def write_durably(path: Path, data: bytes | memoryview, *, private: bool = False) -> None:
    """Write `data` so that after a crash `path` holds the old or the new bytes, never a part; fsynced with its folder.

    `private` makes the file readable by its owner only. Raises EnvironmentFault RSD-7001 (no space, no right).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            Path(name).chmod(0o600 if private else 0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as e:
        raise EnvironmentFault(
            "RSD-7001",
            f"cannot write {path}: {e.strerror}",
            rule="nothing is left half written",
            found=e.strerror,
            next="free disk space or fix the folder's owner, then repeat the command",
        ) from e


def write_new(path: Path, data: bytes) -> None:
    """`write_durably` to a path where nothing is. Raises InputError RSD-2009, EnvironmentFault RSD-7001."""
    refuse_existing(path)
    write_durably(path, data)


def write_all_new(files: Mapping[Path, bytes]) -> None:
    """`write_new` of several files in this order: all of them are there on return, or none, and no folder for them.

    After a crash the first ones may be there. Raises as `write_new`.
    """
    for path in files:
        refuse_existing(path)
    above = {folder for path in files for folder in path.parents if not folder.exists()}
    begun: list[Path] = []
    try:
        for path, data in files.items():
            begun.append(path)
            write_durably(path, data)
    except BaseException:
        for path in begun:
            with suppress(OSError):  # the last one may not be there
                path.unlink()
        for folder in sorted(above, key=lambda f: len(f.parts), reverse=True):
            with suppress(OSError):  # it was not made, or somebody else has put something into it
                folder.rmdir()
        raise


def refuse_existing(path: Path) -> None:
    """Raises InputError RSD-2009 if something is at `path`."""
    if path.exists() or path.is_symlink():
        raise InputError(
            "RSD-2009",
            f"{path} exists already",
            rule="a file is never overwritten",
            found="a file",
            limit="nothing at this path",
            next="choose another path, or move the file away",
        )


def must_be_private(path: Path) -> None:
    """Nobody but its owner may read or write the private key or secret at `path`. Raises InputError RSD-6022."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InputError(
            "RSD-6022",
            f"others may use the private key at {path}",
            rule="a private key is its owner's alone",
            found=f"mode {mode:04o}",
            limit="mode 0600",
            next=f"chmod 600 {quoted(path)}; ask who may have read it, and have the key replaced if somebody may have",
        )


def absolute(path: Path, what: str) -> Path:
    """`path` from the root on, without links; it need not be there. Raises InputError RSD-2005: links in a circle."""
    try:
        return path.resolve()
    except RuntimeError as e:
        raise _unreadable(path, what, "links in a circle", "a path that ends somewhere") from e


def read_bytes(path: Path, what: str, most: int = MOST_BYTES) -> bytes:
    """The bytes of the plain file `path`, at most `most` of them; never waits for a pipe or a device.

    Raises InputError RSD-2005 that names `what` and the path.
    """
    data = read_head(path, what, most + 1)
    if len(data) > most:
        raise _unreadable(path, what, f"more than {most} bytes", f"{most} bytes")
    return data


def read_head(path: Path, what: str, most: int) -> bytes:
    """The first bytes of the plain file `path`, however long it is. Raises as `read_bytes`."""
    try:
        # Non-blocking: opening a pipe that nobody writes to would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise _unreadable(path, what, "no plain file", "a plain file")
            return f.read(most)
    except OSError as e:
        raise _unreadable(path, what, str(e.strerror), "a readable file") from e
    except ValueError as e:  # a zero byte in the name
        raise _unreadable(path, what, "a name that no file can have", "a readable file") from e


def _unreadable(path: Path, what: str, found: str, limit: str) -> InputError:
    return InputError(
        "RSD-2005", f"cannot read {what} at {path}: {found}", found=found, limit=limit, next="check the path"
    )
