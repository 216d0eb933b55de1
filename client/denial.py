"""From a denied decision to the refusal that the operator reads."""

from __future__ import annotations

from compliance.errors import Refused
from compliance.law.model import Decision


def denied(decision: Decision) -> Refused:
    """Refused RSD-3100 that names the rule, its citations, what is missing and what would make it pass."""
    t = decision.transfer
    return Refused(
        "RSD-3100",
        f"{t.artifact} of {t.exporter.name} ({t.exporter.jurisdiction}) may not go to "
        f"{decision.recipient.name} ({decision.recipient.jurisdiction}): {decision.plain}",
        rule=f"{decision.rule}: {', '.join(decision.law) or ', '.join(decision.house)}",
        found="; ".join(decision.missing) or decision.effect,
        limit="allow by both evaluators",
        next=decision.would_allow or "no document makes this pass",
    )
