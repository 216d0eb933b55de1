"""Tables of who received what: flows, recipients, counters of persons. All of them from logged decisions."""

from __future__ import annotations

from collections.abc import Iterable

from compliance.dossier.material import Decided, Material
from compliance.dossier.model import Ref, Row, Table
from compliance.dossier.regime import Shows
from compliance.law.model import Document, Leg, Party
from compliance.law.vocabulary import ARTIFACT_WORDS, TRANSFER_BASES

_SHORT = 16  # hex digits of a digest that is written out in full elsewhere
_WORDS: dict[str, str] = {str(name): words for name, words in ARTIFACT_WORDS.items()}


def flows(material: Material, shows: Shows) -> Table:
    """One row a decision: what would leave for whom, what was decided by which rule and basis, and what then left.

    Whatever the table is about, what left by no decision that is here stands in it.
    """
    columns = ("When", "From", "To", "What", "Outcome", "Rule and citations", "Basis on file", "Comes also to", "Left")
    rows = tuple(_flow(d) for d in material.decisions if _is_about(d, shows))
    note = _of(len(rows), len(material.decisions))
    return Table(caption=shows.caption, columns=columns, rows=rows + _undecided(material), note=note)


def _undecided(material: Material) -> tuple[Row, ...]:
    jurisdictions = {p.name: f" ({p.jurisdiction})" for p in (material.trust.operator, *material.trust.sites)}
    return tuple(
        Row(
            cells=(
                f"{held.entry.at}, round {body.round}" if body.round else held.entry.at,
                *(f"{name}{jurisdictions.get(name, '')}" for name in (held.member, body.recipient)),
                f"{_WORDS.get(body.artifact, 'another thing')} ({body.artifact})",
                *("NO DECISION", f"entry {body.decision} is no decision that is here", "none", "not known"),
                f"SHA-256 {body.sha256[:_SHORT]}, attempt {body.attempt}",
            ),
            rests_on=(held.ref,),
        )
        for held, body in material.undecided
    )


def _of(shown: int, total: int) -> str:
    return f"{shown} of the {total} decisions that are here"


def _is_about(decided: Decided, shows: Shows) -> bool:
    decision, sent = decided.decision, decided.decision.transfer
    reached = [sent.recipient, *(leg.recipient for leg in decision.legs)]
    wanted = (
        not shows.denied or not decision.allow,
        not shows.artifacts or sent.artifact in shows.artifacts,
        not shows.crossing or any(p.jurisdiction != sent.exporter.jurisdiction for p in reached),
        not (shows.places or shows.covered_persons) or any(_is_named(p, shows) for p in reached),
    )
    return all(wanted)


def _is_named(party: Party, shows: Shows) -> bool:
    reached = {party.jurisdiction, *party.access}
    return bool(reached & set(shows.places)) or (shows.covered_persons and party.covered_person)


def _flow(decided: Decided) -> Row:
    decision, sent = decided.decision, decided.decision.transfer
    when = f"{decided.held.entry.at}, round {decided.round}" if decided.round else decided.held.entry.at
    law = f": {'; '.join(decision.law)}" if decision.law else ""
    lacks = f"; lacks {', '.join(decision.missing)}" if decision.missing else ""
    cells = (
        when,
        place(sent.exporter),
        place(sent.recipient),
        f"{_WORDS[sent.artifact]} ({sent.artifact})",
        decision.effect.upper(),
        f"{decision.rule}{law}{lacks}",
        "; ".join(_paper(d) for d in sent.documents if _is_basis(d, decided)) or "none",
        _also(decision.legs),
        _left(decided),
    )
    return Row(cells=cells, rests_on=decided.refs)


def place(party: Party) -> str:
    """A party with where it is and from where it can be reached."""
    reach = f", reachable from {', '.join(party.access)}" if party.access else ""
    covered = ", a covered person" if party.covered_person else ""
    return f"{party.name} ({party.jurisdiction}{reach}{covered})"


def _is_basis(paper: Document, decided: Decided) -> bool:
    """A paper that is asked for because something crosses a border, and is about this pair."""
    sent = decided.decision.transfer
    about = (
        (paper.covers, sent.recipient.name),
        (paper.to_jurisdiction, sent.recipient.jurisdiction),
        (paper.from_jurisdiction, sent.exporter.jurisdiction),
    )
    return paper.kind in TRANSFER_BASES and all(said in {"*", wanted} for said, wanted in about)


def _paper(paper: Document) -> str:
    return f"{paper.id or paper.kind}, SHA-256 {paper.sha256[:_SHORT]}, until {paper.expires}"


def _also(legs: Iterable[Leg]) -> str:
    """Later recipients, and places from which a recipient can be reached, by outcome."""
    found: dict[str, list[str]] = {}
    for leg in legs:
        if leg.via != "recipient":
            found.setdefault(leg.effect.upper(), []).append(f"{leg.recipient.name} ({leg.recipient.jurisdiction})")
    return "; ".join(f"{effect}: {', '.join(dict.fromkeys(who))}" for effect, who in found.items()) or "nobody"


def _left(decided: Decided) -> str:
    if decided.sent:
        return "; ".join(f"SHA-256 {body.sha256[:_SHORT]}, attempt {body.attempt}" for _, body in decided.sent)
    if decided.decision.allow and decided.decision.transfer.artifact == "released_model":
        return "cleared for the release"
    return "no transfer names this decision"


def recipients(material: Material, shows: Shows) -> Table:
    """One row a party that a decision names: what it was allowed to have, and what it was denied."""
    found: dict[Party, tuple[dict[str, None], dict[str, None], list[Ref]]] = {}
    for decided in material.decisions:
        decision, artifact = decided.decision, decided.decision.transfer.artifact
        named = [leg for leg in decision.legs if leg.via != "access"]
        if not named:
            named = [Leg(recipient=decision.recipient, via="recipient", effect=decision.effect, rules=())]
        for leg in named:
            allowed, denied, rests_on = found.setdefault(leg.recipient, ({}, {}, []))
            if decision.allow or leg.effect == "deny":
                later = ", later" if leg.via == "onward" else ""
                (allowed if decision.allow else denied)[f"{_WORDS[artifact]}{later}"] = None
                rests_on.append(decided.held.ref)
    columns = ("Recipient", "Allowed", "Denied", "Decisions")
    rows = tuple(
        Row(cells=(place(p), _list(yes), _list(no), str(len(rests))), rests_on=tuple(rests))
        for p, (yes, no, rests) in sorted(found.items(), key=lambda row: (row[0].name, row[0].jurisdiction))
        if rests
    )
    return Table(caption=shows.caption, columns=columns, rows=rows)


def _list(words: Iterable[str]) -> str:
    return "; ".join(words) or "nothing"


def counters(material: Material, shows: Shows) -> Table:
    """One row a log, counter and recipient: the upper edge of the bucket that the last decision was told."""
    found: dict[tuple[str, str, str], Row] = {}
    for decided in material.decisions:
        for count in decided.decision.transfer.counts:
            if shows.counter in {"", count.counter}:
                member = decided.held.member
                told = (str(count.at_most), ", ".join(count.categories), decided.held.entry.at)
                row = Row(cells=(member, count.counter, count.recipient, *told), rests_on=(decided.held.ref,))
                found[member, count.counter, count.recipient] = row
    columns = ("Log", "Counter", "Recipient", "Persons, at most", "Data", "As of")
    return Table(caption=shows.caption, columns=columns, rows=tuple(found[key] for key in sorted(found)))
