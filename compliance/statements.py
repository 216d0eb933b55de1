"""A statement that a person of a site signed, of whichever kind, judged on its way from the site to the operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from compliance.answers import (
    ADVICE,
    APPROVAL,
    REFUSAL,
    WITHDRAWAL,
    answer_schema,
    open_advice,
    open_approval,
    open_refusal,
    open_withdrawal,
)
from compliance.clock import now
from compliance.errors import InputError, Refused, ResidencyError
from compliance.files import read_bytes
from compliance.identity import parse_envelope
from compliance.trust.membership import LEAVE, open_leave
from compliance.trust.root import Anchor

KINDS: Final = ("advice", "approval", "refusal", "withdrawal", "leave")


@dataclass(frozen=True)
class Judged:
    """A statement whose signature verifies. `study` is empty for a leave; `reason` is what the person wrote."""

    kind: str
    digest: str
    study: str
    site: str
    at: str
    reason: str

    @property
    def file_name(self) -> str:
        """One name for one statement; names of one site sort by kind."""
        return f"{self.site}.{self.kind}.{self.digest[:12]}.json"


def judge(anchor: Anchor, data: bytes, what: str, site: str, seen_at: datetime) -> Judged:
    """The statement in `data`, by a person of `site` whose key is valid at its own time and at `seen_at`.

    Raises Refused RSD-6305 (another site's), InputError RSD-6306 (no kind that is delivered) or what opening it raises:
    CheckFailed, InputError, Refused RSD-2205 or RSD-2211.
    """
    judged = _opened(anchor, data, what, seen_at)
    if judged.site != site:
        raise Refused(
            "RSD-6305",
            f"{what} is a statement of another site",
            rule="a site delivers what its own people signed",
            found=judged.site,
            limit=site,
            next="have the other site deliver it",
        )
    return judged


def received(anchor: Anchor, folder: Path) -> list[Judged | ResidencyError]:
    """The statements in a folder of answers, in order of their names; the error for one that does not hold now."""
    found: list[Judged | ResidencyError] = []
    for file in sorted(folder.glob("*.json")):
        try:
            data = read_bytes(file, "an answer").removesuffix(b"\n")
            found.append(_opened(anchor, data, file.name, now()))
        except ResidencyError as e:
            found.append(e)
    return found


def _opened(anchor: Anchor, data: bytes, what: str, seen_at: datetime) -> Judged:
    schema, digest = answer_schema(data, what), parse_envelope(data, what).digest
    if schema == ADVICE:
        advice = open_advice(anchor, data, what, "study", seen_at).advice
        word = "favourable" if advice.favourable else "unfavourable"
        return Judged("advice", digest, advice.digest, advice.site, advice.at, f"{word}: {advice.text}")
    if schema == APPROVAL:
        approval, _ = open_approval(anchor, data, what, seen_at)
        return Judged("approval", digest, approval.digest, approval.site, approval.at, approval.against_advice_reason)
    if schema == REFUSAL:
        refusal, _ = open_refusal(anchor, data, what, seen_at)
        return _on_study("refusal", digest, refusal.subject, refusal.digest, refusal.site, refusal.at, refusal.reason)
    if schema == WITHDRAWAL:
        taken, _ = open_withdrawal(anchor, data, what, seen_at)
        return _on_study("withdrawal", digest, taken.subject, taken.digest, taken.site, taken.at, taken.reason)
    if schema == LEAVE:
        leave = open_leave(data, anchor, what)
        return Judged("leave", digest, "", leave.site, leave.at, leave.reason)
    raise InputError(
        "RSD-6306",
        f"{what} is no statement that is delivered to the operator",
        rule="advice, approval, refusal, withdrawal, leave",
        found=schema[:60] or "no schema",
        limit=", ".join(KINDS),
        next="give a file that residency study advise, approve, refuse or withdraw wrote, or consortium leave",
    )


def _on_study(kind: str, digest: str, subject: str, study: str, site: str, at: str, reason: str) -> Judged:
    if subject != "study":
        raise Refused("RSD-2205", f"this {kind} is of a {subject}", found=subject, limit="study")
    return Judged(kind, digest, study, site, at, reason)
