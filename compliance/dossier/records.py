"""Tables of the study and its papers, of packs and retention, of the logs themselves, and of entries field by field."""

from __future__ import annotations

from compliance.canonical import Json
from compliance.clock import parse_time
from compliance.dossier.material import OF_NO_STUDY, Material, refs
from compliance.dossier.model import Ref, Row, Table
from compliance.dossier.regime import Shows
from compliance.law.pack import Retention

_NO_STUDY = "The signed study was not at hand."
_NOT_WHOLE = "Such entries are of no study: they are here only from a log that was given whole, not from a bundle."
_NO_PLACE = "none named"


def _at(value: Json, path: str) -> Json:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _said(value: Json) -> str:
    """A value of a signed file as text: lists by comma, objects by semicolon, nothing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_said(v) for v in value) or "-"
    if isinstance(value, dict):
        return "; ".join(f"{k} {_said(v)}" for k, v in value.items()) or "-"
    return "-" if value in (None, "") else str(value)


def study(material: Material, shows: Shows) -> Table:
    """One row a field of the signed study."""
    if material.study is None:
        return Table(caption=shows.caption, columns=("What", "Value"), note=_NO_STUDY)
    raw = material.study.as_json()
    rows = tuple(
        Row(cells=(name, _said(_at(raw, path))), rests_on=material.proposed) for name, path in shows.fields.items()
    )
    return Table(caption=shows.caption, columns=("What", "Value"), rows=rows)


def parties(material: Material, shows: Shows) -> Table:
    """The operator and every site of the study."""
    columns = ("Name", "Part", "Jurisdiction", "Reachable from", "Covered person")
    if material.study is None:
        return Table(caption=shows.caption, columns=columns, note=_NO_STUDY)
    rows = tuple(
        Row(
            cells=(
                *(p.name, "operator" if p is material.study.operator else "site", p.jurisdiction),
                *(", ".join(p.access) or _NO_PLACE, _said(p.covered_person)),
            ),
            rests_on=material.proposed,
        )
        for p in material.study.members
    )
    return Table(caption=shows.caption, columns=columns, rows=rows)


def documents(material: Material, shows: Shows) -> Table:
    """The papers that the study lists, by hash. What stands in them is not here."""
    columns = ("Paper", "Kind", "Title", "From and to", "For", "Until", "SHA-256")
    if material.study is None:
        return Table(caption=shows.caption, columns=columns, note=_NO_STUDY)
    rows = tuple(
        Row(
            cells=(
                *(d.id, d.kind, d.title, f"{d.from_jurisdiction} to {d.to_jurisdiction}", d.covers),
                *(d.expires, d.sha256),
            ),
            rests_on=material.proposed,
        )
        for d in material.study.documents
    )
    return Table(caption=shows.caption, columns=columns, rows=rows)


def packs(material: Material, shows: Shows) -> Table:
    """One row a law pack, by digest: whose decisions used it, and how many of them bear the mark DRAFT."""
    found: dict[tuple[str, str], dict[str, list[tuple[Ref, bool]]]] = {}
    for decided in material.decisions:
        for name, digest in decided.decision.packs.items():
            seen = found.setdefault((name, digest), {}).setdefault(decided.held.member, [])
            seen.append((decided.held.ref, decided.decision.draft))
    rows = []
    for (name, digest), by_member in sorted(found.items()):
        uses = [use for seen in by_member.values() for use in seen]
        draft = f"{sum(draft for _, draft in uses)} of {len(uses)}"
        rests_on = tuple(seen[0][0] for seen in by_member.values())
        rows.append(Row(cells=(name, digest, ", ".join(by_member), draft), rests_on=rests_on))
    columns = ("Law pack", "SHA-256", "Used in the logs of", "Decisions marked DRAFT, no counsel")
    return Table(caption=shows.caption, columns=columns, rows=tuple(rows), note="A row rests on the first of each log.")


def retention(material: Material, shows: Shows) -> Table:
    """Floors and ceilings that the pack, as a decision names it, sets for classes of record."""
    columns = ("Class of record", "Limit", "Citations", "Reading", "Note")
    pack = material.packs.get(shows.pack)
    if pack is None:
        note = f"No decision that is here names the law pack {shows.pack}, or the pack was not at hand."
        return Table(caption=shows.caption, columns=columns, note=note)
    named = [d.held for d in material.decisions if d.decision.packs.get(pack.id) == pack.digest]
    first = {held.member: held for held in reversed(named)}
    rows = tuple(
        Row(cells=(name, *_limit(row)), rests_on=refs(first[member] for member in sorted(first)))
        for name in shows.classes
        for row in pack.retention
        if name in row.classes
    )
    note = f"By law pack {pack.id} version {pack.version}{' (DRAFT, no counsel)' if pack.draft else ''}."
    return Table(caption=shows.caption, columns=columns, rows=rows, note=note)


def _limit(row: Retention) -> tuple[str, ...]:
    days = f"at least {row.floor_days} days" if row.floor_days else f"at most {row.ceiling_days} days"
    since = f" from {row.since}" if row.since else ""
    return (
        f"{days}{since}",
        "; ".join(row.law) or "-",
        f"{row.confidence}, {row.source_kind}",
        row.who or row.note or "-",
    )


def span(material: Material, shows: Shows) -> Table:
    """One row a log: from when to when its entries of the study are, in days."""
    rows = []
    for source in material.sources:
        own = [h for h in material.held if h.origin == source.origin and h.entry.study == material.digest]
        if own:
            first, last = own[0], own[-1]
            days = (parse_time(last.entry.at) - parse_time(first.entry.at)).days
            cells = (source.member, first.entry.at, last.entry.at, str(days), str(len(own)))
            rows.append(Row(cells=cells, rests_on=tuple(dict.fromkeys((first.ref, last.ref)))))
    columns = ("Log", "First entry", "Last entry", "Days between", "Entries of the study")
    return Table(caption=shows.caption, columns=columns, rows=tuple(rows))


def logs(material: Material, shows: Shows) -> Table:
    """One row a log: how long it is, who cosigned the end that is shown, whether the entries here are counted."""
    columns = ("Log", "Jurisdiction", "Entries in all", "Of the study", "Cosigned by", "Completeness", "Expired")
    rows = tuple(
        Row(
            cells=(
                *(s.member, s.jurisdiction, str(s.size), str(s.entries), ", ".join(s.cosigners) or "nobody"),
                *(f"{s.complete}{_later(s.after_close)}", "; ".join(s.expired) or "none"),
            ),
            rests_on=refs(h for h in material.of("close") if h.origin == s.origin),
        )
        for s in material.sources
    )
    return Table(caption=shows.caption, columns=columns, rows=rows)


def _later(number: int) -> str:
    return f", {number} after the close" if number else ""


def entries(material: Material, shows: Shows) -> Table:
    """One row an entry of these kinds, with the fields that are asked for."""
    found = [(h, [_at(h.entry.body, path) for path in shows.fields.values()]) for h in material.of(*shows.kinds)]
    rows = tuple(
        Row(cells=(h.member, h.entry.at, h.entry.kind, *map(_said, values)), rests_on=(h.ref,))
        for h, values in found
        if any(value is not None for value in values)
    )
    columns = ("Log", "When", "Kind", *shows.fields)
    note = _NOT_WHOLE if not rows and OF_NO_STUDY & set(shows.kinds) else ""
    return Table(caption=shows.caption, columns=columns, rows=rows, note=note)
