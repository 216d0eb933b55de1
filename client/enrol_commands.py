"""`residency agent enroll`: keys, the operator's certificate, the trust file, the law set and the site policy."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import click

from client.command_options import FILE, HOME, at_home
from client.home import AgentHome
from compliance.cli import Result, command
from compliance.clock import now, rfc3339
from compliance.errors import InputError, UsageError
from compliance.files import read_bytes, write_durably
from compliance.identity import PublicIdentity, load_public
from compliance.trust.enrol import Invitation, open_invitation


@click.command("enroll")
@click.argument("invitation", type=FILE, required=False)
@HOME
@click.option("--signatory", type=FILE, help="Public key file of the signatory (made elsewhere).")
@click.option("--dpo", type=FILE, help="Public key file of the data-protection officer (made elsewhere).")
@click.option("--out", type=FILE, help="Write the request here instead of sending it to the enrolment door.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long its key may sign.")
@click.option("--certificate", type=FILE, help="Install this certificate, which the operator sent as a file.")
@click.option("--trust", type=FILE, help="Install this trust file.")
@click.option("--law", type=FILE, help="Install this adopted law set; the policy must name it.")
@click.option("--law-advice", type=FILE, help="The DPO's signed advice on the law set, if the adoption names any.")
@click.option("--policy", type=FILE, help="Install this signed site policy.")
@command("residency.agent.enroll/1")
def enroll(invitation: Path | None, home: Path, out: Path | None, days: int, **files: Path | None) -> Result:
    """Make the agent's keys and enrol with an INVITATION; later, install the trust file, law set and site policy.

    The request goes to the operator's enrolment door, and the certificate comes back; repeat the command if the reply
    was lost. With --out it becomes a file for the operator instead, and the certificate comes with --certificate.

    \b
    Example: residency agent enroll invitation.json --signatory s.pub.json --dpo d.pub.json --home /srv/residency
    """
    lines: list[str] = []
    if invitation is not None:
        lines += _enrol(home, invitation, out, days, (files["signatory"], files["dpo"]))
    elif not any(files[name] for name in ("certificate", "trust", "law", "policy")):
        raise UsageError(
            "RSD-1233", "give an INVITATION, --certificate, --trust, --law or --policy", next="see agent enroll -h"
        )
    opened = at_home(home)
    lines += _install(opened, files)
    return Result({"home": str(home), "site": opened.config.site}, lines)


def _enrol(home: Path, file: Path, out: Path | None, days: int, people: tuple[Path | None, Path | None]) -> list[str]:
    from client import enrolment  # noqa: PLC0415 - loads the law engine

    if people[0] is None or people[1] is None:
        raise UsageError("RSD-1233", "an invitation needs --signatory and --dpo", next="see agent enroll -h")
    if out is not None and out.exists():
        raise InputError("RSD-1234", f"{out} exists already", next="choose another --out")
    until = rfc3339(now() + timedelta(days=days))
    signatory, dpo = _roles(load_public(people[0]), load_public(people[1]))
    request = enrolment.enrol(home, file, signatory, dpo, until)
    invitation = open_invitation(read_bytes(file, "invitation"), str(file))
    return _hand_over(AgentHome(home), invitation, request, out)


def _roles(signatory: PublicIdentity, dpo: PublicIdentity) -> tuple[PublicIdentity, PublicIdentity]:
    """Both, each in the role that its option names. Raises InputError RSD-1236."""
    found = (signatory.role, dpo.role)
    if found == ("signatory", "dpo"):
        return signatory, dpo
    if found == ("dpo", "signatory"):
        message, then = "--signatory and --dpo are swapped", "give each file with the option of its role"
    else:
        message = "--signatory and --dpo do not both name a key of that role"
        then = "give the public key that was made with residency key new --role signatory, and the one of --role dpo"
    raise InputError(
        "RSD-1236", message, rule="each person signs in one role",
        found=f"--signatory: {found[0]} key, --dpo: {found[1]} key",
        limit="--signatory: signatory key, --dpo: dpo key", next=then,
    )  # fmt: skip


def _hand_over(home: AgentHome, invitation: Invitation, request: bytes, out: Path | None) -> list[str]:
    """Decide, and only then write the request for the operator, or send it and install the certificate."""
    from client import enrolment, first_contact, governance  # noqa: PLC0415 - loads gRPC and the law engine

    first_contact.decide_request(home, invitation)
    if out is not None:
        write_durably(out, request)
        return [f"keys made in {home.path}; send {out} to the operator"]
    ca = invitation.ca_pem.encode("ascii")
    issued = governance.enrol(invitation.enrolment, ca, invitation.token, request)
    made = enrolment.install_certificate(home, issued)
    return [
        f"keys made in {home.path}; the operator has the request",
        f"certificate installed, until {rfc3339(made.not_after)}",
        "next  the doors open once the trust file lists this site: residency agent enroll --trust FILE",
    ]


def _install(home: AgentHome, files: Mapping[str, Path | None]) -> list[str]:
    """What was given, in the order in which one needs the other."""
    from client import enrolment  # noqa: PLC0415 - loads the law engine

    lines = []
    if (file := files["certificate"]) is not None:
        made = enrolment.install_certificate(home, read_bytes(file, "the certificate"))
        lines.append(f"certificate installed, until {rfc3339(made.not_after)}")
    if (file := files["trust"]) is not None:
        enrolment.install_trust(home, file)
        lines.append(f"trust file installed: {home.anchor().digest[:12]}")
    if (file := files["law"]) is not None:
        digest = enrolment.install_law(home, file, files["law_advice"])
        _record(home, "law", {"law_set": digest})
        lines.append(f"law set installed: {digest[:12]}")
    if (file := files["policy"]) is not None:
        digest = enrolment.install_policy(home, file)
        _record(home, "policy", {"policy": digest})
        lines.append(f"policy installed: {digest[:12]}")
    return lines


def _record(home: AgentHome, kind: str, body: dict[str, str]) -> None:
    with home.log(home.anchor(), home.signer()) as log:
        log.append(kind, {**body, "at": rfc3339(now())})
