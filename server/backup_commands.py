"""`residency server backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.commands.shared import FILE, home_option


@click.command("backup")
@home_option
@click.option("--out", type=FILE, required=True, help="The file to write; never overwritten.")
@click.option("--keys", is_flag=True, help="Private keys too: whoever has the file is then the operator.")
@command("residency.server.backup/1")
def backup(home: Path, out: Path, keys: bool) -> Result:
    """Copy log, trust, studies, runs and what sites signed into one file, while the server runs.

    Without --keys no private key is in it, neither the operator's nor those of the TLS root; keep a copy of them
    elsewhere, because nothing makes them anew and every site would be locked out.

    \b
    Example: residency server backup --home server --out /backup/server.tar
    """
    from compliance.log.backup_lines import made_fields, made_lines  # noqa: PLC0415 - loads the log
    from server.backup import make  # noqa: PLC0415

    made = make(home, out, keys=keys)
    return Result(made_fields(made, out), made_lines(made, out))


@click.command("restore")
@click.argument("file", type=FILE)
@home_option
@command("residency.server.restore/1")
def restore(file: Path, home: Path) -> Result:
    """Make a home from a backup, where nothing is; every digest and the whole log are checked first.

    The sites remember the log, and refuse to cosign an older one. Restore the newest.

    \b
    Example: residency server restore /backup/server.tar --home server
    """
    from compliance.log.backup_lines import restored_fields, restored_lines  # noqa: PLC0415 - loads the log
    from server.backup import restore as put_back  # noqa: PLC0415

    listed = put_back(file, home)
    return Result(restored_fields(listed, home), restored_lines(listed, home, "residency server doctor"))
