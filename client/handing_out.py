"""What a site hands out as a file, entries or a checkpoint of its log: decided by its own law set first."""

from __future__ import annotations

from pathlib import Path

from client.denial import denied
from client.home import AgentHome
from compliance.clock import now
from compliance.export.recipient import recipient_of, transfer_of_log
from compliance.law.alarm import sound
from compliance.law.model import Decision, Party, Transfer
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.trust.root import Anchor
from compliance.trust.witnesses import placed, shown_to


def clear(path: Path, log: LogStore, to: str, study: str) -> tuple[Party, int]:
    """Whom entries of the log in the home at `path` may go to, and the entry of the decision that allows it.

    Raises Refused RSD-3100 (denied; logged as well), RSD-3065 (clock set back), UsageError RSD-5143, and what reading
    policy and law set raises: without both nothing leaves.
    """
    home = AgentHome(path)
    anchor = home.anchor()
    recipient = recipient_of(anchor.trust, to)
    decision, index = _decided(home, anchor, log, transfer_of_log(anchor.trust, home.config.site, recipient, study))
    if not decision.allow:
        raise denied(decision)
    return recipient, index


def show(path: Path, log: LogStore, witness: str) -> int:
    """The entry of the decision by which a checkpoint of the log in the home at `path` may go to an outside witness.

    Raises Refused RSD-5110 (the trust file names no such witness), and what `clear` raises but for RSD-5143.
    """
    home = AgentHome(path)
    anchor = home.anchor()
    transfer = shown_to(anchor.trust, home.config.site, witness, now())
    decision, index = _decided(home, anchor, log, transfer)
    if not decision.allow:
        raise placed(denied(decision), transfer.recipient)
    return index


def _decided(home: AgentHome, anchor: Anchor, log: LogStore, transfer: Transfer) -> tuple[Decision, int]:
    refuse_set_back(log, transfer.at)
    decision = home.engine(home.law(anchor).law_set).decide(transfer)
    index = log.append("decision", decision_body(decision, 0, transfer.recipient.name)).index
    sound(log, decision, index)
    return decision, index
