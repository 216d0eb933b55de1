"""`residency log tiles`: a log as a folder of static files that any reader of C2SP tiles can check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command
from compliance.commands.shared import FILE
from compliance.errors import InputError

if TYPE_CHECKING:
    from compliance.log.view import LogView


@click.command("tiles")
@click.argument("path", type=FILE)
@click.option("--out", type=FILE, required=True, help="The folder to write; never overwritten.")
@click.option("--entries", is_flag=True, help="The entries too, of every study: not for everybody's eyes.")
@command("residency.log.tiles/1")
def tiles(path: Path, out: Path, entries: bool) -> Result:
    """Write a log as static files (c2sp.org/tlog-tiles): its last checkpoint, its hashes, with --entries its entries.

    PATH is a home or a log.db; without --entries also the evidence of one log. `residency verify` checks the folder.

    \b
    Example: residency log tiles site/log.db --out tiles
    """
    from compliance.log.tiles import files_of, read_files  # noqa: PLC0415 - loads the log
    from compliance.log.view import read_views  # noqa: PLC0415
    from compliance.release.bundle_folder import write_folder  # noqa: PLC0415

    views = read_views(path)
    if len(views) > 1:
        raise InputError(
            "RSD-5170",
            f"{path} holds {len(views)} logs",
            rule="a folder of tiles is of one log",
            found=", ".join(view.origin for view in views),
            limit="one log",
            next="give one of the files below its folder evidence/",
        )
    files = files_of(views[0], entries=entries)
    written: list[LogView] = []
    write_folder(out, files, lambda read: written.append(read_files(read)))
    (view,) = written
    kept = f"{len(view.entries)} entries" if entries else "no entries, only their hashes"
    return Result(
        {"origin": view.origin, "size": view.size, "files": len(files), "entries": len(view.entries), "out": str(out)},
        (f"wrote {out}: log {view.origin} at {view.size}, {len(files)} files, {kept}",),
    )
