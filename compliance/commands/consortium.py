"""`residency consortium`: from nothing to a trust file that enough sites signed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from compliance.canonical import canonical
from compliance.cli import Result, command
from compliance.clock import now, parse_time, rfc3339
from compliance.commands.consortium_admit import admit, invite
from compliance.commands.consortium_members import leave, renew, revoke
from compliance.commands.shared import FILE, home_option, key_option, load_role, must_sign_at
from compliance.commands.trust_view import trust_fields, trust_lines
from compliance.errors import Refused
from compliance.files import read_bytes, write_durably, write_new
from compliance.identity import Signer, countersign, new_signer, save_signer
from compliance.law.countries import need_countries
from compliance.trust.consortium import Consortium
from compliance.trust.home import new_folder
from compliance.trust.root import Trust, parse_trust
from compliance.validation import load_model


@click.group()
def consortium() -> None:
    """The consortium: its trust file, its members and the certificates of its doors.

    \b
    Example: residency consortium show trust.json
    """


@consortium.command("init")
@click.argument("name")
@click.option("--operator", required=True, help="Name of the operator.")
@click.option("--jurisdiction", required=True, help="Country of the operator, e.g. IE.")
@click.option("--threshold", type=int, required=True, help="How many sites must sign a trust file.")
@click.option("--server", required=True, help="HOST:PORT of the fleet door as the sites reach it.")
@click.option("--governance", help="HOST:PORT of the governance door; default: the next port.")
@click.option("--enrolment", help="HOST:PORT of the enrolment door; default: the next port but one.")
@home_option
@command("residency.consortium.init/1")
def init(
    name: str,
    operator: str,
    jurisdiction: str,
    threshold: int,
    server: str,
    governance: str | None,
    enrolment: str | None,
    home: Path,
) -> Result:
    """Make the operator's folder: its key, the consortium's CA, the server's TLS files, and consortium.json.

    It appears whole or not at all, and only where nothing is: this command alone makes a CA.

    \b
    Example: residency consortium init thyroid --operator hub --jurisdiction IE --threshold 3 --server fl.org:9092
    """
    record = {
        "schema": "residency.consortium/1",
        "name": name,
        "operator": {"name": operator, "jurisdiction": jurisdiction},
        "threshold": threshold,
        "server": server,
        "governance": governance or _next_port(server, 1),
        "enrolment": enrolment or _next_port(server, 2),
    }
    config = load_model(Consortium, record, "RSD-6019", "consortium")
    need_countries([jurisdiction])
    from compliance.tls import make_tls  # noqa: PLC0415 - certificates are made by this command alone

    with new_folder(home) as folder:
        start = now()
        signer = new_signer("operator", operator, rfc3339(start), rfc3339(start + timedelta(days=365)))
        save_signer(signer, folder / "keys")
        make_tls(folder / "tls", config.hosts)
        (folder / "invitations").mkdir()
        write_durably(folder / "consortium.json", canonical(config.as_json()) + b"\n")
    lines = [
        f"consortium {name}: {threshold} sites must sign the trust file",
        f"operator   {operator} ({jurisdiction}), key {signer.identity.keyid[:12]}",
        f"home       {home}; back it up now: {home / 'tls' / 'ca.key'} can never be made again",
        "next       residency consortium invite SITE --jurisdiction XX --out FILE",
    ]
    return Result({"home": str(home), "consortium": config.as_json(), "keyid": signer.identity.keyid}, lines)


def _next_port(server: str, step: int) -> str:
    host, _, port = server.rpartition(":")
    return f"{host}:{int(port) + step}" if port.isdecimal() else server


@consortium.command("sign")
@click.argument("draft", type=FILE)
@key_option
@click.option("--out", type=FILE, help="Write here instead of into DRAFT; never overwritten.")
@command("residency.consortium.sign/1")
def sign(draft: Path, key_file: Path, out: Path | None) -> Result:
    """Add one signatory's signature to a drafted trust file, after showing who it would trust.

    \b
    Example: residency consortium sign trust.draft.json --key office/signatory.key
    """
    signer = load_role(key_file, "signatory", "sign a trust file")
    trust, envelope = parse_trust(read_bytes(draft, "trust draft"), str(draft))
    _check_listed(trust, signer, draft)
    signed = countersign(envelope, signer)
    data = signed.encode() + b"\n"
    if out is None:
        write_durably(draft, data)
    else:
        write_new(out, data)
    lines = [*trust_lines(trust, signed), f"file       {out or draft}"]
    return Result({**trust_fields(trust, signed), "file": str(out or draft)}, lines)


def _check_listed(trust: Trust, signer: Signer, draft: Path) -> None:
    listed = {k.keyid: k for k in trust.keys_of("signatory") if k.may_sign_at(parse_time(trust.issued))}
    if signer.identity.keyid not in listed:
        raise Refused(
            "RSD-6018",
            f"{draft} does not list this key",
            rule="a trust file is signed by signatories whom it lists",
            found=f"{signer.identity.keyid[:12]} of {signer.identity.holder}",
            limit=", ".join(f"{k.keyid[:12]} of {k.holder}" for k in listed.values()),
            next="check that the draft holds your own key, and ask the operator if it does not",
        )
    must_sign_at(signer, trust.issued)


@consortium.command("show")
@click.argument("file", type=FILE)
@command("residency.consortium.show/1")
def show(file: Path) -> Result:
    """Show members, keys, threshold and signatures of a trust file or draft.

    \b
    Example: residency consortium show trust.json
    """
    trust, envelope = parse_trust(read_bytes(file, "trust file"), str(file))
    return Result(trust_fields(trust, envelope), trust_lines(trust, envelope))


for further in (invite, admit, renew, revoke, leave):
    consortium.add_command(further)
