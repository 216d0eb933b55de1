"""`residency agent doctor`: what works on this machine, what does not, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from client.command_options import HOME
from compliance.cli import Result, command
from compliance.doctor import Check, report
from compliance.errors import InputError

if TYPE_CHECKING:
    from client.doctor import Doctor


@click.command("doctor")
@HOME
@click.option("--health", is_flag=True, help="Only whether this agent serves now, in a second: for a service manager.")
@command("residency.agent.doctor/1")
def doctor(home: Path, health: bool) -> Result:
    """Look at keys, dates, clock, server, disk, GPU, data, log and ledger; say what to do. Changes nothing.

    Exit 0 if nothing fails, 7 if something does. It may run beside the agent at any time.

    \b
    Example: residency agent doctor --home /srv/residency --json
    """
    from client.doctor import Doctor, ask_server  # noqa: PLC0415 - loads numpy

    if not (home / "agent.json").exists():
        raise InputError(
            "RSD-1201",
            f"{home} is no agent's home",
            found="no agent.json",
            limit="a folder made by agent enroll",
            next="residency agent enroll INVITATION --home FOLDER",
        )
    looked = Doctor(home, ask_server)
    return report(str(home), list(serving(looked) if health else everything(looked)))


def everything(looked: Doctor) -> Iterator[Check]:
    """All checks: what people can do something about first."""
    from client.doctor_stores import Stores  # noqa: PLC0415 - loads numpy

    stores = Stores(looked)
    yield from looked.standing()
    yield from looked.process(must=False)
    yield from looked.connection()
    yield from looked.answers()
    yield from looked.machine()
    yield from stores.data()
    yield from stores.studies()
    yield from stores.books()


def serving(looked: Doctor) -> Iterator[Check]:
    """Whether the agent takes part now: it runs, has its keys, its server takes its certificate, and it can write."""
    from client.doctor_stores import Stores  # noqa: PLC0415 - loads numpy

    yield from looked.process(must=True)
    yield from looked.keys()
    yield from looked.certificate()
    yield from looked.trust()
    yield from looked.doors()
    yield from looked.clock()
    yield from looked.disk()
    yield from Stores(looked).log_end()
