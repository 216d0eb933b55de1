"""An export on disk: a folder that appears whole or not at all, its files written as they are made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from compliance.errors import EnvironmentFault
from compliance.export.make import Logged, Written, sealed, write
from compliance.export.statement import STATEMENT, FileRecord, FormatName, Selection, Statement
from compliance.files import refuse_existing, write_durably
from compliance.identity import Signer
from compliance.log.view import LogView
from compliance.trust.home import new_folder


def write_folder(
    out: Path,
    view: LogView,
    name: FormatName,
    selection: Selection,
    signer: Signer | None,
    record: Callable[[Written], Logged],
) -> Statement:
    """Write the export to `out`, readable by its owner only, and sign it if there is a signer.

    `record` is called when the files are written and before there is a statement: what is handed out is logged first.
    Raises InputError RSD-2009 (something is at `out`), RSD-5141, EnvironmentFault RSD-7001, and what `record` raises;
    then `out` does not exist.
    """
    refuse_existing(out)
    with new_folder(out) as draft:
        written = write(view, name, selection, lambda file, chunks: _stream(draft / file, chunks))
        statement = written.statement(record(written))
        write_durably(draft / STATEMENT, sealed(statement, signer))
    return statement


def _stream(path: Path, chunks: Iterator[bytes]) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as f:
            for chunk in chunks:
                f.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise EnvironmentFault(
            "RSD-7001",
            f"cannot write {path}: {e.strerror}",
            rule="nothing is left half written",
            found=e.strerror,
            next="free disk space or fix the folder's owner, then repeat the command",
        ) from e
    return FileRecord(name=path.name, sha256=digest.hexdigest(), bytes=size)
