"""What left, or was not let go: transfers, decisions, rounds, privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from compliance.desk.ask import PER_PAGE, Ask, Page, Pager, address, not_found
from compliance.desk.books import Row
from compliance.desk.model import Desk, StudyFacts
from compliance.desk.pages_study import TOP
from compliance.desk.sources import Log, Place
from compliance.errors import ResidencyError
from compliance.law.model import Guarantees
from compliance.release.bodies import LoggedDecision, read_decision
from compliance.release.case import SignedRoster
from compliance.release.replay import Replayed, made

_FILTERS: Final = ("study", "log", "artifact", "exporter", "recipient", "rule")


def chosen(desk: Desk, ask: Ask) -> StudyFacts | None:
    """The study of the query; without one, all. Raises InputError RSD-9180."""
    digest = ask.text("study")
    if digest and digest not in desk.studies:
        raise not_found("such study")
    return desk.studies.get(digest)


def transfers(desk: Desk, ask: Ask) -> Page:
    """From which jurisdiction to which: how many decisions allowed, how many denied, how many things were sent."""
    facts = chosen(desk, ask)
    flows = flow(desk, facts)
    pairs = _grouped(desk, facts, "exporter, exporter_in, recipient, recipient_in")
    what = _grouped(desk, facts, "artifact")
    places = ({r["exporter_in"] for r in flows}, {r["recipient_in"] for r in flows})
    return Page("transfers.html", "Transfers", "transfers", {
        "facts": facts, "flows": {(r["exporter_in"], r["recipient_in"]): r for r in flows}, "what": what,
        "exporters": sorted(places[0]), "recipients": sorted(places[1]), "pairs": pairs,
        "totals": {key: sum(r[key] for r in flows) for key in ("allowed", "denied", "sent")},
        "chart": address("/charts/transfers.svg", {"study": facts.digest if facts else ""}),
    }, TOP)  # fmt: skip


def flow(desk: Desk, facts: StudyFacts | None) -> list[Row]:
    """Exporter's and recipient's jurisdiction with counts."""
    return _grouped(desk, facts, "exporter_in, recipient_in")


def _grouped(desk: Desk, facts: StudyFacts | None, columns: str) -> list[Row]:
    where, values = (" WHERE study = ?", (facts.digest,)) if facts else ("", ())
    counted = "sum(allowed) AS allowed, sum(denied) AS denied, sum(sent) AS sent"
    question = f"SELECT {columns}, {counted} FROM flow{where} GROUP BY {columns} ORDER BY {columns}"  # noqa: S608
    return desk.books.all(question, values)


def decisions(desk: Desk, ask: Ask) -> Page:
    """The decisions that fit the filters, the newest first."""
    filters = {name: ask.text(name) for name in (*_FILTERS, "outcome")}
    where, values = _condition(filters)
    number = desk.books.one(f"SELECT count(*) FROM decision{where}", values)  # noqa: S608 - names of columns of ours
    pager = Pager(ask.page(), number, "/decisions", filters)
    ordered = f"SELECT * FROM decision{where} ORDER BY at DESC, log, idx LIMIT ? OFFSET ?"  # noqa: S608
    rows = desk.books.all(ordered, (*values, PER_PAGE, pager.offset))
    return Page("decisions.html", "Decisions", "decisions", {
        "rows": rows, "pager": pager, "filters": filters, "choices": desk.choices,
    }, TOP)  # fmt: skip


def _condition(filters: Mapping[str, str]) -> tuple[str, tuple[object, ...]]:
    given = [(name, filters[name]) for name in _FILTERS if filters[name]]
    parts, values = [f"{name} = ?" for name, _ in given], [value for _, value in given]
    if filters["outcome"] in {"allow", "deny"}:
        parts.append(f"allow = {int(filters['outcome'] == 'allow')}")
    return (f" WHERE {' AND '.join(parts)}" if parts else "", tuple(values))


def decision(desk: Desk, ask: Ask) -> Page:
    """One decision: by which rule and citation, what was known, what lacked, both votes."""
    log, read = _decided(desk, ask)
    return _decision(desk, log, ask.number("index"), read, None)


def replay(desk: Desk, ask: Ask) -> Page:
    """The same, decided again now from what was logged and the packs of its day."""
    log, read = _decided(desk, ask)
    entry = log.view.entries[ask.number("index")]
    source = desk.replaying(read.decision.transfer.study)
    return _decision(desk, log, entry.index, read, made(source, log.view.member, entry, read))


def _decided(desk: Desk, ask: Ask) -> tuple[Log, LoggedDecision]:
    log = desk.logs.get(ask.number("log"))
    entry = log.view.entries.get(ask.number("index")) if log else None
    if log is None or entry is None or entry.kind != "decision":
        raise not_found("such decision")
    return log, read_decision(entry, f"entry {entry.index} of log {log.view.origin}")


def _decision(desk: Desk, log: Log, index: int, read: LoggedDecision, again: Replayed | None) -> Page:
    packs, _ = desk.law
    used = {name: packs.get(digest) for name, digest in read.decision.packs.items()}
    crumbs = (*TOP, ("Decisions", "/decisions"))
    return Page("decision.html", f"Decision {index} of {log.view.member}", "decisions", {
        "log": log, "entry": log.view.entries[index], "read": read, "decided": read.decision, "again": again,
        "used": used, "given": _given(read.decision.transfer.guarantees),
    }, crumbs)  # fmt: skip


def _given(given: Guarantees) -> list[tuple[str, str]]:
    """What the exporter's software guarantees, in words; what it does not is left out."""
    delta, threshold = given.inverse_delta, given.secure_aggregation_threshold
    rows = [
        ("Protected unit", given.unit if given.unit != "none" else ""),
        ("eps for the whole study", f"{given.epsilon_milli / 1000:.3f}" if given.epsilon_milli is not None else ""),
        ("delta", f"1/{delta}" if delta is not None else ""),
        ("Sites at least", str(given.min_sites or "")),
        ("Patients at least", str(given.min_patients or "")),
        ("Secure aggregation", f"yes, threshold {threshold or 'none'}" if given.secure_aggregation else ""),
        ("Summed within its region group", "yes" if given.group_sum else ""),
        ("Keys live in", ", ".join(given.keys_in)),
    ]
    return [(name, value) for name, value in rows if value]


def rounds(desk: Desk, ask: Ask) -> Page:
    """Every round of each place that holds rosters: what became of every site."""
    found = [(place, _rosters(place)) for place in desk.places if _rosters(place)]
    page = ask.page()
    longest = max((len(rosters) for _, rosters in found), default=0)
    pager = Pager(page, longest, "/rounds")
    shown = [(place, rosters[pager.offset : pager.offset + PER_PAGE]) for place, rosters in found]
    return Page("rounds.html", "Rounds", "rounds", {"shown": shown, "pager": pager}, TOP)


def round_(desk: Desk, ask: Ask) -> Page:
    """One roster, with the entries that it names."""
    place = next((p for p in desk.places if p.number == ask.number("place")), None)
    signed = next((s for s in _rosters(place) if s.roster.round == ask.number("round")), None) if place else None
    if place is None or signed is None:
        raise not_found("such round")
    logs = {log.view.origin: log for log in place.logs}
    return Page("round.html", f"Round {signed.roster.round}", "rounds", {
        "place": place, "signed": signed, "roster": signed.roster, "logs": logs, "signers": _signers(desk, signed),
    }, (*TOP, ("Rounds", "/rounds")))  # fmt: skip


def _signers(desk: Desk, signed: SignedRoster) -> list[str]:
    held = {k.keyid: f"{k.holder} ({k.role})" for k in desk.anchor.trust.keys}
    return [held.get(keyid, f"unknown key {keyid[:12]}") for keyid, _ in signed.envelope.signatures]


def _rosters(place: Place) -> tuple[SignedRoster, ...]:
    try:
        return place.contents.rosters if place.contents else ()
    except ResidencyError:  # a flaw of the place, shown on the overview
        return ()


def privacy(desk: Desk, ask: Ask) -> Page:
    """What each site spent of its budget, by the charges that the logs show."""
    facts = chosen(desk, ask)
    shown = [f for f in desk.studies.values() if f.text is not None and (facts is None or facts is f)]
    return Page("privacy.html", "Privacy", "privacy", {"facts": facts, "shown": shown}, TOP)
