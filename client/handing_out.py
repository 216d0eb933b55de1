"""A site's log that is handed out as a file: decided by the site's own law set, and logged, before it is made."""

from __future__ import annotations

from pathlib import Path

from client.denial import denied
from client.home import AgentHome
from compliance.export.recipient import recipient_of, transfer_of_log
from compliance.law.alarm import sound
from compliance.law.model import Party
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body


def clear(path: Path, log: LogStore, to: str, study: str) -> tuple[Party, int]:
    """Whom entries of the log in the home at `path` may go to, and the entry of the decision that allows it.

    Raises Refused RSD-3100 (denied; logged as well), RSD-3065 (clock set back), UsageError RSD-5143, and what reading
    policy and law set raises: without both nothing leaves.
    """
    home = AgentHome(path)
    anchor = home.anchor()
    recipient = recipient_of(anchor.trust, to)
    transfer = transfer_of_log(anchor.trust, home.config.site, recipient, study)
    refuse_set_back(log, transfer.at)
    decision = home.engine(home.law(anchor).law_set).decide(transfer)
    index = log.append("decision", decision_body(decision, 0, recipient.name)).index
    sound(log, decision, index)
    if not decision.allow:
        raise denied(decision)
    return recipient, index
