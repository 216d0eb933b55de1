"""`residency consortium invite|admit`: how a site comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import click

from compliance.cli import Result, command
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE, home_option, out_option
from compliance.commands.trust_view import sign_line, trust_fields, trust_lines
from compliance.errors import InputError, Refused, UsageError
from compliance.files import quoted, read_bytes, refuse_existing, write_durably, write_new
from compliance.identity import PublicIdentity, Signer, load_public
from compliance.law.countries import COUNTRIES, need_countries
from compliance.law.model import Party
from compliance.trust.certificates import issue_missing
from compliance.trust.consortium import Consortium
from compliance.trust.draft import NewWitness, draft_trust
from compliance.trust.enrol import TOKEN_DAYS, EnrolmentRequest, invited, make_invitation, open_invitation
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor, check_successor, open_trust, parse_trust
from compliance.trust.tokens import is_retired, keep_newest, take_in


@click.command("invite")
@click.argument("site")
@click.option("--jurisdiction", required=True, help="Country of the site and its data, e.g. DE.")
@click.option("--days", type=click.IntRange(1, 90), default=TOKEN_DAYS, show_default=True, help="Until it expires.")
@home_option
@out_option
@command("residency.consortium.invite/1")
def invite(site: str, jurisdiction: str, days: int, home: Path, out: Path) -> Result:
    """Write an invitation for SITE, signed by the operator, with a one-time token: a secret until the site used it.

    The operator keeps the token's hash only. It retires all earlier invitations of SITE, used or not.

    \b
    Example: residency consortium invite charite --jurisdiction DE --out charite.invitation.json
    """
    place = OperatorHome(home)
    place.need_whole()
    need_countries([jurisdiction])
    _refuse_taken(place, site)
    envelope = make_invitation(place.config(), place.signer(), site, jurisdiction, place.ca_pem(), days=days)
    invitation = open_invitation(envelope.encode())
    refuse_existing(out)
    place.record({"act": "invite", "site": site, "jurisdiction": jurisdiction, "invitation": invitation.digest})
    write_durably(out, envelope.encode() + b"\n", private=True)  # first: what nobody can hand over retires nothing
    try:
        retired = keep_newest(place, invited(invitation))
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    earlier = _earlier_places(place, site, retired) - {jurisdiction}
    kit = quoted(Path(out.name))
    lines = [
        f"invitation {invitation.digest[:12]} of {site} ({jurisdiction}), until {invitation.token_expires}",
        f"file       {out}, readable by you alone",
        "secret     whoever holds the file can enrol as this site, once: hand it over like a password",
        *(f"retired    invitation {digest[:12]}, which no longer holds" for digest in retired),
        *(
            f"changed    {site} was in {before} until now; this invitation places it in {jurisdiction}"
            for before in sorted(earlier)
        ),
        f"next       the site: residency agent enroll {kit} --signatory signatory.pub.json --dpo dpo.pub.json",
    ]
    fields = {
        "site": site, "jurisdiction": jurisdiction, "digest": invitation.digest, "file": str(out), "retired": retired,
        "earlier_jurisdictions": sorted(earlier),
    }  # fmt: skip
    return Result({**fields, "token_expires": invitation.token_expires}, lines)


def _earlier_places(place: OperatorHome, site: str, retired: list[str]) -> set[str]:
    """Where the site's retired invitations and the trust file say that it is."""
    kept = {place.read_invited(place.invitations / f"{digest}.json").jurisdiction for digest in retired}
    members = place.anchor().trust.sites if place.trust_file.exists() else ()
    return kept | {m.jurisdiction for m in members if m.name == site}


def _refuse_taken(place: OperatorHome, site: str) -> None:
    """A member's name means one party: no site has the operator's or an outside witness's."""
    taken = {place.config().operator.name: "the operator"}
    if place.trust_file.exists():
        taken |= {w.name: "an outside witness" for w in place.anchor().trust.witnesses}
    if site in taken:
        raise InputError(
            "RSD-6021",
            f"{site} is the name of {taken[site]}",
            rule="each member has a name of its own",
            found=site,
            limit=f"another name than {', '.join(sorted(taken))}",
            next="residency consortium invite OTHER-NAME --jurisdiction XX --out FILE",
        )


@click.command("admit")
@click.argument("requests", nargs=-1, type=FILE)
@click.option("--witness", "witnesses", multiple=True, type=FILE, help="Public key of an outside witness to name.")
@click.option("--jurisdiction", "places", multiple=True, help="Country of each --witness, in their order.")
@click.option("--access", multiple=True, metavar="NAME:CODE", help="Another country from which a witness is reached.")
@click.option("--covered-person", "covered", multiple=True, metavar="NAME", help="One whom 28 CFR 202.211 covers.")
@click.option("--install", type=FILE, help="Install this signed draft instead of making one.")
@click.option("--days", type=click.IntRange(1, 3650), default=730, show_default=True, help="Until the draft expires.")
@click.option("--out", type=FILE, help="The draft to write; never overwritten.")
@home_option
@command("residency.consortium.admit/1")
def admit(
    requests: tuple[Path, ...],
    witnesses: tuple[Path, ...],
    install: Path | None,
    days: int,
    out: Path | None,
    home: Path,
    **told: tuple[str, ...],
) -> Result:
    """Draft the next trust file from enrolment REQUESTS, or install a draft that enough sites signed.

    Without REQUESTS and --witness it takes all that came in at the enrolment door and are not in the trust file yet.
    A witness is named with the country that it is in, in the order of the --witness: what it is shown is decided by
    that. Another key of it ends. Installing also writes a certificate into certificates/ for each member that has none.

    \b
    Example: residency consortium admit charite.request.json leeds.request.json --out trust.draft.json
    """
    if install is not None and (requests or witnesses or out is not None or any(told.values())):
        raise click.UsageError("--install takes neither REQUESTS, --witness and what belongs to it, nor --out")
    if install is not None:
        return _install(OperatorHome(home), install)
    if out is None:
        raise click.UsageError("give --out FILE, or --install DRAFT")
    return _draft(OperatorHome(home), requests, _named(witnesses, told), days, out)


def _named(files: tuple[Path, ...], told: Mapping[str, tuple[str, ...]]) -> list[NewWitness]:
    """The witnesses with where they are. Raises InputError RSD-5110, UsageError RSD-5119."""
    places, covered = told["places"], told["covered"]
    reached = [text.partition(":")[::2] for text in told["access"]]
    if len(places) != len(files):
        raise _no_place(f"{len(places)} --jurisdiction for {len(files)} --witness")
    for code in (*places, *(code for _, code in reached)):
        if code not in COUNTRIES:
            raise _no_place(code or "no country")
    found = []
    at: dict[str, str] = {}
    for path, place in zip(files, places, strict=True):
        key = _key(path)
        if at.setdefault(key.holder, place) != place:
            raise _no_place(f"{key.holder} in {at[key.holder]} and in {place}")
        access = tuple(dict.fromkeys(code for name, code in reached if name == key.holder))
        party = Party(name=key.holder, jurisdiction=place, access=access, covered_person=key.holder in covered)
        found.append(NewWitness(key, party))
    for name in sorted({*covered, *(name for name, _ in reached)} - {w.party.name for w in found}):
        raise _no_place(f"{name}, whom no --witness names")
    return found


def _no_place(found: str) -> UsageError:
    return UsageError(
        "RSD-5119",
        "a witness is admitted with the jurisdiction that it is in",
        rule="what a witness is shown is decided by where it is and from where it is reached",
        found=found,
        limit="--jurisdiction CODE (ISO 3166-1) for each --witness, in their order; --access NAME:CODE of one of them",
        next="ask the witness for its country, then: residency consortium admit --witness FILE --jurisdiction CODE",
    )


def _key(path: Path) -> PublicIdentity:
    found = load_public(path)
    if found.role != "witness":
        raise InputError(
            "RSD-5110",
            f"{path} is no witness's key",
            rule="a witness is named by a key of that role",
            found=f"{found.role} key of {found.holder}",
            limit="witness key",
            next="give the witness.pub.json that residency log witness init made",
        )
    return found


def _draft(
    place: OperatorHome, requests: tuple[Path, ...], witnesses: Sequence[NewWitness], days: int, out: Path
) -> Result:
    place.need_whole()
    refuse_existing(out)
    previous = place.anchor() if place.trust_file.exists() else None
    asked = [_taken_in(place, path) for path in requests] or ([] if witnesses else _waiting(place, previous))
    expires = rfc3339(now() + timedelta(days=days))
    draft = draft_trust(place.config(), place.signer().identity, asked, previous, expires, witnesses=witnesses)
    place.record({"act": "draft", "draft": draft.digest, "joining": sorted(r.site for r in asked)})
    write_new(out, draft.encode() + b"\n")
    trust, _ = parse_trust(draft.encode(), str(out))
    return Result(trust_fields(trust, draft), [*trust_lines(trust, draft), sign_line(out)])


def _taken_in(place: OperatorHome, path: Path) -> EnrolmentRequest:
    data = read_bytes(path, "enrolment request")
    return take_in(place, place.invitation_of(data, str(path)), data, str(path))


def _outdated(place: OperatorHome, path: Path) -> bool:
    return is_retired(place, place.invitation_of(read_bytes(path, "enrolment request"), str(path)))


def _waiting(place: OperatorHome, previous: Anchor | None) -> list[EnrolmentRequest]:
    """The requests in requests/ whose agent key the trust file does not list. Raises Refused RSD-6218 if none is.

    Requests with a retired invitation are left out: a newer one was made because the older could be in other hands.
    """
    known = {k.keyid for k in previous.trust.keys} if previous else set()
    asked = [_taken_in(place, path) for path in sorted(place.requests.glob("*.json")) if not _outdated(place, path)]
    waiting = [r for r in asked if r.agent.keyid not in known]
    if not waiting:
        raise Refused(
            "RSD-6218",
            "no enrolment request waits to be admitted",
            rule="without REQUESTS, those received by the enrolment door are taken",
            found=f"{len(asked)} requests with an invitation that holds, all in the trust file",
            limit="one request or more",
            next="invite a site, or give the files of its request",
        )
    return waiting


def _install(place: OperatorHome, path: Path) -> Result:
    place.need_whole()
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
    place.record({"act": "trust", "version": new.trust.version, "trust": new.digest})
    write_durably(place.trust_file, new.envelope.encode() + b"\n")
    issued = issue_missing(place, new.trust)
    lines = [*trust_lines(new.trust, new.envelope), f"installed  {place.trust_file}"]
    lines += [f"issued     {place.certificates / site}.crt" for site in issued]
    fields = {**trust_fields(new.trust, new.envelope), "file": str(place.trust_file), "certificates": issued}
    return Result(fields, lines)


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
