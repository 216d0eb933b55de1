"""Check one .tlog-proof alone: the entry that it carries, the log that it names, and who saw that log."""

from __future__ import annotations

from datetime import datetime

from compliance.canonical import Json
from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign
from compliance.log.entry import Entry, decode
from compliance.log.evidence import LogEvidence
from compliance.release import tlog_proof
from compliance.release.case import Logged
from compliance.release.report import Found, Report, Step, StepResult, step_error
from compliance.release.tlog_proof import TlogProof
from compliance.release.verify_logs import check_key_period, log_key
from compliance.trust.root import Anchor
from compliance.trust.witnesses import neutral, owners, witness_keys

_ENTRY = Step(1, "RSD-9141", "entry", "the entry in the file is proved to be at its index in the log's tree")
_LOG = Step(2, "RSD-9142", "log", "the checkpoint is signed by its member's key, valid at the time of the entry")
_NOT_COVERED = (
    "whether what the entry says is true, and what else the log holds",
    "whether the log went on as it was: compare later evidence of it with this checkpoint",
    "revocations issued after the trust file that was given",
)


def verify_proof(data: bytes, anchor: Anchor, at: datetime) -> Report:
    """Both steps on a proof in memory. Errors in it are in the report, exit code 1."""
    facts: dict[str, Json] = {"mode": "proof", "at": rfc3339(at), "trust": anchor.digest}
    try:
        proof = tlog_proof.parse(data)
        entry = _included(proof)
    except ResidencyError as e:
        error = step_error(_ENTRY, e)
        results = (StepResult(_ENTRY, "FAIL", error=error), StepResult(_LOG, "not run"))
        return Report(results, facts, error, _NOT_COVERED)
    seen = proof.checkpoint
    facts |= {"origin": seen.origin, "size": seen.size, "index": entry.index, "kind": entry.kind, "entry_at": entry.at}
    where = (
        f"entry {entry.index} of a tree of {seen.size}: {entry.kind}, {entry.at}, study {entry.study[:16] or 'none'}"
    )
    first = StepResult(_ENTRY, "ok", Found((where,)))
    try:
        found, cosigners = _signed(proof, entry, anchor, at)
    except ResidencyError as e:
        error = step_error(_LOG, e)
        return Report((first, StepResult(_LOG, "FAIL", error=error)), facts, error, _NOT_COVERED)
    facts["cosigners"] = list(cosigners)
    return Report((first, StepResult(_LOG, "ok", found)), facts, None, _NOT_COVERED)


def _included(proof: TlogProof) -> Entry:
    proof.check_inclusion()
    entry = decode(proof.entry)
    if entry.index != proof.index:
        raise CheckFailed("RSD-9141", "the entry names another index", found=entry.index, limit=proof.index)
    return entry


def _signed(proof: TlogProof, entry: Entry, anchor: Anchor, at: datetime) -> tuple[Found, list[str]]:
    """Who signed and cosigned the checkpoint; keys are judged at the time of the entry, the trust file's expiry now."""
    trust, origin = anchor.trust, proof.checkpoint.origin
    if at > parse_time(trust.expires):
        raise CheckFailed("RSD-9142", "the trust file has expired", found=rfc3339(at), limit=trust.expires,
                          next="give --at, or a newer trust file")  # fmt: skip
    member = owners(trust).get(origin)
    if member is None:
        raise CheckFailed("RSD-9142", "this log belongs to no member of the consortium", found=origin,
                          limit=", ".join(owners(trust)), next="give the log's own trust file")  # fmt: skip
    shown = LogEvidence(origin=origin, checkpoint=proof.signed, earlier=(), leaf_hashes=(), entries=())
    key, witnesses = log_key(trust, member, shown), witness_keys(trust, member, parse_time(entry.at))
    cosign.check_witness_keys(witnesses, key)
    signed = checkpoint.open_signed(proof.signed, key, origin)
    check_key_period(trust, Logged(member, shown, {entry.index: entry}), at)
    cosigners = sorted(cosign.cosigners(signed.note, witnesses))
    asserted = ["that its log records what happened"]
    if not neutral(trust, member, cosigners):
        asserted.append("that this is the log that others were shown: only its owner and the operator signed it")
    proved = f"log {origin} at {signed.checkpoint.size} entries is signed by {member}, cosigned by {len(cosigners)}"
    return Found((f"{proved} ({', '.join(cosigners) or 'nobody'})",), tuple((member, t) for t in asserted)), cosigners
