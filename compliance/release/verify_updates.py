"""Step 9, the other way round: every update that a shown log records is in a roster, charged, checked, committed."""

from __future__ import annotations

from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents
from compliance.roster import RosterRow
from compliance.trust.root import Trust

_GATES = ("RSD-81", "RSD-82", "RSD-84", "RSD-50")  # what the server finds wrong with an answer that arrived
_WITHDRAWN = "RSD-2430"  # the site itself took its update back: client.data.withdrawals
Commits = dict[tuple[int, int], tuple[int, str]]  # (round, attempt) -> (index, digest)


def updates(contents: Contents, trust: Trust) -> list[str]:
    """Checks every site's log that is shown. Returns what only the operator says: an update came late, or was rejected.

    Raises CheckFailed RSD-9009.
    """
    late: list[str] = []
    for site in contents.logs:
        if site != trust.operator.name:
            _sent(contents, site, _committed(contents, site))
            late += _as_the_rosters_say(contents, site)
    return late


def _committed(contents: Contents, site: str) -> Commits:
    """Commits by attempt: each after its charge, with all checks of the noise passed, one digest a round."""
    log, commits, digests = contents.log(site), Commits(), dict[int, str]()
    charges = {(c.round, c.attempt): e.index for e, c in contents.bodies(site, "charge", bodies.ChargeBody)}
    for entry, body in contents.bodies(site, "commit", bodies.CommitBody):
        where, charged = log.where(entry), charges.get((body.round, body.attempt))
        failed = sorted(name for name, passed in body.conformance.items() if not passed)
        if charged is None or charged > entry.index:
            message = f"{where} commits an attempt that was not charged before"
            raise _false(message, found=f"round {body.round}, attempt {body.attempt}", limit="a charge before it")
        if failed or not body.conformance:
            message = f"{where} commits an update whose noise did not pass its checks"
            raise _false(message, found=failed or "no checks", limit="checks, all passed")
        first = digests.setdefault(body.round, body.update_sha256)
        if first != body.update_sha256 or (body.round, body.attempt) in commits:
            message = f"{where} commits a second update of round {body.round}"
            raise _false(message, found=body.update_sha256, limit=first)
        commits[body.round, body.attempt] = (entry.index, body.update_sha256)
    return commits


def _sent(contents: Contents, site: str, commits: Commits) -> None:
    """Each update that was sent is the one committed before, by that attempt of that round."""
    log = contents.log(site)
    for entry, body in _transfers(contents, site):
        index, digest = commits.get((body.round, body.attempt), (entry.index, ""))
        if index >= entry.index or digest != body.sha256:
            message = f"{log.where(entry)} sends an update that was not committed before"
            raise _false(message, found=f"round {body.round}, attempt {body.attempt}, {body.sha256}",
                         limit=digest or "a commit of that attempt")  # fmt: skip


def _as_the_rosters_say(contents: Contents, site: str) -> list[str]:
    """No commit or transfer of this run is of a round whose roster says late, failed or refused, or names another."""
    log, start, told = contents.log(site), contents.joined_at(site), list[str]()
    rows = {r.roster.round: (r, r.roster.row(site)) for r in contents.rosters}
    for entry, round_, digest in _of_updates(contents, site):
        signed, row = rows.get(round_, (None, None))
        if signed is None or row is None:
            message = f"{log.where(entry)} is a {entry.kind} of a round that no roster covers"
            raise _false(message, found=f"round {round_}", limit=f"rounds 1 to {len(rows)}")
        if row.outcome == "contributed":
            if row.update_sha256 != digest:
                message = f"{log.where(entry)} is a {entry.kind} of another update than {signed.path} names"
                raise _false(message, found=digest, limit=row.update_sha256)
        elif entry.index > start:
            why = _left_out(row, entry, signed.roster.at) or _withdrawn(contents, site, row, entry, round_)
            if why is None:
                message = (
                    f"{signed.path} says that {site} was {row.outcome}, but {log.where(entry)} is its {entry.kind}"
                )
                raise _false(message, found=f"{row.outcome}, {signed.roster.at}", limit=f"{entry.kind}, {entry.at}")
            if entry.kind == "transfer":
                told.append(f"that the update of {site} of round {round_} {why} ({log.where(entry)}, {entry.at})")
    return told


def _left_out(row: RosterRow, entry: Entry, roster_at: str) -> str | None:
    """Why an update that the site made is not in the sum, as the operator says; None if it contradicts the log.

    Late: by the site's own clock it came after the roster. Rejected: it arrived, and a gate of the server named its
    fault; the site has not countersigned such a roster.
    """
    if row.outcome == "late" and parse_time(entry.at) > parse_time(roster_at):
        return "came too late"
    if row.outcome == "failed" and row.reason is not None and row.reason.code.startswith(_GATES):
        return f"was rejected on arrival ({row.reason.code})"
    return None


def _withdrawn(contents: Contents, site: str, row: RosterRow, entry: Entry, round_: int) -> str | None:
    """A subject was withdrawn from the site's data: its own log says, after the entry, that the update was purged."""
    if row.outcome != "failed" or row.reason is None or row.reason.code != _WITHDRAWN:
        return None
    failures = contents.log(site).of(contents.study_digest, "failure")
    if any(
        (e.body.get("code"), e.body.get("round")) == (_WITHDRAWN, round_) and e.index > entry.index for e in failures
    ):
        return "was withdrawn with a subject before it arrived"
    return None


def _of_updates(contents: Contents, site: str) -> list[tuple[Entry, int, str]]:
    commits = contents.bodies(site, "commit", bodies.CommitBody)
    sent = _transfers(contents, site)
    both = [(e, b.round, b.update_sha256) for e, b in commits] + [(e, b.round, b.sha256) for e, b in sent]
    return sorted(both, key=lambda x: x[0].index)


def _transfers(contents: Contents, site: str) -> list[tuple[Entry, bodies.TransferBody]]:
    """But for the evaluation's, which step 15 judges."""
    sent = contents.bodies(site, "transfer", bodies.TransferBody)
    return [(e, b) for e, b in sent if b.artifact != bodies.METRIC]


def _false(message: str, *, found: object, limit: object) -> CheckFailed:
    rule = "one charged, committed update a round, and each in its roster"
    return CheckFailed("RSD-9009", message, rule=rule, found=found, limit=limit)
