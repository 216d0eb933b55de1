"""`residency server`: the operator's machine."""

from __future__ import annotations

from pathlib import Path

import click

from compliance.cli import Result, command, emit_error, emit_json, table
from compliance.clock import now
from compliance.errors import InputError, ResidencyError
from compliance.trust.home import OperatorHome

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
@click.option("--host", default="0.0.0.0", show_default=True, help="Address of the public door.")  # noqa: S104
@click.option("--private-port", type=int, default=0, show_default=True, help="Loopback port; 0 takes a free one.")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object.")
def start(home: Path, host: str, private_port: int, as_json: bool) -> None:
    """Run the server until SIGTERM. Prints one JSON line when both doors listen.

    \b
    Example: residency server start --home ./server
    """
    try:
        _serve(home, host, private_port)
    except ResidencyError as e:
        if as_json:
            emit_json("residency.server.start/1", {}, e)
        else:
            emit_error(e)
        raise SystemExit(e.exit_code) from e


def _serve(home: Path, host: str, private_port: int) -> None:
    from compliance.tls import tls_files  # noqa: PLC0415
    from compliance.trust.root import load_anchor  # noqa: PLC0415
    from server.launcher import ServerConfig, prepare, serve  # noqa: PLC0415 - loads Flower
    from server.nodes import remember_node  # noqa: PLC0415

    operator = OperatorHome(home)
    anchor = load_anchor(operator.trust_file, now())
    port = int(operator.config().server.rsplit(":", 1)[1])
    config = ServerConfig(
        home=home.resolve(),
        tls=tls_files(home.resolve() / "tls"),
        host=host,
        public_port=port,
        private_port=private_port,
    )
    files = prepare(config)
    for site in anchor.trust.sites:
        if site.node_key:
            remember_node(files.nodes, site.node_key.encode("ascii"))
    serve(config)


@server.command()
@HOME
@command("residency.server.status/1")
def status(home: Path) -> Result:
    """Whether the server runs, and which sites are connected.

    \b
    Example: residency server status --home ./server
    """
    from server.desk import connected_sites, open_control  # noqa: PLC0415 - loads Flower

    with open_control(home) as control:
        sites = connected_sites(home, control)
    if not sites:
        raise InputError("RSD-8210", "no site stands in the trust file", next="residency consortium admit")
    rows = [[name, "online" if up else "away"] for name, up in sorted(sites.items())]
    return Result({"sites": sites}, table(["site", "connection"], rows))
