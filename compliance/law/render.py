"""A decision in two lines of plain text."""

from __future__ import annotations

from compliance.law.model import Decision

DRAFT = "DRAFT, no counsel"


def decision_lines(decision: Decision) -> list[str]:
    """Two lines: what was decided for whom by which rule and citations; and why, with what would make it pass.

    Both carry DRAFT unless every pack used names its reviewer. Law and house requirements stay apart.
    """
    sent = decision.transfer
    legs = f"{sent.exporter.name} ({sent.exporter.jurisdiction}) -> {decision.recipient.name}"
    onward = f", onward to {len(sent.onward)}" if sent.onward and decision.allow else ""
    places = sum(leg.via == "access" for leg in decision.legs) if decision.allow else 0
    onward += f", reachable from {places} more place{'s' * (places > 1)}" if places else ""
    basis = f"; law: {', '.join(decision.law)}" if decision.law else ""
    house = f"; house: {', '.join(decision.house)}" if decision.house else ""
    head = (
        f"{decision.effect.upper()} {sent.artifact} {legs} ({decision.recipient.jurisdiction}){onward} "
        f"by {decision.rule}{basis}{house}"
    )
    why = decision.plain
    if decision.would_allow:
        why += f" To pass: {decision.would_allow}."
    mark = f"[{DRAFT}] " if decision.draft else ""
    return [mark + head, mark + why]
