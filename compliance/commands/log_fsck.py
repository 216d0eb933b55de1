"""`residency log fsck`: hash a whole log again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command
from compliance.clock import now, parse_time
from compliance.commands.log_home import log_of
from compliance.commands.shared import FILE
from compliance.errors import CheckFailed

if TYPE_CHECKING:
    import sqlite3

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from compliance.log.fsck import KeysEver, Whole


@click.command("fsck")
@click.argument("path", type=FILE)
@click.option("--trust", type=FILE, help="Judge the log's key and the cosignatures by this trust file.")
@click.option("--at", default=None, help="Judge the trust file as of this UTC time (default: now).")
@command("residency.log.fsck/1")
def fsck(path: Path, trust: Path | None, at: str | None) -> Result:
    """Hash every entry and node of a log again, and check every checkpoint, compaction and time. Changes nothing.

    PATH is a home or a log.db; whoever writes it may go on. The first thing that is wrong is named, and exits 1.
    Without --trust the log is judged by the key that stands in its own file: that finds damage, no forger.

    \b
    Example: residency log fsck /srv/residency --trust trust.json
    """
    from compliance.log.expired import by_class  # noqa: PLC0415 - loads the log
    from compliance.log.fsck import check  # noqa: PLC0415
    from compliance.log.read_only import look  # noqa: PLC0415

    when = parse_time(at, "--at") if at else now()

    def read(connection: sqlite3.Connection) -> tuple[str, Whole]:
        connection.execute("BEGIN")  # all of one moment, whoever writes
        origin, key, witnesses = _judges(connection, trust, when)
        return origin, check(connection, origin, key, witnesses)

    file = log_of(path)
    origin, whole = look(file, read)
    gone = sorted(whole.expired.items(), key=lambda item: item[0].words())
    fields = {
        "origin": origin,
        "size": whole.size,
        "root": whole.root.hex(),
        "checkpoints": whole.checkpoints,
        "expired": by_class(whole.expired),
        "removed": [{**asdict(removal), "entries": many} for removal, many in gone],
        "cosigned": dict(whole.cosigned),
        "judged_by": "trust file" if trust else "the key in the file",
    }
    lines = [f"whole      log {origin}: {whole.size} entries, {whole.checkpoints} checkpoints, root {fields['root']}"]
    lines += [f"removed    {many} entries of {r.words()}: leaf proven, signed" for r, many in gone]
    if gone:
        lines.append("not judged whether what was removed had expired: that is the word of whose log it is")
    lines += [f"cosigned   {size} entries by {name}" for name, size in sorted(whole.cosigned.items())]
    if trust is None:
        lines.append("not judged whose log it is, nor who cosigned it: give --trust")
    return Result(fields, lines, whole.set_back)


def _judges(
    connection: sqlite3.Connection, trust: Path | None, at: datetime
) -> tuple[str, Ed25519PublicKey, KeysEver | None]:
    """Origin, key and witnesses to judge by. Raises CheckFailed RSD-5031 for a key that is not in the trust file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    row = connection.execute("SELECT origin, public_key FROM log").fetchone()
    if row is None:
        raise _not_of(trust, "a log without owner")
    origin, key = str(row[0]), Ed25519PublicKey.from_public_bytes(row[1])
    if trust is None:
        return origin, key, None
    from compliance.release.evidence_check import member_of  # noqa: PLC0415
    from compliance.trust.root import load_anchor  # noqa: PLC0415
    from compliance.trust.witnesses import keys_ever  # noqa: PLC0415

    known = load_anchor(trust, at).trust
    member = member_of(known, origin)
    if known.log_key(member).key().public_bytes_raw() != row[1]:
        raise _not_of(trust, row[1].hex()[:16])
    return origin, key, keys_ever(known, member)


def _not_of(trust: Path | None, found: str) -> CheckFailed:
    return CheckFailed(
        "RSD-5031",
        "this file is the log of another key",
        rule="one file, one log, one key",
        found=found,
        limit=f"the key of the log's member in {trust}",
        next="give the trust file of the log's consortium",
    )
