"""`residency agent`: what a site engineer does on the machine beside the data."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from client.backup_commands import backup, restore
from client.command_options import HOME, at_home
from client.data_commands import dataset, model
from client.doctor_commands import doctor
from client.enrol_commands import enroll
from client.home import AgentHome, only_agent
from client.ledger_commands import ledger
from client.link_commands import deliver
from client.subject_commands import subject
from compliance.cli import Result, command, emit_error, emit_json, table
from compliance.clock import now
from compliance.errors import ResidencyError
from strategies import heap


@click.group()
def agent() -> None:
    """The on-premise agent beside the data.

    \b
    Example: residency agent start --home /srv/residency
    """


@agent.command()
@HOME
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads for training; default: all processors.")
@click.option("--memory-mib", type=click.IntRange(1024), help="Memory of a training task; default: 4/5 of all.")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object.")
def start(home: Path, threads: int | None, memory_mib: int | None, as_json: bool) -> None:
    """Run the agent until SIGTERM. Prints one JSON line when log and ledger are open, with what bounds a training task.

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
        _serve(home, stop, threads, memory_mib)
    except ResidencyError as e:
        if as_json:
            emit_json("residency.agent.start/1", {}, e)
        else:
            emit_error(e)
        raise SystemExit(e.exit_code) from e


def _serve(home: Path, stop: threading.Event, threads: int | None, memory_mib: int | None) -> None:
    heap.keep()  # before numpy's threads
    with only_agent(home):
        _serve_site(home, stop, threads, memory_mib)


def _serve_site(home: Path, stop: threading.Event, threads: int | None, memory_mib: int | None) -> None:
    from client.app import app  # noqa: PLC0415 - loads Flower
    from client.closing import settle_over  # noqa: PLC0415
    from client.enrolment import need_certificate  # noqa: PLC0415
    from client.limits import isolation  # noqa: PLC0415
    from client.link import Link  # noqa: PLC0415 - loads gRPC
    from client.node import NodeConfig, run_node  # noqa: PLC0415
    from client.session import approved_bundles  # noqa: PLC0415
    from client.site import open_site  # noqa: PLC0415
    from client.standing import Standing  # noqa: PLC0415

    AgentHome(home).need_private_keys()
    certificate = need_certificate(AgentHome(home))
    site = open_site(home)
    site.check_ledger()
    site.tally.check()
    settle_over(site)
    site.home.law(site.anchor)
    site.workbench.threads = threads or site.workbench.threads
    site.workbench.memory_mib = memory_mib or site.workbench.memory_mib
    site.workbench.start()
    standing = Standing(site)
    granted = {**isolation(), "memory_mib": site.workbench.memory_mib}
    config = NodeConfig(
        server_address=site.home.config.server,
        ca=home / "ca.crt",
        certificate=certificate,
        node_key=home / "keys" / "node.key",
        home=home,
        approved_bundles=approved_bundles,
        tellable=standing.tellable,
        abandon=site.workbench.close,
        at_rest=lambda: settle_over(site),
    )
    standing.check("conformance_report")  # before anybody hears that this agent is there
    link = Link(home, stop)
    link.start()
    click.echo(json.dumps({"ready": True, "site": site.name, "log_size": site.log.size, "isolation": granted}))
    try:
        run_node(config, app, stop)
    finally:
        link.leave()
        site.close()


@agent.command()
@HOME
@command("residency.agent.status/1")
def status(home: Path) -> Result:
    """What is installed, registered, proposed, and on its way to the operator; and the alarms of the log.

    \b
    Example: residency agent status --home /srv/residency
    """
    from client.link_view import link_fields  # noqa: PLC0415 - loads the law engine
    from compliance.log.alarms import alarms_of, standing  # noqa: PLC0415

    opened = at_home(home)
    config, registry = opened.config, opened.registry()
    anchor = opened.anchor()
    policy, law_set = opened.policy(anchor), opened.law(anchor).law_set
    with opened.log(anchor, opened.signer()) as log:
        size, alarms = log.size, standing(alarms_of(log), now())
    fields = {
        "site": config.site,
        "jurisdiction": config.jurisdiction,
        "server": config.server,
        "trust": anchor.digest,
        "trust_expires": anchor.trust.expires,
        "policy": policy.digest,
        "policy_expires": policy.policy.expires,
        "law_set": law_set.digest,
        "law_packs": [p.model_dump() for p in law_set.packs],
        "not_binding": [p.model_dump() for p in law_set.not_binding],
        "datasets": [d.model_dump(mode="json", exclude={"sha256", "nonce"}) for d in registry.datasets],
        "models": [m.model_dump(mode="json") for m in registry.models],
        "log_entries": size,
        "alarms": [a.as_json() for a in alarms],
        **link_fields(home),
    }
    rows = [[k, len(v) if isinstance(v, list) else v] for k, v in fields.items() if not isinstance(v, dict)]
    link = fields["governance"]
    rows.append(["governance", " ".join([link["state"], link.get("since", ""), link.get("error", {}).get("code", "")])])
    return Result(fields, [*table(["agent", ""], rows), *(a.line() for a in alarms)])


agent.add_command(enroll)
agent.add_command(backup)
agent.add_command(restore)
agent.add_command(dataset)
agent.add_command(model)
agent.add_command(ledger)
agent.add_command(deliver)
agent.add_command(doctor)
agent.add_command(subject)

__all__ = ["agent"]
