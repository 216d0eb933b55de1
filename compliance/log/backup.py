"""A home in one file and back: a consistent copy of its stores and files, with the digest of each.

The copy is a state that a crash could have left: while the stores are copied nobody can append to the log, and every
step that matters waits for its entry. A backup holds what the home holds about persons (keyed hashes): it is as
sensitive as the home, and its file is for the owner alone.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from pydantic import Field

from compliance.canonical import canonical, parse_canonical
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.files import refuse_existing, sync_folder
from compliance.log import fsck, tree
from compliance.log.database import Database
from compliance.log.read_only import look
from compliance.log.view import is_database
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.validation import load_model

SCHEMA: Final = "residency.backup/1"
_LIST: Final = "backup.json"
_MOST_LIST: Final = 16 << 20  # bytes
_BLOCK: Final = 1 << 20
_PART: Final = r"[^./\x00][^/\x00]{0,254}"  # hidden files are somebody's drafts, and never in a backup
_STAGE: Final = ".backup-"
_PRIVATE: Final = b"PRIVATE KEY-----"
Of = Literal["agent", "operator"]


class Saved(Frozen):
    """One file of a backup."""

    path: str = Field(pattern=rf"\A{_PART}(?:/{_PART})*\z", max_length=4096)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)


class BackupList(Frozen):
    """What a backup holds: whose home, when, its log, and every file with its digest. `keys`: with private keys."""

    schema_: Literal["residency.backup/1"] = Field(alias="schema")
    of: Of
    at: str
    keys: bool
    origin: str
    size: int = Field(ge=0)
    root: str = Field(pattern=SHA256)
    files: tuple[Saved, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Kind:
    """Whose homes: the file by which one is known, and the folders and files that are made again and stay out."""

    of: Of
    mark: str
    left_out: frozenset[str]


@dataclass(frozen=True)
class Made:
    """A backup that is on disk, and the files of the home that are not in it."""

    listed: BackupList
    left_out: tuple[str, ...]


def make(home: Path, out: Path, kind: Kind, *, keys: bool) -> Made:
    """Write the backup of `home` to `out` (mode 0600), whoever works in the home meanwhile.

    Without `keys` no private key is in it. Raises InputError RSD-2009 (`out` exists), RSD-5067 (no such home), RSD-5068
    (a file whose name cannot be written down), EnvironmentFault RSD-7001, RSD-5030, and CheckFailed for a log that is
    damaged: such a home is not backed up.
    """
    refuse_existing(out)
    _require(home, kind, str(home))
    with _disk(home), _stage(home) as stage:
        left_out = _copy(home, stage, kind, keys=keys)
        origin, size, root = _log(stage)
        files = tuple(_saved(stage, path) for path in _files(stage))
        listed = BackupList(
            schema=SCHEMA, of=kind.of, at=rfc3339(now()), keys=keys, origin=origin, size=size, root=root, files=files
        )
        with _disk(out):
            _write(stage, listed, out)
    return Made(listed, left_out)


def restore(file: Path, home: Path, kind: Kind, check: Callable[[Path], None]) -> BackupList:
    """Put the backup in `file` where nothing is; the home appears whole, after every digest, its log and `check`.

    Raises InputError RSD-2009 (the home exists), RSD-5067 (no backup of such a home), CheckFailed RSD-5066 (another
    file than the list says) or what is wrong with the log, what `check` raises, EnvironmentFault RSD-7001.
    """
    refuse_existing(home)
    with _disk(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
        try:
            listed = _unpack(file, folder, kind)
            _require(folder, kind, str(file))
            _check_log(folder, listed)
            check(folder)
            folder.rename(home)
            sync_folder(home.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return listed


def _copy(home: Path, stage: Path, kind: Kind, *, keys: bool) -> tuple[str, ...]:
    """Fill `stage`; returns what was left out. Files are linked: a home replaces files, it does not write into them."""
    left_out = _not_plain(home)
    log = Database(home / "log.db", tree.SCHEMA)
    try:
        with log.writing():  # nobody appends, so nobody takes a step that needs an entry
            for path in _files(home):
                source, target = home / path, stage / path
                if kind.left_out & set(path.parts) or (not keys and _secret(source)):
                    left_out.append(str(path))
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                if is_database(source):
                    _copy_database(source, target)
                else:
                    os.link(source, target)
    finally:
        log.close()
    return tuple(left_out)


def _copy_database(source: Path, target: Path) -> None:
    target.touch(mode=0o600)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """The plain files below a folder, in order; without what is hidden, locks, and what SQLite keeps beside a store."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(root) / name
            passing = name.startswith(".") or name.endswith((".lock", "-wal", "-shm", "-journal"))
            if not passing and path.is_file() and not path.is_symlink():
                _check_name(path.relative_to(folder))
                yield PurePosixPath(path.relative_to(folder).as_posix())


def _check_name(path: Path) -> None:
    """A list of files is JSON, which is UTF-8. Raises InputError RSD-5068."""
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as e:
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        raise InputError(
            "RSD-5068",
            f"a backup cannot hold a file of this name: {shown}",
            rule="the names in a backup are UTF-8",
            found=shown,
            limit="a name in UTF-8",
            next="rename the file, or move it out of the home, and repeat the command",
        ) from e


def _not_plain(home: Path) -> list[str]:
    """Links, pipes and the like below a home: where a link leads is not followed, what lies there is in no backup."""
    found = (Path(root) / name for root, folders, names in os.walk(home) for name in (*folders, *names))
    plain = (stat.S_ISREG, stat.S_ISDIR)
    return sorted(p.relative_to(home).as_posix() for p in found if not any(is_(p.lstat().st_mode) for is_ in plain))


def _secret(path: Path) -> bool:
    """Whether a file is, or holds, a private key or the secret of the row hashes."""
    return path.suffix in {".key", ".secret"} or (path.stat().st_size < _BLOCK and _PRIVATE in path.read_bytes())


def _saved(stage: Path, path: PurePosixPath) -> Saved:
    size = (stage / path).stat().st_size
    with (stage / path).open("rb") as f:
        return Saved(path=str(path), size=size, sha256=_digest(f, size))


def _digest(source: IO[bytes], size: int, target: IO[bytes] | None = None) -> str:
    """SHA-256 of the next `size` bytes, which go to `target`. Fewer give another digest."""
    import hashlib  # noqa: PLC0415 - used here alone

    digest, left = hashlib.sha256(), size
    while left and (block := source.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
        if target is not None:
            target.write(block)
    return digest.hexdigest()


def _write(stage: Path, listed: BackupList, out: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as f:
            with tarfile.open(fileobj=f, mode="w", format=tarfile.PAX_FORMAT) as tar:
                head = canonical(listed.model_dump(mode="json", by_alias=True))
                tar.addfile(_member(_LIST, len(head)), io.BytesIO(head))
                for saved in listed.files:
                    with (stage / saved.path).open("rb") as source:
                        tar.addfile(_member(saved.path, saved.size), source)
            f.flush()
            os.fsync(f.fileno())
        Path(name).replace(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(out.parent)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _unpack(file: Path, folder: Path, kind: Kind) -> BackupList:
    """Write the listed files below `folder`, each as its digest says; nothing else is read from the archive."""
    try:
        with tarfile.open(file, "r:") as tar:
            listed = _list(tar, kind)
            for saved in listed.files:
                source = _next(tar, saved.path, saved.size)
                target = folder / saved.path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as f:  # noqa: PTH123
                    found = _digest(source, saved.size, f)
                    f.flush()
                    os.fsync(f.fileno())
                if found != saved.sha256:
                    raise _differs(saved.path, found[:16], saved.sha256[:16])
            if tar.next() is not None:
                raise _differs("the archive", "more files", f"{len(listed.files)} files")
    except tarfile.TarError as e:
        raise _no_backup(str(file), str(e), "a file that agent backup or server backup wrote") from e
    return listed


def _list(tar: tarfile.TarFile, kind: Kind) -> BackupList:
    head = tar.next()
    if head is None or head.name != _LIST or not head.isreg() or head.size > _MOST_LIST:
        raise _no_backup("the archive", "no list of files first", _LIST)
    data = _open(tar, head).read()
    listed = load_model(BackupList, parse_canonical(data, _LIST), "RSD-5067", _LIST)
    if listed.of != kind.of:
        raise _no_backup("the archive", f"the home of an {listed.of}", f"the home of an {kind.of}")
    paths = [saved.path for saved in listed.files]
    if len(set(paths)) != len(paths):
        raise _differs(_LIST, "a path twice", "each path once")
    return listed


def _next(tar: tarfile.TarFile, path: str, size: int) -> IO[bytes]:
    member = tar.next()
    if member is None or (member.name, member.size) != (path, size) or not member.isreg():
        raise _differs(path, "nothing" if member is None else f"{member.name}, {member.size} bytes", f"{size} bytes")
    return _open(tar, member)


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    source = tar.extractfile(member)
    if source is None:
        raise _differs(member.name, "no plain file", "a plain file")
    return source


def _check_log(home: Path, listed: BackupList) -> None:
    found = _log(home)
    if found != (listed.origin, listed.size, listed.root):
        raise _differs("the log", f"{found[1]} entries, root {found[2][:16]}", f"{listed.size} entries")


def _log(home: Path) -> tuple[str, int, str]:
    """Origin, size and root of the log in a copied home; every entry is hashed again."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    def read(connection: sqlite3.Connection) -> tuple[str, int, str]:
        origin, key = connection.execute("SELECT origin, public_key FROM log").fetchone()
        whole = fsck.check(connection, origin, Ed25519PublicKey.from_public_bytes(key))
        return str(origin), whole.size, whole.root.hex()

    return look(home / "log.db", read)


@contextmanager
def _stage(home: Path) -> Iterator[Path]:
    """A folder in the home, so that files can be linked; what a killed backup left goes."""
    for old in home.glob(f"{_STAGE}*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=home, prefix=_STAGE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require(home: Path, kind: Kind, what: str) -> None:
    missing = [name for name in (kind.mark, "log.db") if not (home / name).is_file()]
    if missing:
        raise _no_backup(what, f"no {' and no '.join(missing)}", f"the home of an {kind.of}, with its log")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise EnvironmentFault(
            "RSD-7001",
            f"cannot write {path}: {e}",
            rule="nothing is left half written",
            found=e,
            next="free disk space or fix the folder's owner, then repeat the command",
        ) from e


def _no_backup(what: str, found: str, limit: str) -> InputError:
    return InputError(
        "RSD-5067",
        f"{what} is no home, or no backup, of that kind",
        rule="agent backup and agent restore are of an agent's home, server backup and server restore of an operator's",
        found=found,
        limit=limit,
        next="give the right file or folder, to the command of its kind",
    )


def _differs(what: str, found: str, limit: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5066",
        f"{what} in the backup is not what its list of digests says",
        rule="a backup is restored whole and unchanged, or not at all",
        found=found,
        limit=limit,
        next="take another copy of the backup; nothing was restored",
    )
