"""`residency agent backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from client.command_options import FILE, HOME
from compliance.cli import Result, command


@click.command("backup")
@HOME
@click.option("--out", type=FILE, required=True, help="The file to write; never overwritten.")
@click.option("--keys", is_flag=True, help="Private keys too: whoever has the file is then this site.")
@command("residency.agent.backup/1")
def backup(home: Path, out: Path, keys: bool) -> Result:
    """Copy log, ledger, registry, studies, policy and trust into one file, while the agent runs.

    It holds keyed hashes of patients: keep it as you keep the home. Without --keys no private key is in it; keep a
    copy of HOME/keys elsewhere, because nothing makes them anew.

    \b
    Example: residency agent backup --home /srv/residency --out /backup/residency.tar
    """
    from client.backup import make  # noqa: PLC0415 - loads the log
    from compliance.log.backup_lines import made_fields, made_lines  # noqa: PLC0415

    made = make(home, out, keys=keys)
    return Result(made_fields(made, out), made_lines(made, out))


@click.command("restore")
@click.argument("file", type=FILE)
@HOME
@command("residency.agent.restore/1")
def restore(file: Path, home: Path) -> Result:
    """Make a home from a backup, where nothing is; every digest, the whole log and the ledger are checked first.

    What was spent since the backup was made is not in it: the other members remember the log, and refuse an older one
    (RSD-1225). Restore the newest.

    \b
    Example: residency agent restore /backup/residency.tar --home /srv/residency
    """
    from client.backup import restore as put_back  # noqa: PLC0415 - loads the log
    from compliance.log.backup_lines import restored_fields, restored_lines  # noqa: PLC0415

    listed = put_back(file, home)
    return Result(restored_fields(listed, home), restored_lines(listed, home, "residency agent doctor"))
