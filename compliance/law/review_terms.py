"""What the packs of a review say besides the outcome: each rule once, deadlines, and how long records are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compliance.law.pack import Pack
from compliance.law.retention import retention
from compliance.law.review_tags import e, identifier, small, table


def rules_said(named: Iterable[tuple[str, ...]], packs: Sequence[Pack]) -> str:
    """Each rule of the packs that was named, once, with law and house apart."""
    rules = {rule.id: rule for pack in packs for rule in pack.rules}
    found = [rules[name] for name in dict.fromkeys(n for names in named for n in names) if name in rules]
    rows = [
        [
            identifier(rule.id),
            e(rule.plain),
            e("; ".join(rule.law) or "no statute"),
            small("; ".join(rule.house.lines())),
        ]
        for rule in found
    ]
    head = (("Rule", "20%"), ("Says", ""), ("Law", "19%"), ("House, on top", "25%"))
    return f"<h2>What these rules say</h2>{table(head, rows)}" if rows else ""


def deadlines(packs: Sequence[Pack], day: str) -> str:
    """Who must act within which time, as far as the packs say."""
    rows = [
        [e(one.within), e(one.event), e(one.who), e(f"{'; '.join(one.law)} ({pack.id}){_from(one.since, day)}")]
        for pack in packs
        for one in pack.deadlines
    ]
    head = (("Within", "16%"), ("Of what", ""), ("Who", "17%"), ("Law", "23%"))
    return f"<h2>Deadlines</h2>{table(head, rows)}" if rows else ""


def _from(since: str | None, day: str) -> str:
    return f", from {since}" if since is not None and day < since else ""


def kept(jurisdictions: Sequence[str], packs: Sequence[Pack], day: str, *, adopted: bool) -> str:
    """The governing floors and ceilings where the sites are, and apart what may bind them."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for code in jurisdictions:
        alike.setdefault(tuple(pack.id for pack in packs if code in pack.jurisdictions), []).append(code)
    parts = [
        _kept_in(codes, [pack for pack in packs if pack.id in names], day, adopted) for names, codes in alike.items()
    ]
    return f"<h2>How long records are kept</h2>{''.join(parts)}"


def _kept_in(codes: Sequence[str], packs: Sequence[Pack], day: str, adopted: bool) -> str:
    governs: dict[str, list[str]] = {}
    may: dict[str, list[str]] = {}
    for one in retention(packs, day, adopted=adopted):
        limits = [limit.shown() for limit in (*one.floors[:1], *one.ceilings[:1])]
        conflict = [f"CONFLICT: {one.conflict}"] if one.conflict else []
        said = ". ".join([*limits, *conflict]) or "no limit that surely binds"
        governs.setdefault(said, []).append(one.record_class)
        for limit in one.may:
            may.setdefault(limit.shown(), []).append(one.record_class)
    rows = [[e(", ".join(classes)), e(said)] for said, classes in governs.items()]
    rows += [[e(", ".join(classes)), f"<b>May bind:</b> {e(said)}"] for said, classes in may.items()]
    head = (("Records of", "24%"), (f"In {', '.join(codes)}", ""))
    return table(head, rows)
