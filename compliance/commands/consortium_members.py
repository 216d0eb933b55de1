"""`residency consortium renew|revoke|leave`: certificates in time, and how a site goes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE, home_option, load_role, must_sign_at, out_option
from compliance.commands.trust_view import sign_line, trust_fields, trust_lines
from compliance.errors import InputError, Refused
from compliance.files import quoted, read_bytes, refuse_existing, sync_folder, write_durably, write_new
from compliance.identity import Envelope
from compliance.pki import renew_server_certificate
from compliance.tls import certificate_days_left
from compliance.trust.certificates import certificate_of, issue, request_of
from compliance.trust.draft import draft_trust
from compliance.trust.home import OperatorHome
from compliance.trust.membership import make_leave, make_suspension, open_leave
from compliance.trust.root import Anchor, load_anchor, parse_trust
from compliance.trust.witnesses import members


@click.command("renew")
@click.argument("site", required=False)
@click.option("--days", type=click.IntRange(1, 825), default=365, show_default=True, help="How long it holds.")
@home_option
@command("residency.consortium.renew/1")
def renew(site: str | None, days: int, home: Path) -> Result:
    """Renew the server's certificate, or that of SITE. The CA stays, and a running server takes it up by itself.

    An agent renews its own certificate over the governance door; SITE is for one that reaches it by files only.

    \b
    Example: residency consortium renew --home ./server
    """
    place = OperatorHome(home)
    place.need_whole()
    if site is not None:
        request = request_of(place, place.anchor().trust.site(site).name)
        if request is None:
            raise InputError(
                "RSD-6219", f"the operator holds no enrolment request of {site}", rule="a certificate is for a key",
                found="no file in requests/", limit=f"requests/{site}.json", next="let the site enrol again",
            )  # fmt: skip
        issue(place, request, days)
        path = certificate_of(place, site)
    else:
        place.record({"act": "renew", "days": days})
        path = renew_server_certificate(place.tls, place.config().hosts, days).certificate
    left = certificate_days_left(path, now())
    return Result({"file": str(path), "days_left": left}, [f"renewed    {path}", f"holds for  {left} days"])


@click.command("revoke")
@click.argument("site")
@click.option("--reason", required=True, help="Why; it stands in the operator's log and in the suspension.")
@click.option("--leave", "leave_file", type=FILE, help="The site's own leave statement, as the ground.")
@click.option("--lift", is_flag=True, help="Lift the operator's suspension instead.")
@click.option("--days", type=click.IntRange(1, 3650), default=730, show_default=True, help="Until the draft expires.")
@click.option("--out", type=FILE, help="The draft of the trust file without SITE; never overwritten.")
@home_option
@command("residency.consortium.revoke/1")
def revoke(
    site: str, reason: str, leave_file: Path | None, lift: bool, days: int, out: Path | None, home: Path
) -> Result:
    """Serve SITE no more from now on, and draft the trust file without it. SITE may be an outside witness.

    The suspension closes the operator's own doors, within one round. Membership ends only when enough sites sign the
    draft; without --out nothing is drafted.

    \b
    Example: residency consortium revoke leeds --reason "node stolen" --out trust.draft.json
    """
    place = OperatorHome(home)
    place.need_whole()
    if lift:
        if leave_file is not None or out is not None:
            raise click.UsageError("--lift takes neither --leave nor --out")
        return _lift(place, site, reason)
    anchor = place.anchor()
    if site in {k.holder for k in anchor.trust.keys_of("witness")} - set(members(anchor.trust)):
        return _revoke_witness(place, anchor, site, reason, days, out)
    anchor.trust.site(site)
    ground = _ground(anchor, site, leave_file)
    suspension = make_suspension(place.signer(), anchor.trust.consortium, site, reason, ground)
    draft, trouble = None, None
    if out is not None:
        refuse_existing(out)
        expires = rfc3339(now() + timedelta(days=days))
        try:
            draft = draft_trust(place.config(), place.signer().identity, [], anchor, expires, leaving=site)
        except Refused as e:  # the doors close all the same
            trouble = e
    _suspend(place, site, reason, suspension, draft)
    lines = [f"suspended  {site}: this operator serves it no more"]
    fields: dict[str, object] = {"site": site, "suspended": True, "suspension": suspension.digest, "draft": None}
    if draft is not None and out is not None:
        write_new(out, draft.encode() + b"\n")
        trust, _ = parse_trust(draft.encode(), str(out))
        fields |= {"draft": trust_fields(trust, draft), "file": str(out)}
        lines += [*trust_lines(trust, draft), sign_line(out)]
    return Result(fields, lines, trouble)


def _revoke_witness(
    place: OperatorHome, anchor: Anchor, holder: str, reason: str, days: int, out: Path | None
) -> Result:
    """An outside witness comes through no door of the operator's: its key ends with the next trust file."""
    if out is None:
        raise click.UsageError(f"{holder} is a witness: give --out for the trust file in which its key ends")
    refuse_existing(out)
    expires = rfc3339(now() + timedelta(days=days))
    draft = draft_trust(place.config(), place.signer().identity, [], anchor, expires, leaving=holder)
    place.record({"act": "draft", "draft": draft.digest, "joining": [], "reason": reason})
    write_new(out, draft.encode() + b"\n")
    trust, _ = parse_trust(draft.encode(), str(out))
    fields = {"site": holder, "suspended": False, "draft": trust_fields(trust, draft), "file": str(out)}
    lines = [*trust_lines(trust, draft), sign_line(out)]
    return Result(fields, lines)


def _ground(anchor: Anchor, site: str, leave_file: Path | None) -> str:
    """Digest of the site's leave statement, checked; empty without one."""
    if leave_file is None:
        return ""
    leave = open_leave(read_bytes(leave_file, "leave statement"), anchor, str(leave_file))
    if leave.site != site:
        raise Refused(
            "RSD-6217", f"{leave_file} is the leave of another site", rule="a site leaves for itself",
            found=leave.site, limit=site, next="give the statement that this site signed",
        )  # fmt: skip
    return leave.digest


def _suspend(place: OperatorHome, site: str, reason: str, suspension: Envelope, draft: Envelope | None) -> None:
    drafted = draft.digest if draft is not None else ""
    place.record({"act": "suspend", "site": site, "reason": reason, "suspension": suspension.digest, "draft": drafted})
    write_durably(place.suspended / f"{site}.json", suspension.encode() + b"\n")


def _lift(place: OperatorHome, site: str, reason: str) -> Result:
    path = place.suspended / f"{site}.json"
    if not path.exists():
        raise InputError(
            "RSD-6220", f"{site} is not suspended", rule="a suspension is lifted once", found="no suspension",
            limit=f"suspended/{site}.json", next="see residency server status",
        )  # fmt: skip
    place.record({"act": "lift", "site": site, "reason": reason})
    path.unlink()
    sync_folder(path.parent)
    lines = [f"lifted     {site} is served again, as far as the trust file lists it"]
    return Result({"site": site, "suspended": False}, lines)


@click.command("leave")
@click.option("--key", "key_file", type=FILE, required=True, help="The signatory's private key (.key).")
@click.option("--trust", "trust_file", type=FILE, required=True, help="The trust file that the site leaves.")
@click.option("--reason", required=True, help="Why; everybody who gets the statement can read it.")
@out_option
@command("residency.consortium.leave/1")
def leave(key_file: Path, trust_file: Path, reason: str, out: Path) -> Result:
    """Sign that this site leaves the consortium. The operator and the other sites get the file.

    \b
    Example: residency consortium leave --key signatory.key --trust trust.json --reason "project ended" --out leave.json
    """
    signer = load_role(key_file, "signatory", "sign a leave statement")
    anchor = load_anchor(trust_file)
    must_sign_at(signer, rfc3339(now()))
    envelope = make_leave(signer, anchor.trust, anchor.digest, reason)
    open_leave(envelope.encode(), anchor, str(out))
    write_new(out, envelope.encode() + b"\n")
    site, name = signer.identity.holder, quoted(Path(out.name))
    lines = [
        f"leave      {site} leaves {anchor.trust.consortium}, digest {envelope.digest[:12]}",
        f"file       {out}",
        f"next       the operator: residency consortium revoke {site} --leave {name} --reason TEXT --out DRAFT",
    ]
    return Result({"site": site, "digest": envelope.digest, "file": str(out)}, lines)
