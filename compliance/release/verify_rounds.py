"""Steps 8 and 9: rosters, and the order of what they name."""

from __future__ import annotations

from itertools import pairwise

from compliance.canonical import sha256_hex
from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.identity import media_type
from compliance.log.entry import Entry
from compliance.release import bodies, verify_records, verify_updates
from compliance.release.case import Contents, Context, Logged, SignedRoster
from compliance.release.report import Found
from compliance.roster import SCHEMA, Roster, RosterRow
from compliance.study import covers
from compliance.trust.root import Trust


def rosters(contents: Contents, context: Context) -> Found:
    """Step 8: rounds 1..n without a gap, every site in every round, signed by all concerned, chained by digests."""
    study, found = contents.study, contents.rosters
    numbers = [r.roster.round for r in found]
    if numbers != list(range(1, study.training.rounds + 1)):
        message = "the rosters are not those of rounds 1 to the last, each once"
        raise _false("RSD-9008", message, found=numbers, limit=f"1 to {study.training.rounds}")
    for signed in found:
        _signed(signed, contents, context)
        _rows(signed, contents)
    for before, after in pairwise(found):
        _chained(before, after)
    _snapshots(contents)
    rows = [row for r in found for row in r.roster.rows if row.outcome == "contributed"]
    counts = ", ".join(f"{s.name} {sum(row.site == s.name for row in rows)}" for s in study.sites)
    earlier = verify_records.rosters_logged(contents, context)
    proved = (
        f"{len(found)} rounds, every site in each; contributions: {counts}",
        "the rosters are those with which the operator closed the study; each site logged them where it contributed",
    )
    return Found(proved, earlier)


def _signed(signed: SignedRoster, contents: Contents, context: Context) -> None:
    """By the operator, and by an agent of every contributing site, judged at the roster's own time."""
    roster, anchor = signed.roster, context.anchor
    at, data = parse_time(roster.at, f"at of {signed.path}"), contents.file(signed.path)
    operator = anchor.trust.operator.name
    anchor.statement(data, SCHEMA, signed.path, role="operator", holder=operator, at=at)
    for row in roster.rows:
        if row.outcome == "contributed" and not anchor.signers(signed.envelope, "agent", row.site, at):
            message = f"{signed.path} is not countersigned by the agent of {row.site}"
            keyids = [k[:12] for k, _ in signed.envelope.signatures]
            raise _false("RSD-9008", message, found=keyids, limit=f"an agent key of {row.site} ({media_type(SCHEMA)})")
    if not covers(contents.study, roster.at):
        term = f"{contents.study.starts} to {contents.study.ends}"
        raise _false("RSD-9008", f"{signed.path} is outside the study's term", found=roster.at, limit=term)


def _rows(signed: SignedRoster, contents: Contents) -> None:
    roster, study = signed.roster, contents.study
    if (roster.study, roster.run) != (contents.study_digest, contents.manifest.run):
        message = f"{signed.path} is of another study or run"
        limit = f"{contents.study_digest[:16]} {contents.manifest.run}"
        raise _false("RSD-9008", message, found=f"{roster.study[:16]} {roster.run}", limit=limit)
    if roster.unit != study.privacy.unit:
        message = f"{signed.path} states another privacy unit than the study"
        raise _false("RSD-9008", message, found=roster.unit, limit=study.privacy.unit)
    have, want = {r.site: r.jurisdiction for r in roster.rows}, {s.name: s.jurisdiction for s in study.sites}
    if have != want:
        differ = sorted({n for n, _ in have.items() ^ want.items()})
        message = f"{signed.path} does not have a row for every site of the study: {', '.join(differ)}"
        raise _false("RSD-9008", message, found=sorted(have), limit=sorted(want))
    contributed = [r.site for r in roster.rows if r.outcome == "contributed"]
    if len(contributed) < study.quorum.sites:
        message = f"{signed.path} is below the quorum"
        raise _false("RSD-9008", message, found=len(contributed), limit=study.quorum.sites)
    strangers = set(roster.recipients) - set(want)
    unsent = set(contributed) - set(roster.recipients)
    if strangers or unsent:
        message = f"{signed.path}: recipients are not the sites of the study, or a contributor was sent nothing"
        raise _false("RSD-9008", message, found=sorted(strangers | unsent), limit=sorted(want))


def _chained(before: SignedRoster, after: SignedRoster) -> None:
    first, second = before.roster, after.roster
    if second.base_sha256 != first.result_sha256:
        message = f"round {second.round} does not start with what round {first.round} gave"
        raise _false("RSD-9008", message, found=second.base_sha256, limit=first.result_sha256)
    if parse_time(second.at) < parse_time(first.at):
        message = f"round {second.round} is earlier than round {first.round}"
        raise _false("RSD-9008", message, found=second.at, limit=first.at)


def _snapshots(contents: Contents) -> None:
    for signed in contents.rosters[-contents.study.aggregation.average_last_rounds :]:
        path = f"snapshots/round-{signed.roster.round:03d}.f32"
        digest = sha256_hex(contents.file(path))
        if digest != signed.roster.result_sha256:
            raise _false("RSD-9008", f"{path} is not what {signed.path} says", found=digest,
                         limit=signed.roster.result_sha256)  # fmt: skip


def order(contents: Contents, context: Context) -> Found:
    """Step 9: what happened at each site in which order, by the indices of its log; the same bytes throughout."""
    verify_records.recorded(contents, context)
    for site in contents.contributing:
        _charged_once(contents, site)
    pairs = 0
    for signed in contents.rosters:
        for row in signed.roster.rows:
            if row.outcome == "contributed":
                _contribution(contents, context.anchor.trust, signed, row)
                pairs += 1
    late = verify_updates.updates(contents, context.anchor.trust)
    _sent_by_operator(contents, context.anchor.trust)
    proved = (
        f"{pairs} contributions: charged, then committed, decided, and sent, with the same digest",
        "no shown log records an update of this run before the roster of its round that the roster leaves out"
        if late
        else "no shown log records an update of this run that the roster of its round leaves out",
        "study, advice and approvals were signed with keys that were still valid when contributing sites logged them",
    )
    return Found(proved, tuple((context.anchor.trust.operator.name, text) for text in late))


def _contribution(contents: Contents, trust: Trust, signed: SignedRoster, row: RosterRow) -> None:
    log = contents.log(row.site)
    where = f"{signed.path}, {row.site}"
    indices: dict[str, int] = {}
    for kind in ("charge", "commit", "decision", "transfer"):
        ref = getattr(row, kind)
        entry = log.entries[ref.index]
        if ref.origin != log.evidence.origin or entry.kind != kind or entry.study != contents.study_digest:
            message = f"{where}: its {kind} is {log.where(ref.index)}, which is something else"
            raise _false("RSD-9009", message, found=f"{entry.kind} in {ref.origin}", limit=f"a {kind} of this study")
        if not covers(contents.study, entry.at):
            message = f"{log.where(entry)} is outside the study's term"
            raise _false("RSD-9009", message, found=entry.at, limit=f"{contents.study.starts} to {contents.study.ends}")
        indices[kind] = ref.index
    for earlier, later in (("charge", "commit"), ("commit", "transfer"), ("decision", "transfer")):
        if indices[earlier] >= indices[later]:
            message = f"{where}: its {earlier} does not come before its {later} in log {log.evidence.origin}"
            raise _false("RSD-9009", message, found=f"{earlier} {indices[earlier]}", limit=f"{later} {indices[later]}")
    entries = {kind: log.entries[i] for kind, i in indices.items()}
    _same_everywhere(trust, where, row, signed.roster, entries, log)


def _same_everywhere(
    trust: Trust, where: str, row: RosterRow, roster: Roster, entries: dict[str, Entry], log: Logged
) -> None:
    round_, base = roster.round, roster.base_sha256
    charge = bodies.read_body(bodies.ChargeBody, entries["charge"], log.where(entries["charge"]))
    commit = bodies.read_body(bodies.CommitBody, entries["commit"], log.where(entries["commit"]))
    transfer = bodies.read_body(bodies.TransferBody, entries["transfer"], log.where(entries["transfer"]))
    decision = bodies.read_decision(entries["decision"], log.where(entries["decision"]))
    for what, found, limit in (
        ("round of the charge", charge.round, round_),
        ("round of the commit", commit.round, round_),
        ("round of the transfer", transfer.round, round_),
        ("round of the decision", decision.round, round_),
        ("base of the charge", charge.base_sha256, base),
        ("attempt of the charge", charge.attempt, row.attempt),
        ("attempt of the commit", commit.attempt, row.attempt),
        ("attempt of the transfer", transfer.attempt, row.attempt),
        ("digest of the commit", commit.update_sha256, row.update_sha256),
        ("digest of the transfer", transfer.sha256, row.update_sha256),
        ("decision of the transfer", transfer.decision, entries["decision"].index),
        ("recipient of the transfer", transfer.recipient, trust.operator.name),
    ):
        if found != limit:
            raise _false("RSD-9009", f"{where}: the {what} differs", found=found, limit=limit)


def _charged_once(contents: Contents, site: str) -> None:
    """One charge per (round, attempt), attempts from 1 without a gap, in the order of the log."""
    last: dict[int, int] = {}
    for entry, charge in contents.bodies(site, "charge", bodies.ChargeBody):
        expected = last.get(charge.round, 0) + 1
        if charge.attempt != expected:
            message = f"{contents.log(site).where(entry)} charges round {charge.round} out of order"
            raise _false("RSD-9009", message, found=f"attempt {charge.attempt}", limit=f"attempt {expected}")
        last[charge.round] = charge.attempt


def _sent_by_operator(contents: Contents, trust: Trust) -> None:
    """The operator sent each round's base to all recipients of its roster, and to no site that the roster denies.

    More recipients may stand in the log: those of an earlier run of the study. Each has its own ALLOW (step 10).
    """
    log = contents.log(trust.operator.name)
    sent: dict[tuple[int, str], set[str]] = {}
    for _, body in contents.bodies(log.member, "transfer", bodies.TransferBody):
        if body.artifact == bodies.AGGREGATE:
            sent.setdefault((body.round, body.recipient), set()).add(body.sha256)
    for signed in contents.rosters:
        roster = signed.roster
        for site in roster.recipients:
            found = sent.get((roster.round, site), set())
            if roster.base_sha256 not in found:
                message = f"log {log.evidence.origin}: it does not say that {site} was sent the base of {signed.path}"
                raise _false("RSD-9009", message, found=sorted(found) or "no transfer", limit=roster.base_sha256)
        for row in roster.rows:
            if row.denied_by and (roster.round, row.site) in sent:
                message = f"log {log.evidence.origin}: {row.site} was sent the model of round {roster.round}"
                raise _false("RSD-9009", message, found="a transfer", limit=f"none: {signed.path} says refused")


def _false(code: str, message: str, *, found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule="invariants 3 to 5", found=found, limit=limit)
