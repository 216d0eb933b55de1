"""What signed statements owe to the logs: they were recorded in time, by keys that were valid then, and only these.

A key that was revoked since could sign with an older date; the entry that records a statement cannot be moved back.
"""

from __future__ import annotations

from datetime import timedelta

from compliance import answers
from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.identity import Role
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents, Context, SignedRoster
from compliance.study import open_study

_OPERATOR: Role = "operator"
_AGENT: Role = "agent"
ROSTER_TOLERANCE = timedelta(minutes=15)  # between a roster's date and the clock of a site that countersigns it


def recorded(contents: Contents, context: Context) -> None:
    """Each contributing site logged study, advice and approval before its first charge, with keys valid then too.

    Raises CheckFailed RSD-9009 (not recorded), RSD-6011 (the key was not valid then), Refused RSD-2211 (dated later).
    """
    for site in contents.contributing:
        for kind in ("advice", "approval"):
            _answer(contents, context, site, kind)
    for member in contents.logs:
        entries = contents.log(member).of(contents.study_digest, "study")
        if entries:
            at = parse_time(entries[0].at)
            open_study(context.anchor, contents.file("study.json"), f"study.json ({member})", at)
        elif member in contents.contributing:
            message = f"log of {member}: it does not record the study"
            raise _false("RSD-9009", message, found="no entry", limit="a study entry before the first charge")


def _answer(contents: Contents, context: Context, site: str, kind: str) -> None:
    path = f"answers/{site}.{kind}.json"
    digest, first = contents.envelope(path).digest, _first_charge(contents, site)
    noted = [
        entry
        for entry, body in contents.bodies(site, "answer", bodies.AnswerBody)
        if (body.statement, body.site, body.digest) == (kind, site, digest)
    ]
    if not noted or noted[0].index >= first:
        message = f"log of {site}: the {kind} that is shown does not stand before its first charge"
        limit = f"{kind} {digest[:16]} before entry {first}"
        raise _false("RSD-9009", message, found=[e.index for e in noted], limit=limit)
    what, at = f"{path} (recorded in {contents.log(site).where(noted[0])})", parse_time(noted[0].at)
    if kind == "approval":
        answers.open_approval(context.anchor, contents.file(path), what, at)
    else:
        answers.open_advice(context.anchor, contents.file(path), what, "study", at)


def _first_charge(contents: Contents, site: str) -> int:
    return min((e.index for e in contents.log(site).of(contents.study_digest, "charge")), default=0)


def rosters_logged(contents: Contents, context: Context) -> tuple[tuple[str, str], ...]:
    """The rosters are those that the operator logged and closed, and that each site logged where it contributed.

    A site logs no other, ever. The operator's log may hold others before these, of a run that ended below its quorum
    and that no site countersigned; returned: that the operator asserts this. Raises CheckFailed RSD-9008.
    """
    operator, digests = context.anchor.trust.operator.name, [r.envelope.digest for r in contents.rosters]
    closed = contents.bodies(operator, "close", bodies.CloseBody)[-1][1]
    if list(closed.rosters) != digests:
        message = f"log of {operator}: it closed the study with other rosters than those shown"
        raise _false("RSD-9008", message, found=digests, limit=list(closed.rosters))
    earlier = 0
    for member in (operator, *contents.contributing):
        _closed_with_no_others(contents, member, digests)
        earlier += _logged_by(contents, context, member, is_operator=member == operator)
    text = f"that {earlier} rosters in its log before these are of runs without a release"
    return ((operator, text),) if earlier else ()


def _closed_with_no_others(contents: Contents, member: str, digests: list[str]) -> None:
    """Two sets of rosters that were both closed are two releases of one study."""
    for entry, body in contents.bodies(member, "close", bodies.CloseBody)[:-1]:
        others = [d[:16] for d in body.rosters if d not in digests]
        if others:
            message = f"{contents.log(member).where(entry)} closed the study with rosters that are not shown"
            raise _false("RSD-9008", message, found=others, limit="the rosters in the bundle")


def _logged_by(contents: Contents, context: Context, member: str, *, is_operator: bool) -> int:
    """How many rosters the log holds before those of this run, after checking these."""
    log, by_round = contents.log(member), {r.roster.round: r for r in contents.rosters}
    entries = contents.bodies(member, "roster", bodies.RosterBody)
    own = {
        body.round: entry
        for entry, body in reversed(entries)
        if body.round in by_round and by_round[body.round].envelope.digest == body.digest
    }
    start = min((e.index for e in own.values()), default=-1) if is_operator else -1
    others = [(e, b) for e, b in entries if own.get(b.round) != e]
    for entry, body in others:
        if entry.index > start:
            message = (
                f"{log.where(entry)} is another roster of round {body.round} than the one shown, or the same again"
            )
            limit = by_round[body.round].envelope.digest if body.round in by_round else "no such round"
            raise _false("RSD-9008", message, found=body.digest, limit=limit)
    for number, signed in by_round.items():
        row = signed.roster.row(member)
        if number in own:
            _signed_when_logged(context, signed, member, own[number], is_operator=is_operator)
        elif is_operator or (row is not None and row.outcome == "contributed"):
            message = f"log {log.evidence.origin} does not hold {signed.path}"
            raise _false("RSD-9008", message, found="no roster entry", limit=signed.envelope.digest)
    return len(others)


def _signed_when_logged(
    context: Context, signed: SignedRoster, member: str, entry: Entry, *, is_operator: bool
) -> None:
    """The roster is not dated later than its entry, and was signed with a key that was valid at both times."""
    at, role = parse_time(entry.at), _OPERATOR if is_operator else _AGENT
    if parse_time(signed.roster.at) > at + ROSTER_TOLERANCE:
        message = f"{signed.path} is dated later than {member} logged it"
        raise _false("RSD-9008", message, found=signed.roster.at, limit=entry.at)
    row = signed.roster.row(member)
    countersigns = is_operator or (row is not None and row.outcome == "contributed")
    held = context.anchor.signers(signed.envelope, role, member, at)
    if countersigns and not held:
        message = f"{signed.path} is signed by {member} with a key that was not valid when it was logged"
        raise _false("RSD-9008", message, found=entry.at, limit=f"a key in the role {role} in its period")


def _false(code: str, message: str, *, found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule="what is signed stands in the logs", found=found, limit=limit)
