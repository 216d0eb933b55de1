"""The front end that both evaluators share: one leg of a transfer, reduced to what rules speak about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from compliance.clock import parse_time
from compliance.law.model import Document, Guarantees, Party, Transfer
from compliance.law.regions import regions_of
from compliance.law.vocabulary import NAMES_ITS_RECIPIENT


@dataclass(frozen=True, slots=True)
class Facts:
    """One leg. `documents` are the kinds of those papers that cover this leg and have not expired at `at`."""

    artifact: str
    purpose: str
    from_jurisdiction: str
    to_jurisdiction: str
    from_regions: frozenset[str]
    to_regions: frozenset[str]
    recipient: str
    documents: frozenset[str]
    guarantees: Guarantees
    at: datetime


def facts_of(transfer: Transfer, recipient: Party) -> Facts:
    """The facts of the leg from the exporter to `recipient`, who is the recipient or one of `onward`."""
    at = parse_time(transfer.at)
    origin, target = transfer.exporter.jurisdiction, recipient.jurisdiction
    return Facts(
        artifact=transfer.artifact,
        purpose=transfer.purpose,
        from_jurisdiction=origin,
        to_jurisdiction=target,
        from_regions=regions_of(origin, at.date()),
        to_regions=regions_of(target, at.date()),
        recipient=recipient.name,
        documents=frozenset(d.kind for d in transfer.documents if _counts(d, origin, recipient, at)),
        guarantees=transfer.guarantees,
        at=at,
    )


def _counts(doc: Document, origin: str, recipient: Party, at: datetime) -> bool:
    names = {recipient.name} if doc.kind in NAMES_ITS_RECIPIENT else {recipient.name, "*"}
    return (
        doc.from_jurisdiction in {origin, "*"}
        and doc.to_jurisdiction in {recipient.jurisdiction, "*"}
        and doc.covers in names
        and at < parse_time(doc.expires)
    )
