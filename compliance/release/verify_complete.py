"""Step 7, what may be missing: entries that the evidence leaves out, logs that are not shown, cosigners that are not.

Each log's `close` entry counts the study's entries before it; a log is its owner's and the operator's word as long as
nobody else cosigned it.
"""

from __future__ import annotations

from collections.abc import Iterable

from compliance.canonical import canonical, sha256_hex
from compliance.errors import CheckFailed
from compliance.log.evidence import CheckedLog
from compliance.release import bodies
from compliance.release.case import Contents, Logged
from compliance.trust.root import Trust
from compliance.trust.witnesses import holders, neutral


def entries(contents: Contents, log: Logged) -> None:
    """The opened entries are the last `close` of the study and exactly what it counts. Raises CheckFailed RSD-9007."""
    closes = contents.bodies(log.member, "close", bodies.CloseBody)
    if not closes:
        message = f"log {log.evidence.origin}: the entry that closes the study is not opened"
        raise _false(message, found="no close entry", limit="the last close entry of the study")
    entry, counted = closes[-1]
    shown = [i for i in sorted(log.entries) if i != entry.index]
    extra = [i for i in shown if i > entry.index or log.entries[i].study != contents.study_digest]
    if extra:
        message = f"{log.where(extra[0])} is opened, but {log.where(entry)} does not count it"
        raise _false(message, found=f"{len(extra)} extra entries", limit="entries of the study before its close")
    if (len(shown), sha256_hex(canonical(shown))) != (counted.entries, counted.entries_sha256):
        message = f"log {log.evidence.origin}: other entries are opened than {log.where(entry)} counts"
        raise _false(message, found=f"{len(shown)} entries", limit=f"{counted.entries} entries, by their indices")


def cosigners(trust: Trust, member: str, log: CheckedLog, quorum: int) -> set[str]:
    """Who cosigned the last checkpoint of the member's log, by the names of the keys' holders.

    Raises CheckFailed RSD-9007 if fewer than `quorum` of them are neither the log's owner nor the operator.
    """
    names = [name for name, sizes in log.cosigners.items() if sizes[-1] == log.size]
    shortfall = below_quorum(trust, member, log.origin, names, quorum)
    if shortfall is not None:
        raise shortfall
    return holders(trust, names)


def below_quorum(trust: Trust, member: str, origin: str, names: Iterable[str], quorum: int) -> CheckFailed | None:
    """RSD-9007 if fewer than `quorum` of those who cosigned the log of `member` under `names` are neutral, or None."""
    counted = sorted(neutral(trust, member, names))
    if len(counted) >= quorum:
        return None
    who = "nobody but its owner and the operator" if not counted else "fewer witnesses than the study asks for"
    message = f"log {origin} is cosigned by {who}"
    limit = f"{quorum} that are neither its owner nor the operator: study.quorum.witnesses"
    return _false(message, found=f"{len(counted)} ({', '.join(counted) or 'nobody'})", limit=limit)


def words(contents: Contents, trust: Trust, checked: dict[str, CheckedLog]) -> tuple[tuple[str, str], ...]:
    """What the logs leave to somebody's word: pairs (who, sentence)."""
    out = []
    for member, log in checked.items():
        out.append((member, _hidden(log.size - len(contents.logs[member].entries))))
        names = [name for name, sizes in log.cosigners.items() if sizes[-1] == log.size]
        others = {*contents.contributing, trust.operator.name} - {member} - holders(trust, names)
        if others:
            who = ", ".join(sorted(others))
            out.append((member, f"that its log is the one that {who} saw: they did not cosign its last checkpoint"))
    for site in contents.study.sites:
        if site.name not in contents.logs:
            text = f"that {site.name} contributed nothing, and why: no log of {site.name} is shown"
            out.append((trust.operator.name, text))
    return tuple(out)


def _hidden(number: int) -> str:
    if not number:
        return "that its log records what happened (all entries are shown)"
    return (
        f"that its log records what happened, and that of the {number} entries not shown none before its close entry "
        "is of this study"
    )


def _false(message: str, *, found: object, limit: object) -> CheckFailed:
    rule = "a log is shown whole for the study, and cosigned by somebody else"
    return CheckFailed("RSD-9007", message, rule=rule, found=found, limit=limit)
