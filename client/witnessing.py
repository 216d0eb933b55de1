"""Between rounds: countersign the roster, cosign the others' checkpoints, keep their cosignatures on one's own log."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from client.admission import Case
from client.books import Books
from client.contribution import Committed
from client.site import Site
from compliance.canonical import parse_canonical
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, Refused, ResidencyError
from compliance.files import read_bytes, write_durably
from compliance.identity import countersign, parse_envelope
from compliance.log import checkpoint, note
from compliance.log.alarms import add_cosignature, of_checkpoint, raise_alarm
from compliance.messages import CheckpointOffer, CosignedLine, WitnessReply, WitnessRequest, encode
from compliance.roster import SCHEMA, Roster
from compliance.trust.witnesses import owners, witness_keys
from compliance.validation import load_model
from strategies.wire import Reply

_CLOCK_SLACK_S = 15 * 60


def witness(site: Site, message: WitnessRequest) -> Reply:
    """A countersigned roster and cosignatures; what is wrong is refused one by one, logged, with the reason."""
    case = site.joined_case(message.study)
    refused: list[str] = []
    for line in message.cosigned:
        try:
            keep(site, line, case.digest)
        except ResidencyError as e:
            site.record_refusal(e, case.digest)
            refused.append(f"cosignature by {line.witness}: {e}"[:1000])
    given: list[CosignedLine] = []
    for offer in message.offers:
        try:
            given.append(cosign(site, offer, case.digest))
        except ResidencyError as e:
            site.record_refusal(e, case.digest)
            refused.append(f"{offer.origin}: {e}"[:1000])
    roster = None
    if message.roster is not None:
        try:
            roster = countersigned(site, case, message.roster)
        except ResidencyError as e:
            site.record_refusal(e, case.digest)
            refused.append(f"roster: {e}"[:1000])
    reply = WitnessReply(
        schema="residency.witnessed/1",
        site=site.name,
        roster=roster,
        cosigned=tuple(given),
        refused=tuple(refused),
        offer=site.offer(),
    )
    return Reply(encode(reply))


def keep(site: Books, line: CosignedLine, study: str) -> None:
    """Store a cosignature on this site's own log; one that does not verify, or is of another log, is an error."""
    if line.origin != site.log.origin:
        raise Refused("RSD-1222", "a cosignature of another log", found=line.origin, limit=site.log.origin)
    keys = witness_keys(site.anchor.trust, site.name, now())
    add_cosignature(site.log, line.size, line.line, keys, study)


def cosign(site: Books, offer: CheckpointOffer, study: str) -> CosignedLine:
    """Cosign a member's checkpoint as a continuation of the one cosigned before; logged.

    What speaks against the other log is an alarm in this one.
    """
    trust = site.anchor.trust
    known = owners(trust)
    owner = known.get(offer.origin)
    if owner is None or owner == site.name:
        raise Refused(
            "RSD-1223",
            "this log is not one that this site witnesses",
            rule="a site cosigns the logs of the other members",
            found=offer.origin,
            limit=", ".join(sorted(o for o, n in known.items() if n != site.name)),
        )
    key = trust.log_key(owner).key()
    last = site.witness.last(offer.origin)
    old_size = last[0] if last else 0
    try:
        done = site.witness.cosign(offer.note, key, old_size, offer.proof(old_size), origin=offer.origin)
    except CheckFailed as e:
        told = of_checkpoint(e, offer.origin, proved=str(old_size) in offer.proofs, direct=False)
        if told is not None:
            raise_alarm(site.log, told, study)
        raise
    signed = checkpoint.open_signed(offer.note, key, offer.origin).checkpoint
    site.record("cosign", {"origin": offer.origin, "size": signed.size, "root": signed.root.hex()}, study)
    return told_line(site, offer.origin, done.line, note.parse(offer.note))


def told_line(site: Books, origin: str, line: str, signed: note.Note) -> CosignedLine:
    """This site's cosignature on a checkpoint that verified; with the checkpoint itself if it is the operator's."""
    trust, shown = site.anchor.trust, ""
    if origin == trust.log_origin(trust.operator.name):
        key = trust.log_key(trust.operator.name).key()
        by_log = signed.signature(origin, note.key_id(origin, note.TYPE_ED25519, key))
        shown = note.Note(signed.text, (by_log,)).encode() if by_log is not None else ""
    size = checkpoint.parse_text(signed.text).size
    return CosignedLine(origin=origin, size=size, witness=site.witness.name, line=line, note=shown)


def countersigned(site: Site, case: Case, text: str) -> str:
    """Countersign the roster if it tells the truth about this site. Raises Refused RSD-1224.

    This site's row must be what its own log says, no recipient may be one that this site's rules deny, and there is
    one roster for a round: another one is never signed.
    """
    data = text.encode("utf-8")
    envelope = parse_envelope(data, "roster")
    roster = load_model(Roster, parse_canonical(envelope.payload, "roster"), "RSD-1210", "roster")
    at = parse_time(roster.at)
    for moment in (at, now()):  # a key that was revoked since cannot give a roster an older date
        site.anchor.statement(data, SCHEMA, "roster", role="operator", holder=case.study.operator.name, at=moment)
    _check_date(site, case, roster, at)
    file = roster_file(site, case, roster.round)
    signed = read_bytes(file, "roster digest").decode("ascii") if file.exists() else None
    if signed not in {None, envelope.digest}:
        raise _untrue("another roster of this round was signed before", envelope.digest[:12], str(signed)[:12])
    _check_row(site, case, roster)
    for name in roster.recipients:
        party = next((p for p in case.peers() if p.name == name), None)
        if party is not None and not case.decide("aggregate", party).allow:
            raise _untrue(
                f"recipients include {name}, to whom this site's rules deny the model", name, "no denied site"
            )
    body = {"round": roster.round, "digest": envelope.digest}
    if signed is None:
        write_durably(file, envelope.digest.encode("ascii"))  # from here on no other roster of the round is signed
        site.record("roster", body, case.digest)
    else:
        site.record_once("roster", body, case.digest)  # asked again, perhaps after a crash before the entry
    return countersign(envelope, site.signer).encode().decode("utf-8")


def roster_file(site: Site, case: Case, round_: int) -> Path:
    """Where the digest of the round's roster stands that this site countersigned, and no other."""
    return site.home.study_folder(case.digest) / "rounds" / f"{round_:03d}" / "roster.sha256"


def _check_date(site: Site, case: Case, roster: Roster, at: datetime) -> None:
    """Not in the future, and not before this site's part in the round; a server may have been away in between."""
    own = own_commit(site, case, roster.round)
    if own is not None:
        first = site.log.entry(own.commit.index).at
    else:
        first = next((e.at for e in site.log.entries(0, study=case.digest, kind="join")), rfc3339(now()))
    slack = timedelta(seconds=_CLOCK_SLACK_S)
    if not parse_time(first) - slack <= at <= now() + slack:
        raise _untrue("its date is not right", roster.at, f"{first} to {rfc3339(now())}, +- {_CLOCK_SLACK_S} s")


def own_commit(site: Site, case: Case, round_: int) -> Committed | None:
    """What this site committed in the round; None if it did not."""
    file = site.home.study_folder(case.digest) / "rounds" / f"{round_:03d}" / "committed.json"
    if not file.exists():
        return None
    return load_model(Committed, parse_canonical(read_bytes(file, "commit"), str(file)), "RSD-1210", str(file))


def _check_row(site: Site, case: Case, roster: Roster) -> None:
    row = roster.row(site.name)
    if roster.study != case.digest or row is None:
        raise _untrue("it is of another study, or this site has no row", roster.study[:12], case.digest[:12])
    if roster.unit != case.study.privacy.unit:
        raise _untrue("it states another privacy unit than the study", roster.unit, case.study.privacy.unit)
    own = own_commit(site, case, roster.round)
    if own is not None and _failed(site, case, roster.round):  # its update was withdrawn with a subject
        if row.outcome != "contributed":
            return
        sent = site.log.entries(0, study=case.digest, kind="transfer")
        own = own if any(e.body.get("round") == roster.round for e in sent) else None
    if (row.outcome == "contributed") != (own is not None):
        raise _untrue(
            f"this site's log {'holds' if own else 'holds no'} committed update of round {roster.round}",
            row.outcome,
            "contributed" if own else "not contributed",
        )
    if own and roster.base_sha256 != own.base_sha256:
        raise _untrue("this site trained from another global model", roster.base_sha256[:12], own.base_sha256[:12])
    if own and (row.update_sha256, row.commit, row.charge) != (own.update_sha256, own.commit, own.charge):
        raise _untrue("it names another update of this site", str(row.update_sha256)[:12], own.update_sha256[:12])


def _failed(site: Site, case: Case, round_: int) -> bool:
    return (site.home.study_folder(case.digest) / "rounds" / f"{round_:03d}" / "failed.json").exists()


def _untrue(why: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-1224",
        f"the roster is not countersigned: {why}",
        rule="a site signs only rosters that agree with its own log",
        found=found,
        limit=limit,
        next="compare the roster with the site's log; a site wrongly called late has its commit there",
    )
