"""Step 7: the logs against what other members cosigned."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed
from compliance.identity import PublicIdentity
from compliance.log import checkpoint, merkle, note
from compliance.log.cosign import WitnessKeys
from compliance.log.evidence import CheckedLog, LogEvidence, check_evidence
from compliance.release import bodies, verify_complete
from compliance.release.case import Contents, Context, Logged
from compliance.release.report import Found
from compliance.release.verify_signed import CLOCK_TOLERANCE
from compliance.roster import EntryRef
from compliance.trust.root import Trust
from compliance.trust.witnesses import log_role, witness_keys


def logs(contents: Contents, context: Context) -> Found:
    """Step 7: logs by their keys and cosignatures, rosters' entries by their leaf hashes, cosigners' own logs."""
    trust = context.anchor.trust
    for member in (trust.operator.name, *contents.contributing):
        contents.log(member)
    at = parse_time(contents.last_logged)
    valid = {member: witness_keys(trust, member, at) for member in contents.logs}
    checked = {m: check_log(trust, m, log.evidence, valid[m], at_least=1) for m, log in sorted(contents.logs.items())}
    quorum = contents.study.quorum.witnesses
    for member, log in contents.logs.items():
        check_key_period(trust, log, context.at)
        _check_noted_by_peers(log, contents.logs, verify_complete.cosigners(trust, member, checked[member], quorum))
        verify_complete.entries(contents, log)
    _as_dated(contents)
    for site in contents.contributing:
        if contents.joined_at(site) < 0:
            message = f"log of {site}: no entry says that it joined run {contents.manifest.run}"
            raise _false("RSD-9007", message, found="no join entry", limit=contents.manifest.run)
    for signed in contents.rosters:
        for row in signed.roster.rows:
            refs = (row.charge, row.commit, row.decision, row.transfer, *row.denied_by)
            for ref in refs:
                if ref is not None:
                    resolve(contents, trust, ref, f"{signed.path}, {row.site}")
    whole = "each shown log opens exactly the entries of this study that its last close entry counts"
    proved = (*(_cosigned(log) for log in checked.values()), whole)
    return Found(proved, verify_complete.words(contents, trust, checked))


def _as_dated(contents: Contents) -> None:
    """The manifest bears the time of the last entry: the operator's key is judged at a time that others logged."""
    if contents.manifest.created != contents.last_logged:
        raise _false("RSD-9007", "the manifest is not dated by the last entry of the logs",
                     found=contents.manifest.created, limit=contents.last_logged)  # fmt: skip


def check_log(trust: Trust, member: str, evidence: LogEvidence, witnesses: WitnessKeys, *, at_least: int) -> CheckedLog:
    """Evidence of `member`'s log under trust.json. Raises CheckFailed RSD-5002..5055 or RSD-9007.

    `witnesses`: whose cosignatures count, each if its key held at the time that it states.
    """
    origin = trust.log_origin(member)
    if evidence.origin != origin:
        raise _false("RSD-9007", f"the evidence of {member} is of another log", found=evidence.origin, limit=origin)
    key = log_key(trust, member, evidence)
    return check_evidence(evidence, key, witnesses, at_least)


def log_key(trust: Trust, member: str, evidence: LogEvidence) -> Ed25519PublicKey:
    """The member's key that signed the checkpoint; `check_evidence` verifies the signature itself."""
    return _signers(trust, member, evidence)[0].key()


def _signers(trust: Trust, member: str, evidence: LogEvidence) -> list[PublicIdentity]:
    """The periods of the key that signed the checkpoint; it stands in the trust file again where it was prolonged."""
    held = trust.keys_of(log_role(trust, member), member)
    parsed, origin = note.parse(evidence.checkpoint), evidence.origin
    found = [k for k in held if parsed.signature(origin, note.key_id(origin, note.TYPE_ED25519, k.key()))]
    if found:
        return [k for k in found if k.public == found[0].public]
    raise _false(
        "RSD-9007",
        f"the checkpoint of log {evidence.origin} is not signed by a key of {member}",
        rule=f"trust version {trust.version}: the {log_role(trust, member)} key of {member}",
        found=", ".join(f"{s.name} ({s.key_id.hex()})" for s in parsed.signatures[:4]),
        limit=", ".join(i.keyid[:12] for i in held) or "no such key",
    )


def check_key_period(trust: Trust, log: Logged, judged_at: datetime) -> None:
    """Every opened entry lies in the period of a key of its log, none in the future; the key that signed the
    checkpoint could still sign after the entries under it. Raises CheckFailed RSD-9007.
    """
    held = trust.keys_of(log_role(trust, log.member), log.member)
    signers = _signers(trust, log.member, log.evidence)
    size = checkpoint.parse_text(note.parse(log.evidence.checkpoint).text).size
    for entry in log.entries.values():
        at = parse_time(entry.at)
        if entry.index < size and all(k.ended_by(at) for k in signers):
            message = f"{log.where(entry)} was logged when the key that signed the checkpoint over it had ended"
            raise _false("RSD-9007", message, found=entry.at, limit=signers[-1].revoked_at or signers[-1].not_after)
        if not any(k.may_sign_at(at) for k in held):
            message = f"{log.where(entry)} lies outside the period of every key of {log.member}"
            raise _false("RSD-9007", message, found=rfc3339(at), limit="the period in trust.json")
        if at > judged_at + CLOCK_TOLERANCE:
            raise _false("RSD-9007", f"{log.where(entry)} is of the future", found=entry.at, limit=rfc3339(judged_at))


def _check_noted_by_peers(log: Logged, all_logs: dict[str, Logged], cosigned_last: set[str]) -> None:
    """What others logged as cosigned must be a prefix of this log: so a re-made cosignature does not help.

    Evidence may honestly end before a later checkpoint of which a peer says so, if that peer cosigned its end too.
    """
    noted = [
        (peer, entry, seen)
        for peer in all_logs.values()
        for entry in peer.entries.values()
        if entry.kind == "cosign"
        and (seen := bodies.read_body(bodies.CosignBody, entry, peer.where(entry))).origin == log.evidence.origin
    ]
    roots = merkle.prefix_roots(log.evidence.hashes(), [seen.size for *_, seen in noted])
    for peer, entry, seen in sorted(noted, key=lambda n: n[2].size):
        if seen.size not in roots and peer.member not in cosigned_last:
            message = f"log {seen.origin} ends before what {peer.member} cosigned ({peer.where(entry)})"
            raise _false("RSD-9007", message, found=f"{len(log.evidence.leaf_hashes)} entries", limit=seen.size)
        root = roots[seen.size].hex() if seen.size in roots else seen.root
        if root != seen.root:
            raise _false(
                "RSD-9007",
                f"entries 0 to {seen.size - 1} of log {seen.origin} are not those that {peer.member} cosigned "
                f"({peer.where(entry)})",
                rule="a log only grows; what was cosigned stays",
                found=root,
                limit=seen.root,
            )


def resolve(contents: Contents, trust: Trust, ref: EntryRef, where: str) -> Logged:
    """The log in which `ref` stands, opened, with this leaf hash. Raises CheckFailed RSD-9007."""
    log = next((x for x in contents.logs.values() if x.evidence.origin == ref.origin), None)
    if log is None or trust.log_origin(log.member) != ref.origin:
        raise _false("RSD-9007", f"{where} names a log that is not shown", found="no evidence", limit=ref.origin)
    hashes = log.evidence.leaf_hashes
    found = hashes[ref.index] if ref.index < len(hashes) else f"{len(hashes)} entries"
    if found != ref.leaf:
        message = f"{where} names entry {ref.index} of log {ref.origin}, which is another one"
        raise _false("RSD-9007", message, found=found, limit=ref.leaf)
    if ref.index not in log.entries:
        raise _false(
            "RSD-9007", f"{where} names {log.where(ref.index)}, which is not opened", found="", limit=ref.index
        )
    return log


def _cosigned(log: CheckedLog) -> str:
    final = sorted(name for name, sizes in log.cosigners.items() if sizes[-1] == log.size)
    return f"log {log.origin}: {log.size} entries, final checkpoint cosigned by {len(final)} ({', '.join(final)})"


def _false(code: str, message: str, *, rule: str = "", found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule=rule, found=found, limit=limit)
