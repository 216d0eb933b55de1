"""`residency audit serve`: the auditor's desk."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compliance.cli import emit_error, emit_json, not_installed
from compliance.commands.shared import FILE, need_trust
from compliance.errors import ResidencyError

if TYPE_CHECKING:
    from compliance.desk.model import Desk
    from compliance.trust.root import Anchor

_SCHEMA = "residency.audit.serve/1"


@click.command("serve")
@click.argument("paths", type=FILE, nargs=-1, required=True, metavar="PATH...")
@click.option("--trust", type=FILE, help="The consortium's trust.json, from another source.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
@click.option("--token-file", type=FILE, help="Who reads must know the token in it (mode 0600).")
@click.option("--tls-cert", type=FILE, help="With --tls-key: serve over TLS.")
@click.option("--tls-key", type=FILE, help="The private key of the certificate.")
@click.option("--json", "as_json", is_flag=True, help="The address, or the error, as one JSON object.")
def serve(
    paths: tuple[Path, ...],
    trust: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    as_json: bool,
    **tls: Path,
) -> None:
    """Show bundles, run folders, homes and logs as a web page, read only, on this machine alone.

    Reads everything once, prints the address, and serves until Ctrl-C or SIGTERM. It needs no network and sends
    nothing. On anything but loopback it wants a token and TLS.

    \b
    Example: residency audit serve bundle --trust trust.json
    """
    try:
        _serve(paths, trust, (host, port), (token_file, tls["tls_cert"], tls["tls_key"]), as_json=as_json)
    except ResidencyError as e:
        if as_json:
            emit_json(_SCHEMA, {}, e)
        else:
            emit_error(e)
        raise SystemExit(e.exit_code) from e


def _serve(
    paths: tuple[Path, ...],
    trust: Path | None,
    where: tuple[str, int],
    secrets: tuple[Path | None, Path | None, Path | None],
    *,
    as_json: bool,
) -> None:
    anchor_file, (token_file, certificate, key) = need_trust(trust, "what the desk shows"), secrets
    try:
        from compliance.desk import serve as doors  # noqa: PLC0415 - the extra `desk`
        from compliance.desk.app import app  # noqa: PLC0415
        from compliance.desk.charts import warm  # noqa: PLC0415
        from compliance.desk.login import Login, read_token  # noqa: PLC0415
        from compliance.desk.pages_out import draw  # noqa: PLC0415

        warm()
    except ModuleNotFoundError as e:
        raise not_installed("audit serve", str(e.name), "desk") from e
    from compliance.trust.root import load_anchor  # noqa: PLC0415

    tls = doors.check_tls(certificate, key)
    doors.check_door(where[0], token=token_file is not None, tls=tls)
    login = Login(read_token(token_file), secure=tls) if token_file else None
    with doors.bind(*where) as door:
        desk = _read(paths, load_anchor(anchor_file))
        draw(desk)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises again, at its end, what ended it
            signal.signal(number, lambda *_: sys.exit(0))
        _announce(doors.address_of(where[0], door, tls=tls), desk, as_json=as_json)
        hosts = None if login is not None else doors.hosts_of(door.getsockname()[1], tls=tls)
        doors.server(app(desk, hosts=hosts, login=login), certificate, key).run(sockets=[door])


def _read(paths: tuple[Path, ...], anchor: Anchor) -> Desk:
    """Everything that is shown, with a bar on stderr where a person waits."""
    from compliance.desk.model import make  # noqa: PLC0415 - loads the law engine
    from compliance.desk.sources import read_places  # noqa: PLC0415

    places = read_places(paths)
    if not sys.stderr.isatty():
        return make(places, anchor)
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import Progress  # noqa: PLC0415

    number = sum(len(log.view.entries) for p in places for log in p.logs)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks = {"entries": bar.add_task("entries", total=number)}

        def told(what: str, more: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
            bar.advance(tasks[what], more)

        return make(places, anchor, told)


def _announce(address: str, desk: Desk, *, as_json: bool) -> None:
    """One line, or one JSON object: then it serves."""
    wrong = sum(report.error is not None for report in desk.verdicts.values())
    if as_json:
        emit_json(_SCHEMA, {"address": address, "places": len(desk.places), "false": wrong}, None)
    else:
        told = f"{wrong} of {len(desk.places)} places do not verify" if wrong else "every place verifies"
        click.echo(f"desk: {address} ({told}; Ctrl-C ends it)")
    sys.stdout.flush()
