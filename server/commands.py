"""`residency server`: the operator's machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.canonical import Json
from compliance.cli import Result, command, emit_error, emit_json, table
from compliance.clock import now
from compliance.errors import InputError, ResidencyError
from compliance.files import absolute
from compliance.trust.home import OperatorHome
from server.backup_commands import backup, restore
from server.doctor_commands import doctor
from strategies import heap

if TYPE_CHECKING:
    from compliance.log.alarms import Alarm

HOME = click.option(
    "--home", type=click.Path(path_type=Path), default=Path("server"), show_default=True, help="The operator's folder."
)


@click.group()
def server() -> None:
    """The federation server: coordinates, decides nothing for a site.

    \b
    Example: residency server start --home ./server
    """


@server.command()
@HOME
@click.option("--host", default="0.0.0.0", show_default=True, help="Address of the public doors.")  # noqa: S104
@click.option("--private-port", type=int, default=0, show_default=True, help="Loopback port; 0 takes a free one.")
@click.option("--law", type=click.Path(path_type=Path), help="Install the law set that the operator adopted first.")
@click.option("--witness", "witnesses", multiple=True, metavar="NAME=HOST:PORT", help="An outside witness.")
@click.option("--witness-ca", type=click.Path(path_type=Path), help="CA of the witnesses' doors (PEM).")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object.")
def start(
    home: Path,
    host: str,
    private_port: int,
    law: Path | None,
    witnesses: tuple[str, ...],
    witness_ca: Path | None,
    as_json: bool,
) -> None:
    """Run the server until SIGTERM. Prints one JSON line when its doors listen. Without a trust file it only enrols.

    Without a law set in the home, now or from an earlier start, the operator applies every built-in law pack. The
    outside witnesses are those of this start, by their names in the trust file; each is decided on before it is asked.

    \b
    Example: residency server start --home ./server
    """
    try:
        _serve(home, host, private_port, law, (witnesses, witness_ca))
    except ResidencyError as e:
        if as_json:
            emit_json("residency.server.start/1", {}, e)
        else:
            emit_error(e)
        raise SystemExit(e.exit_code) from e


def _serve(
    home: Path, host: str, private_port: int, law: Path | None, outside: tuple[tuple[str, ...], Path | None]
) -> None:
    heap.keep()  # before numpy's threads
    from compliance.tls import tls_files  # noqa: PLC0415
    from server import outside_witnesses  # noqa: PLC0415
    from server.launcher import ServerConfig, serve  # noqa: PLC0415 - loads Flower
    from server.law import install  # noqa: PLC0415 - loads the law engine

    place = OperatorHome(absolute(home, "the home"))
    doors = place.config()
    if law is not None:
        install(place, law)
    outside_witnesses.install(place.root, *outside)
    public, governance, enrolment = (
        int(door.rpartition(":")[2]) for door in (doors.server, doors.governance, doors.enrolment)
    )
    serve(
        ServerConfig(
            home=place.root,
            tls=tls_files(place.tls),
            host=host,
            public_port=public,
            private_port=private_port,
            governance_port=governance,
            enrolment_port=enrolment,
        )
    )


@server.command()
@HOME
@command("residency.server.status/1")
def status(home: Path) -> Result:
    """Whether the server runs, which sites are connected, which outside witnesses may be asked, alarms of its log.

    \b
    Example: residency server status --home ./server
    """
    from server.desk import connected_sites, open_control  # noqa: PLC0415 - loads Flower
    from server.witness_gate import judged  # noqa: PLC0415 - loads the law engine

    place = OperatorHome(home)
    with open_control(home) as control:
        if not place.trust_file.exists():
            control.nodes()  # it answers: it runs
            return _before_trust(place)
        sites = connected_sites(home, control)
    if not sites:
        raise InputError("RSD-8210", "no site stands in the trust file", next="residency consortium admit")
    suspended = sorted(path.stem for path in place.suspended.glob("*.json"))
    alarms = _alarms(place)
    witnesses, trouble = [], None
    try:
        witnesses = judged(place)
    except ResidencyError as e:  # the rest is told all the same
        trouble = e
    rows = [[n, "suspended" if n in suspended else "online" if up else "away"] for n, up in sorted(sites.items())]
    fields = {"sites": sites, "suspended": suspended, "alarms": [a.as_json() for a in alarms]}
    fields |= {"witnesses": [w.as_json() for w in witnesses]}
    told = [f"witness    {w.line()}" for w in witnesses]
    return Result(fields, [*table(["site", "connection"], rows), *told, *(a.line() for a in alarms)], trouble)


def _before_trust(place: OperatorHome) -> Result:
    """A server that only enrols: nobody is admitted, and no outside witness is named."""
    alarms = _alarms(place) if place.log_file.exists() else ()
    fields: dict[str, Json] = {"sites": {}, "suspended": [], "alarms": [a.as_json() for a in alarms], "witnesses": []}
    told = "no trust file: nobody is admitted; the server runs, and only enrols (next: residency consortium admit)"
    return Result(fields, [told, *(a.line() for a in alarms)])


def _alarms(place: OperatorHome) -> tuple[Alarm, ...]:
    from compliance.log.alarms import alarms_of, standing  # noqa: PLC0415
    from compliance.log.read_only import look_at_log  # noqa: PLC0415

    config = place.config()
    origin = f"residency/{config.name}/{config.operator.name}"
    return standing(look_at_log(place.log_file, origin, place.signer().private, alarms_of), now())


server.add_command(doctor)
server.add_command(backup)
server.add_command(restore)
