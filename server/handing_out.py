"""What the operator hands out as a file, entries or a checkpoint of its log: decided by its own law set first."""

from __future__ import annotations

from pathlib import Path

from compliance.clock import now
from compliance.export.recipient import recipient_of, transfer_of_log
from compliance.law.alarm import sound
from compliance.law.model import Decision, Party, Transfer
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.trust.home import OperatorHome
from compliance.trust.witnesses import placed, shown_to
from server.law import denied, operator_engine, operator_law


def clear(path: Path, log: LogStore, to: str, study: str) -> tuple[Party, int]:
    """Whom entries of the log in the home at `path` may go to, and the entry of the decision that allows it.

    Raises Refused RSD-3100 (denied; logged as well), RSD-3065 (clock set back), UsageError RSD-5143, and what
    `operator_law` raises: by a law set that cannot be judged nothing goes out.
    """
    home = OperatorHome(path)
    trust = home.anchor().trust
    recipient = recipient_of(trust, to)
    decision, index = _decided(home, log, transfer_of_log(trust, trust.operator.name, recipient, study))
    if not decision.allow:
        raise denied(decision, f"{decision.transfer.artifact} of {trust.operator.name}")
    return recipient, index


def show(path: Path, log: LogStore, witness: str) -> int:
    """The entry of the decision by which a checkpoint of the log in the home at `path` may go to an outside witness.

    Raises Refused RSD-5110 (the trust file names no such witness), and what `clear` raises but for RSD-5143.
    """
    home = OperatorHome(path)
    trust = home.anchor().trust
    transfer = shown_to(trust, trust.operator.name, witness, now())
    decision, index = _decided(home, log, transfer)
    if not decision.allow:
        raise placed(denied(decision, f"{transfer.artifact} of {trust.operator.name}"), transfer.recipient)
    return index


def _decided(home: OperatorHome, log: LogStore, transfer: Transfer) -> tuple[Decision, int]:
    refuse_set_back(log, transfer.at)
    opened = operator_law(home)
    decision = operator_engine(opened.law_set if opened else None).decide(transfer)
    index = log.append("decision", decision_body(decision, 0, transfer.recipient.name)).index
    sound(log, decision, index)
    return decision, index
