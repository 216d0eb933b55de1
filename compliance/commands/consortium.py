"""`residency consortium`: from nothing to a trust file that enough sites signed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from compliance.canonical import canonical
from compliance.cli import Result, command, table
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE, home_option, key_option, load_role, must_sign_at, out_option
from compliance.errors import Refused
from compliance.files import read_bytes, refuse_existing, write_durably, write_new
from compliance.identity import Envelope, Signer, countersign, new_signer, save_signer
from compliance.trust.enrol import Consortium, check_request, draft_trust, make_invitation
from compliance.trust.home import OperatorHome, new_folder
from compliance.trust.root import Anchor, Trust, check_successor, open_trust, parse_trust, signing_sites
from compliance.validation import load_model


@click.group()
def consortium() -> None:
    """The trust file: init, invite, admit, sign, show."""


@consortium.command("init")
@click.argument("name")
@click.option("--operator", required=True, help="Name of the operator.")
@click.option("--jurisdiction", required=True, help="Country of the operator, e.g. IE.")
@click.option("--threshold", type=int, required=True, help="How many sites must sign a trust file.")
@click.option("--server", required=True, help="HOST:PORT as the sites reach it.")
@home_option
@command("residency.consortium.init/1")
def init(name: str, operator: str, jurisdiction: str, threshold: int, server: str, home: Path) -> Result:
    """Make the operator's folder: its key, the server's TLS files, and consortium.json. It appears whole or not at all.

    \b
    Example: residency consortium init thyroid --operator hub --jurisdiction IE --threshold 3 --server fl.org:9092
    """
    record = {
        "schema": "residency.consortium/1",
        "name": name,
        "operator": {"name": operator, "jurisdiction": jurisdiction},
        "threshold": threshold,
        "server": server,
    }
    config = load_model(Consortium, record, "RSD-6019", "consortium")
    from compliance.tls import make_tls  # noqa: PLC0415 - certificates are made by this command alone

    with new_folder(home) as folder:
        start = now()
        signer = new_signer("operator", operator, rfc3339(start), rfc3339(start + timedelta(days=365)))
        save_signer(signer, folder / "keys")
        make_tls(folder / "tls", (server.rpartition(":")[0],))
        (folder / "invitations").mkdir()
        write_durably(folder / "consortium.json", canonical(config.as_json()) + b"\n")
    lines = [
        f"consortium {name}: {threshold} sites must sign the trust file",
        f"operator   {operator} ({jurisdiction}), key {signer.identity.keyid[:12]}",
        f"home       {home}",
        "next       residency consortium invite SITE --jurisdiction XX --out FILE",
    ]
    return Result({"home": str(home), "consortium": config.as_json(), "keyid": signer.identity.keyid}, lines)


@consortium.command("invite")
@click.argument("site")
@click.option("--jurisdiction", required=True, help="Country of the site and its data, e.g. DE.")
@home_option
@out_option
@command("residency.consortium.invite/1")
def invite(site: str, jurisdiction: str, home: Path, out: Path) -> Result:
    """Write an invitation for SITE, signed by the operator; a copy stays in the operator's folder.

    \b
    Example: residency consortium invite charite --jurisdiction DE --out charite.invitation.json
    """
    place = OperatorHome(home)
    envelope = make_invitation(place.config(), place.signer(), site, jurisdiction, place.ca_pem())
    data = envelope.encode() + b"\n"
    refuse_existing(out)
    write_new(place.invitations / f"{envelope.digest}.json", data)
    write_new(out, data)
    lines = [
        f"invitation {envelope.digest[:12]} of {site} ({jurisdiction})",
        f"file       {out}",
        "next       the site: residency agent enroll " + out.name,
    ]
    return Result({"site": site, "jurisdiction": jurisdiction, "digest": envelope.digest, "file": str(out)}, lines)


@consortium.command("admit")
@click.argument("requests", nargs=-1, type=FILE)
@click.option("--install", type=FILE, help="Install this signed draft instead of making one.")
@click.option("--days", type=click.IntRange(1, 3650), default=730, show_default=True, help="Until the draft expires.")
@click.option("--out", type=FILE, help="The draft to write; never overwritten.")
@home_option
@command("residency.consortium.admit/1")
def admit(requests: tuple[Path, ...], install: Path | None, days: int, out: Path | None, home: Path) -> Result:
    """Draft the next trust file from enrolment REQUESTS, or install a draft that enough sites signed.

    \b
    Example: residency consortium admit charite.request.json leeds.request.json --out trust.draft.json
    """
    place = OperatorHome(home)
    if install is not None:
        if requests or out is not None:
            raise click.UsageError("--install takes neither REQUESTS nor --out")
        return _install(place, install)
    if not requests or out is None:
        raise click.UsageError("give REQUESTS and --out FILE, or --install DRAFT")
    refuse_existing(out)
    asked = []
    for path in requests:
        data = read_bytes(path, "enrolment request")
        asked.append(check_request(data, place.invitation_of(data, str(path)), str(path)))
    previous = place.anchor() if place.trust_file.exists() else None
    expires = rfc3339(now() + timedelta(days=days))
    draft = draft_trust(place.config(), place.signer().identity, asked, previous, expires)
    write_new(out, draft.encode() + b"\n")
    trust, _ = parse_trust(draft.encode(), str(out))
    lines = [
        *_trust_lines(trust, draft),
        f"next       each signatory: residency consortium sign {out} --key signatory.key",
    ]
    return Result(_trust_fields(trust, draft), lines)


def _install(place: OperatorHome, path: Path) -> Result:
    data = read_bytes(path, "trust draft")
    new = open_trust(data, str(path), now())
    _check_own(place.config(), place.signer(), new)
    if place.trust_file.exists():
        old = place.anchor()
        if old.digest != new.digest:
            check_successor(old, new)
    elif (new.trust.version, new.trust.previous) != (1, ""):
        raise Refused(
            "RSD-6014",
            "this trust file follows another one, which is not installed here",
            rule="the first trust file has version 1",
            found=f"version {new.trust.version}",
            limit="version 1",
            next="install the versions in their order",
        )
    write_durably(place.trust_file, new.envelope.encode() + b"\n")
    lines = [*_trust_lines(new.trust, new.envelope), f"installed  {place.trust_file}"]
    return Result({**_trust_fields(new.trust, new.envelope), "file": str(place.trust_file)}, lines)


def _check_own(config: Consortium, signer: Signer, new: Anchor) -> None:
    """A trust file of this consortium, with its own threshold and this operator's key."""
    own = signer.identity.keyid in {k.keyid for k in new.trust.keys_of("operator")}
    for wrong, what, found, limit in (
        (new.trust.consortium != config.name, "consortium", new.trust.consortium, config.name),
        (new.trust.threshold != config.threshold, "threshold", new.trust.threshold, config.threshold),
        (not own, "operator key", "another key", signer.identity.keyid[:12]),
    ):
        if wrong:
            raise Refused(
                "RSD-6014",
                f"this trust file is not of this operator's consortium: {what}",
                rule="a home holds one consortium",
                found=found,
                limit=limit,
                next="install the draft that residency consortium admit wrote here",
            )


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
    lines = [*_trust_lines(trust, signed), f"file       {out or draft}"]
    return Result({**_trust_fields(trust, signed), "file": str(out or draft)}, lines)


def _check_listed(trust: Trust, signer: Signer, draft: Path) -> None:
    listed = {k.keyid: k for k in trust.keys_of("signatory")}
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
    return Result(_trust_fields(trust, envelope), _trust_lines(trust, envelope))


def _trust_fields(trust: Trust, envelope: Envelope) -> dict[str, object]:
    signed = sorted(signing_sites(trust, envelope, trust))
    return {
        "digest": envelope.digest,
        "trust": trust.model_dump(mode="json", by_alias=True),
        "signed_by": signed,
        "threshold_met": len(signed) >= trust.threshold,
    }


def _trust_lines(trust: Trust, envelope: Envelope) -> list[str]:
    signed = sorted(signing_sites(trust, envelope, trust))
    members = [("operator", trust.operator), *(("site", s) for s in trust.sites)]
    keys = [
        (k.holder, k.role, k.keyid[:16], k.not_before, k.revoked_at or k.not_after, "revoked" if k.revoked_at else "")
        for k in trust.keys
    ]
    return [
        f"consortium {trust.consortium}, trust version {trust.version}, {trust.issued} to {trust.expires}",
        f"digest     {envelope.digest}",
        *table(["member", "name", "jurisdiction"], [(kind, m.name, m.jurisdiction) for kind, m in members]),
        *table(["holder", "role", "key", "from", "until", ""], keys),
        f"signed     {len(signed)} of {trust.threshold} needed: {', '.join(signed) or 'nobody'}",
    ]
