"""What happens when the two evaluators disagree, beside the denial: an alarm."""

from __future__ import annotations

from compliance.law.model import Decision
from compliance.log.alarms import alarm, raise_alarm
from compliance.log.store import LogStore

_RULE = "engine.disagreement"


def sound(log: LogStore, decision: Decision, index: int, study: str = "") -> None:
    """RSD-5109 if entry `index` of this log is a decision on which the evaluators disagreed."""
    if decision.rule != _RULE:
        return
    about = f"{decision.transfer.artifact} to {decision.recipient.name}"
    found = f"entry {index}: {decision.plain} Denied"
    raise_alarm(log, alarm("RSD-5109", about, found=found, limit="evaluators that agree"), study)
