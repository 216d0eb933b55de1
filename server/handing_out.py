"""The operator's log that is handed out as a file: decided by the operator's law set, and logged, before it is made."""

from __future__ import annotations

from pathlib import Path

from compliance.export.recipient import recipient_of, transfer_of_log
from compliance.law.alarm import sound
from compliance.law.model import Party
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.trust.home import OperatorHome
from server.law import denied, operator_engine, operator_law


def clear(path: Path, log: LogStore, to: str, study: str) -> tuple[Party, int]:
    """Whom entries of the log in the home at `path` may go to, and the entry of the decision that allows it.

    Raises Refused RSD-3100 (denied; logged as well), RSD-3065 (clock set back), UsageError RSD-5143, and what
    `operator_law` raises: by a law set that cannot be judged nothing goes out.
    """
    home = OperatorHome(path)
    trust = home.anchor().trust
    recipient = recipient_of(trust, to)
    transfer = transfer_of_log(trust, trust.operator.name, recipient, study)
    refuse_set_back(log, transfer.at)
    opened = operator_law(home)
    decision = operator_engine(opened.law_set if opened else None).decide(transfer)
    index = log.append("decision", decision_body(decision, 0, recipient.name)).index
    sound(log, decision, index)
    if not decision.allow:
        raise denied(decision, f"{transfer.artifact} of {trust.operator.name}")
    return recipient, index
