"""`residency agent`: what a site engineer does on the machine beside the data."""

from __future__ import annotations

import json
import signal
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType

import click

from client.home import AgentHome, only_agent
from compliance.cli import Result, command, emit_error, emit_json, table
from compliance.clock import now, rfc3339
from compliance.errors import InputError, ResidencyError, UsageError
from compliance.files import write_durably
from compliance.identity import load_public
from compliance.privacy.ledger_state import Balance

_HOME = click.option(
    "--home", type=click.Path(path_type=Path), default=Path("agent"), show_default=True, help="The agent's folder."
)
_FILE = click.Path(path_type=Path)  # what is there is judged when it is read: a wrong file is no wrong usage


def _at(home: Path) -> AgentHome:
    """The agent's home. Raises InputError RSD-1201 before anything is opened: a store that is opened is also made."""
    opened = AgentHome(home)
    opened.config  # noqa: B018 - reading it is the check
    return opened


@click.group()
def agent() -> None:
    """The on-premise agent beside the data.

    \b
    Example: residency agent start --home /srv/residency
    """


@agent.command()
@click.argument("invitation", type=_FILE, required=False)
@_HOME
@click.option("--signatory", type=_FILE, help="Public key file of the signatory (made elsewhere).")
@click.option("--dpo", type=_FILE, help="Public key file of the data-protection officer (made elsewhere).")
@click.option("--out", type=_FILE, help="Where to write the enrolment request.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long its key may sign.")
@click.option("--trust", type=_FILE, help="Install this trust file.")
@click.option("--policy", type=_FILE, help="Install this signed site policy.")
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
    opened = _at(home)
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
@_HOME
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
@_HOME
@command("residency.agent.status/1")
def status(home: Path) -> Result:
    """What is installed, registered and spent.

    \b
    Example: residency agent status --home /srv/residency
    """
    opened = _at(home)
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


@agent.group()
def dataset() -> None:
    """Extracts of this site's data."""


@dataset.command("add")
@click.argument("name")
@_HOME
@click.option("--path", type=_FILE, required=True, help="CSV, Parquet or JSON Lines file.")
@click.option("--source", required=True, help="The patient population whose ledger the extract spends from.")
@click.option("--id-column", "id_columns", multiple=True, required=True, help="What identifies a patient or record.")
@command("residency.agent.dataset.add/1")
def dataset_add(name: str, home: Path, path: Path, source: str, id_columns: tuple[str, ...]) -> Result:
    """Register an extract. Rows that are known already bring their ledger with them.

    \b
    Example: residency agent dataset add thyroid --path thyroid.csv --source clinic --id-column patient_id
    """
    from client import registration  # noqa: PLC0415 - loads pandas

    known, shared = registration.add_dataset(_at(home), name, path, source, id_columns)
    lines = [f"dataset {name} registered; it spends from data source {known}"]
    if known != source:
        lines.append(f"rows of it are known as {known}: it inherits that ledger, not a new one")
    return Result({"dataset": name, "source": known, "inherited": shared > 0}, lines)


@agent.group()
def model() -> None:
    """Base models in local folders."""


@model.command("add")
@click.argument("folder", type=click.Path(path_type=Path))
@_HOME
@click.option("--name", help="A name for people; default: the folder's.")
@command("residency.agent.model.add/1")
def model_add(folder: Path, home: Path, name: str | None) -> Result:
    """Register a model folder by the digest of its files.

    \b
    Example: residency agent model add /models/all-MiniLM-L6-v2
    """
    from client import registration  # noqa: PLC0415

    digest = registration.add_model(_at(home), folder, name or folder.name)
    return Result({"model": name or folder.name, "sha256": digest}, [f"model {digest[:12]} registered"])


@agent.group()
def ledger() -> None:
    """The privacy ledger of this site's data sources."""


@ledger.command("show")
@_HOME
@command("residency.agent.ledger.show/1")
def ledger_show(home: Path) -> Result:
    """What each data source may spend, what is held, what is left.

    \b
    Example: residency agent ledger show --home /srv/residency
    """
    balances, entries = _balances(_at(home))
    sources = [
        {
            "source": b.source,
            "epsilon_milli": b.charged_milli,
            "held_milli": b.held_milli,
            "limit_milli": b.limit_milli,
            "left_milli": b.left_milli,
            "inverse_delta": b.inverse_delta,
            "entries": entries[b.source],
        }
        for b in balances
    ]
    rows = [
        [b.source, *(f"{m / 1000:.3f}" for m in (b.charged_milli, b.held_milli, b.limit_milli, b.left_milli))]
        for b in balances
    ]
    return Result({"sources": sources}, table(["source", "charged eps", "held", "limit", "left"], rows))


def _balances(home: AgentHome) -> tuple[list[Balance], dict[str, int]]:
    """Of each data source the balance, and the number of entries; nothing before the first study, and nothing made."""
    if not (home.path / "ledger.db").exists():
        return [], {}
    with home.ledger() as opened:
        return [opened.balance(s) for s in opened.sources()], {s: len(opened.show(s)) for s in opened.sources()}


@ledger.command("plan")
@click.argument("study", type=_FILE)
@_HOME
@command("residency.agent.ledger.plan/1")
def ledger_plan(study: Path, home: Path) -> Result:
    """What a signed study would cost here, and whether policy, law and ledger let it in. Spends nothing.

    \b
    Example: residency agent ledger plan study.json --home /srv/residency
    """
    from client.dry_run import dry_run  # noqa: PLC0415

    return dry_run(_at(home).path, study)


__all__ = ["agent"]
