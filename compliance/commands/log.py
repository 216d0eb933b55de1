"""`residency log`: check, export and compact a transparency log, and witness the logs of others."""

from __future__ import annotations

import click

from compliance.commands.log_compact import compact
from compliance.commands.log_export import export
from compliance.commands.log_fsck import fsck
from compliance.commands.log_tiles import tiles
from compliance.commands.log_witness import witness


@click.group()
def log() -> None:
    """The transparency log: check it, export it, compact it by retention, witness the logs of others.

    \b
    Example: residency log fsck /srv/residency/log.db
    """


log.add_command(tiles)
log.add_command(witness)
log.add_command(export)
log.add_command(fsck)
log.add_command(compact)
