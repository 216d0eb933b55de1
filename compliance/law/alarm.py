"""What happens when the two evaluators disagree, beside the denial: people are told, at once and until they look."""

from __future__ import annotations

import sys

from compliance.law.model import Decision
from compliance.log.store import LogStore

_RULE = "engine.disagreement"


def sound(decision: Decision, index: int) -> None:
    """One line on stderr if entry `index` of this log is a decision on which the evaluators disagreed."""
    if decision.rule == _RULE:
        line = f"ALARM law: entry {index} of the log: {decision.plain} Denied. Report it: one of them has a defect."
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def disagreements(log: LogStore) -> tuple[int, ...]:
    """The entries on which the evaluators disagreed; the doctors fail while there are any."""
    return tuple(e.index for e in log.entries(kind="decision") if e.body["rule"] == _RULE)
