"""`residency log`: check, export and compact a transparency log, and witness the logs of others."""

from __future__ import annotations

import click


@click.group()
def log() -> None:
    """The transparency log: check it, export it, compact it by retention, witness the logs of others."""
