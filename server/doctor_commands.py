"""`residency server doctor`: what works on the operator's machine, what does not, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import Result, command
from compliance.doctor import Check, report
from compliance.errors import InputError

if TYPE_CHECKING:
    from server.doctor import Doctor


@click.command("doctor")
@click.option(
    "--home", type=click.Path(path_type=Path), default=Path("server"), show_default=True, help="The operator's folder."
)
@click.option("--health", is_flag=True, help="Only whether this server serves now, in a second: for a service manager.")
@command("residency.server.doctor/1")
def doctor(home: Path, health: bool) -> Result:
    """Look at keys, certificates, doors, disk, versions, log, runs and sites; say what to do. Changes nothing.

    Exit 0 if nothing fails, 7 if something does. It may run beside the server at any time.

    \b
    Example: residency server doctor --home ./server --json
    """
    from server.doctor import Doctor  # noqa: PLC0415 - loads numpy

    if not (home / "consortium.json").exists():
        raise InputError(
            "RSD-7204",
            f"{home} is no operator's home",
            found="no consortium.json",
            limit="a folder made by consortium init",
            next="residency consortium init NAME --home FOLDER",
        )
    looked = Doctor(home, online)
    return report(str(home), list(serving(looked) if health else everything(looked)))


def online(home: Path) -> dict[str, bool]:
    """Which sites the running server has connected. Raises PeerUnreachable RSD-6104 or RSD-6106."""
    from server.desk import connected_sites, open_control  # noqa: PLC0415 - loads Flower

    with open_control(home) as control:
        return connected_sites(home, control)


def everything(looked: Doctor) -> Iterator[Check]:
    """All checks: what people can do something about first."""
    from server.doctor_stores import Stores  # noqa: PLC0415 - loads numpy

    stores = Stores(looked)
    yield from looked.standing()
    yield from looked.process(must=False)
    yield from looked.doors()
    yield from looked.machine()
    yield from stores.books()
    yield from stores.work()


def serving(looked: Doctor) -> Iterator[Check]:
    """Whether the server serves now: its doors answer with a certificate in date, and it can write."""
    from server.doctor_stores import Stores  # noqa: PLC0415 - loads numpy

    yield from looked.process(must=True)
    yield from looked.doors()
    yield from looked.certificate()
    yield from looked.trust()
    yield from looked.disk()
    yield from Stores(looked).log_end()
