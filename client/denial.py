"""From a denied decision to the refusal that the operator reads."""

from __future__ import annotations

from compliance.errors import Refused
from compliance.law.countries import COUNTRIES
from compliance.law.model import Decision


def denied(decision: Decision) -> Refused:
    """Refused RSD-3100 that names the rule, its citations, what is missing and what would make it pass."""
    t = decision.transfer
    found, limit = _values(decision)
    return Refused(
        "RSD-3100",
        f"{t.artifact} of {t.exporter.name} ({t.exporter.jurisdiction}) may not go to "
        f"{decision.recipient.name} ({decision.recipient.jurisdiction}): {decision.plain}",
        rule=f"{decision.rule}: {', '.join(decision.law) or ', '.join(decision.house)}",
        found=found,
        limit=limit,
        next=decision.would_allow or "no document makes this pass",
    )


def _values(decision: Decision) -> tuple[str, str]:
    """What was found and what would do: where it is about a place, its code."""
    t = decision.transfer
    if decision.rule == "engine.no-pack":
        return t.exporter.jurisdiction, "a country that an adopted law pack binds"
    places = [code for party in (t.exporter, t.recipient, *t.onward) for code in (party.jurisdiction, *party.access)]
    unknown = [code for code in places if code not in COUNTRIES]
    if decision.rule == "engine.unknown-jurisdiction" and unknown:
        return unknown[0], "a country code of ISO 3166-1"
    return "; ".join(decision.missing) or decision.effect, "allow by both evaluators"
