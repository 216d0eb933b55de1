"""Bundles on disk: read into memory strictly, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.files import refuse_existing, sync_folder, write_durably

_MAX_FILES, _MAX_BYTES = 20_000, 4 << 30


def read_folder(folder: Path) -> dict[str, bytes]:
    """Relative POSIX path -> bytes of every file below `folder`.

    Raises InputError RSD-2005 if the folder cannot be read, CheckFailed RSD-9001 for anything but plain files and
    folders in it (links, sockets) and for more than 20,000 files or 4 GiB.
    """
    files: dict[str, bytes] = {}
    total = 0
    for path in _plain_files(folder):
        total += path.lstat().st_size  # before it is read: a file with holes may be larger than the memory
        if len(files) >= _MAX_FILES or total > _MAX_BYTES:
            found = f"{len(files) + 1} files, {total} bytes"
            raise _not_a_bundle(f"{folder} is too large for a bundle", found, f"{_MAX_FILES} files, {_MAX_BYTES} bytes")
        try:
            data = path.read_bytes()
        except OSError as e:
            raise _unreadable(path, e) from e
        files[path.relative_to(folder).as_posix()] = data
    return files


def _plain_files(folder: Path) -> list[Path]:
    def unreadable(error: OSError) -> None:
        raise _unreadable(folder, error) from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        for name in (*folders, *names):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise _not_a_bundle(f"{path} is neither a plain file nor a folder", stat.filemode(mode), "a plain file")
            if stat.S_ISREG(mode):
                found.append(path)
    return sorted(found)


def write_folder(out: Path, files: Mapping[str, bytes], check: Callable[[dict[str, bytes]], None]) -> None:
    """Write `files` into a hidden folder beside `out`, run `check` on what is read back, then rename it to `out`.

    After a crash or an error `out` does not exist. Raises InputError RSD-2009 if it does, EnvironmentFault RSD-7001,
    and what `check` raises.
    """
    refuse_existing(out)
    draft = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        for path, data in files.items():
            write_durably(draft / path, data)
        check(read_folder(draft))
        refuse_existing(out)
        try:
            draft.rename(out)
            sync_folder(out.parent)
        except OSError as e:
            raise EnvironmentFault(
                "RSD-7001",
                f"cannot write {out}: {e.strerror}",
                rule="nothing is left half written",
                found=e.strerror,
                next="free the name or fix the folder's owner, then repeat the command",
            ) from e
    finally:
        if draft.exists():
            shutil.rmtree(draft)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        "RSD-2005", f"cannot read {path}: {error.strerror}", found=error.strerror, limit="a readable folder",
        next="check the path",
    )  # fmt: skip


def _not_a_bundle(message: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed("RSD-9001", message, rule="a bundle holds plain files", found=found, limit=limit,
                       next="obtain the bundle again")  # fmt: skip
