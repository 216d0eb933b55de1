"""`residency key`: make and show signing keys."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE
from compliance.errors import Refused
from compliance.files import absolute
from compliance.identity import ROLES, PublicIdentity, Role, load_public, new_signer, read_signer, save_signer

_OFFICE_ROLES = ("signatory", "dpo")


@click.group()
def key() -> None:
    """Make and show signing keys.

    \b
    Example: residency key show office/signatory.pub.json
    """


@key.command("new")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the key may sign.")
@click.option("--holder", required=True, help="Name of the member that holds it.")
@click.option("--out", "folder", type=FILE, required=True, help="Folder for ROLE.key and ROLE.pub.json.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long it may sign.")
@command("residency.key.new/1")
def new(role: Role, holder: str, folder: Path, days: int) -> Result:
    """Make a key where it will be used: ROLE.key stays there, ROLE.pub.json is for the others.

    Keys of a signatory or DPO are refused inside an agent's folder: who decides must not be the machine that obeys.

    \b
    Example: residency key new --role signatory --holder charite --out ~/office
    """
    if role in _OFFICE_ROLES:
        _refuse_agent_home(role, folder)
    start = now()
    signer = new_signer(role, holder, rfc3339(start), rfc3339(start + timedelta(days=days)))
    private, public = save_signer(signer, folder)
    lines = [*_lines(signer.identity), f"private  {private} (keep it here)", f"public   {public} (for the others)"]
    return Result({**_fields(signer.identity), "private_file": str(private), "public_file": str(public)}, lines)


@key.command("show")
@click.argument("file", type=FILE)
@command("residency.key.show/1")
def show(file: Path) -> Result:
    """Show whose key it is, its role and period; FILE is a .pub.json, or a .key with its .pub.json beside it.

    \b
    Example: residency key show office/signatory.pub.json
    """
    identity = read_signer(file).identity if file.suffix == ".key" else load_public(file)
    return Result(_fields(identity), _lines(identity))


def _refuse_agent_home(role: str, folder: Path) -> None:
    whole = absolute(folder, "the folder")
    for place in (whole, *whole.parents):
        if (place / "agent.json").exists():
            raise Refused(
                "RSD-6007",
                f"a {role} key must not be made inside an agent's folder",
                rule="keys of people never exist on the agent's host",
                found=str(whole),
                limit=f"a folder outside {place}",
                next="make it on that person's own machine, and give the agent the .pub.json",
            )


def _fields(identity: PublicIdentity) -> dict[str, object]:
    return {"key": identity.as_json(), "keyid": identity.keyid}


def _lines(identity: PublicIdentity) -> list[str]:
    revoked = [f"revoked  {identity.revoked_at}"] if identity.revoked_at else []
    return [
        f"key      {identity.keyid}",
        f"role     {identity.role} of {identity.holder}",
        f"valid    {identity.not_before} to {identity.not_after}",
        *revoked,
    ]
