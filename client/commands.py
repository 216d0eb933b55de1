"""`residency agent`: what a site engineer does on the machine beside the data."""

from __future__ import annotations

import json
import signal
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType

import click

from client.command_options import FILE, HOME, at_home
from client.data_commands import dataset, model
from client.home import only_agent
from client.ledger_commands import ledger
from compliance.cli import Result, command, emit_error, emit_json, table
from compliance.clock import now, rfc3339
from compliance.errors import InputError, ResidencyError, UsageError
from compliance.files import write_durably
from compliance.identity import load_public


@click.group()
def agent() -> None:
    """The on-premise agent beside the data.

    \b
    Example: residency agent start --home /srv/residency
    """


@agent.command()
@click.argument("invitation", type=FILE, required=False)
@HOME
@click.option("--signatory", type=FILE, help="Public key file of the signatory (made elsewhere).")
@click.option("--dpo", type=FILE, help="Public key file of the data-protection officer (made elsewhere).")
@click.option("--out", type=FILE, help="Where to write the enrolment request.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long its key may sign.")
@click.option("--trust", type=FILE, help="Install this trust file.")
@click.option("--policy", type=FILE, help="Install this signed site policy.")
@command("residency.agent.enroll/1")
def enroll(
    invitation: Path | None,
    home: Path,
    signatory: Path | None,
    dpo: Path | None,
    out: Path | None,
    days: int,
    trust: Path | None,
    policy: Path | None,
) -> Result:
    """Make the agent's keys and an enrolment request; later, install the trust file and the site policy.

    \b
    Example: residency agent enroll invitation.json --signatory s.pub.json --dpo d.pub.json --out request.json
    """
    from client import registration  # noqa: PLC0415 - loads pandas

    lines: list[str] = []
    if invitation is not None:
        if signatory is None or dpo is None or out is None:
            raise UsageError("RSD-1233", "an invitation needs --signatory, --dpo and --out", next="see agent enroll -h")
        if out.exists():
            raise InputError("RSD-1234", f"{out} exists already", next="choose another --out")
        until = rfc3339(now() + timedelta(days=days))
        request = registration.enrol(home, invitation, load_public(signatory), load_public(dpo), until)
        write_durably(out, request)
        lines.append(f"keys made in {home}; send {out} to the operator")
    elif trust is None and policy is None:
        raise UsageError("RSD-1233", "give an INVITATION, --trust or --policy", next="see agent enroll -h")
    opened = at_home(home)
    if trust is not None:
        registration.install_trust(opened, trust)
        lines.append(f"trust file installed: {opened.anchor().digest[:12]}")
    if policy is not None:
        digest = registration.install_policy(opened, policy)
        with opened.log(opened.anchor(), opened.signer()) as log:
            log.append("policy", {"policy": digest, "at": rfc3339(now())})
        lines.append(f"policy installed: {digest[:12]}")
    return Result({"home": str(home), "site": opened.config.site}, lines)


@agent.command()
@HOME
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads for training; default: all processors.")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object.")
def start(home: Path, threads: int | None, as_json: bool) -> None:
    """Run the agent until SIGTERM. Prints one JSON line when log and ledger are open.

    \b
    Example: residency agent start --home /srv/residency
    """
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    try:
        _serve(home, stop, threads)
    except ResidencyError as e:
        if as_json:
            emit_json("residency.agent.start/1", {}, e)
        else:
            emit_error(e)
        raise SystemExit(e.exit_code) from e


def _serve(home: Path, stop: threading.Event, threads: int | None) -> None:
    with only_agent(home):
        _serve_site(home, stop, threads)


def _serve_site(home: Path, stop: threading.Event, threads: int | None) -> None:
    from client.app import app  # noqa: PLC0415 - loads Flower
    from client.node import NodeConfig, run_node  # noqa: PLC0415
    from client.session import approved_bundles  # noqa: PLC0415
    from client.site import open_site  # noqa: PLC0415

    site = open_site(home)
    site.check_ledger()
    site.home.policy(site.anchor)
    site.workbench.threads = threads or site.workbench.threads
    config = NodeConfig(
        server_address=site.home.config.server,
        ca=home / "ca.crt",
        node_key=home / "keys" / "node.key",
        home=home,
        approved_bundles=approved_bundles,
    )
    click.echo(json.dumps({"ready": True, "site": site.name, "log_size": site.log.size}))
    try:
        run_node(config, app, stop)
    finally:
        site.close()


@agent.command()
@HOME
@command("residency.agent.status/1")
def status(home: Path) -> Result:
    """What is installed, registered and spent.

    \b
    Example: residency agent status --home /srv/residency
    """
    opened = at_home(home)
    config, registry = opened.config, opened.registry()
    anchor = opened.anchor()
    policy = opened.policy(anchor)
    with opened.log(anchor, opened.signer()) as log:
        size = log.size
    fields = {
        "site": config.site,
        "jurisdiction": config.jurisdiction,
        "server": config.server,
        "trust": anchor.digest,
        "trust_expires": anchor.trust.expires,
        "policy": policy.digest,
        "policy_expires": policy.policy.expires,
        "law_packs": [p.model_dump() for p in policy.policy.law_packs],
        "datasets": [d.model_dump(mode="json") for d in registry.datasets],
        "models": [m.model_dump(mode="json") for m in registry.models],
        "log_entries": size,
    }
    rows = [[k, len(v) if isinstance(v, list) else v] for k, v in fields.items()]
    return Result(fields, table(["agent", ""], rows))


agent.add_command(dataset)
agent.add_command(model)
agent.add_command(ledger)

__all__ = ["agent"]
