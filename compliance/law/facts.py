"""The front end that both evaluators share: one leg of a transfer, reduced to what rules speak about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from compliance.clock import parse_time
from compliance.law.model import Document, Guarantees, Party, Transfer
from compliance.law.regions import COVERED_PERSON, Regions, load_regions
from compliance.law.vocabulary import NAMES_ITS_DESTINATION, NAMES_ITS_RECIPIENT, Via


@dataclass(frozen=True, slots=True)
class Window:
    """What a counter holds for the leg: at most so many persons, of these categories."""

    at_most: int
    categories: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """One leg. `documents` are the kinds of those papers that cover this leg and have not expired at `at`.

    `keys`: each jurisdiction in which keys live, with its regions. `counts`: what is known of each counter; one that
    is not there is unknown. `day`: the day of `at` in UTC, YYYY-MM-DD.
    """

    artifact: str
    purpose: str
    from_jurisdiction: str
    to_jurisdiction: str
    from_regions: frozenset[str]
    to_regions: frozenset[str]
    recipient: str
    documents: frozenset[str]
    guarantees: Guarantees
    keys: tuple[tuple[str, frozenset[str]], ...]
    categories: frozenset[str]
    counts: Mapping[str, Window]
    at: datetime
    day: str


def legs_of(transfer: Transfer) -> Iterator[tuple[Party, Via]]:
    """Everyone who would hold or reach what leaves, in order: each recipient, then the places of access to it."""
    for number, party in enumerate((transfer.recipient, *transfer.onward)):
        yield party, "onward" if number else "recipient"
        for code in party.access:
            if code != party.jurisdiction:
                yield Party(name=party.name, jurisdiction=code, covered_person=party.covered_person), "access"


def facts_of(transfer: Transfer, recipient: Party, regions: Regions | None = None) -> Facts:
    """The facts of the leg from the exporter to `recipient`, one of `legs_of`. `regions` None: those of the package."""
    regions = regions or load_regions()
    at = parse_time(transfer.at)
    origin, target, day = transfer.exporter.jurisdiction, recipient.jurisdiction, at.date()
    to_regions = regions.of(target, day)
    return Facts(
        artifact=transfer.artifact,
        purpose=transfer.purpose,
        from_jurisdiction=origin,
        to_jurisdiction=target,
        from_regions=regions.of(origin, day),
        to_regions=to_regions | {COVERED_PERSON} if recipient.covered_person else to_regions,
        recipient=recipient.name,
        documents=frozenset(d.kind for d in transfer.documents if _counts(d, origin, recipient, at)),
        guarantees=transfer.guarantees,
        keys=tuple((code, regions.of(code, day)) for code in dict.fromkeys(transfer.guarantees.keys_in)),
        categories=frozenset(transfer.categories),
        counts=_windows(transfer, recipient.name),
        at=at,
        day=day.isoformat(),
    )


def _counts(doc: Document, origin: str, recipient: Party, at: datetime) -> bool:
    names = {recipient.name} if doc.kind in NAMES_ITS_RECIPIENT else {recipient.name, "*"}
    places = {recipient.jurisdiction} if doc.kind in NAMES_ITS_DESTINATION else {recipient.jurisdiction, "*"}
    return (
        doc.from_jurisdiction in {origin, "*"}
        and doc.to_jurisdiction in places
        and doc.covers in names
        and at < parse_time(doc.expires)
    )


def _windows(transfer: Transfer, recipient: str) -> dict[str, Window]:
    """Where several counts of one counter are about the leg, the largest of them and the categories of all."""
    found: dict[str, Window] = {}
    for count in transfer.counts:
        if count.recipient in {recipient, "*"}:
            other = found.get(count.counter, Window(0, frozenset()))
            found[count.counter] = Window(max(count.at_most, other.at_most), other.categories.union(count.categories))
    return found
