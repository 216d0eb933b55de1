"""The enrolment request leaves before a site has adopted any law set: decided all the same, and logged."""

from __future__ import annotations

from functools import lru_cache

from client.denial import denied
from client.home import AgentHome, packs
from compliance.clock import now, rfc3339
from compliance.law.alarm import sound
from compliance.law.decide import Engine
from compliance.law.model import Party, Transfer
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.release.bodies import decision_body
from compliance.trust.enrol import Invitation
from compliance.trust.root import log_origin


def decide_request(home: AgentHome, invitation: Invitation) -> None:
    """Returns if the request of this new home may go to the operator; the decision is on disk in its log then.

    By every installed pack, as nobody has adopted fewer yet: those that bind the site's jurisdiction apply. The request
    holds public keys and names; who else sees them is decided later, by the adopted set. Raises Refused RSD-3100
    (denied), RSD-3065 (clock set back).
    """
    config, operator = home.config, invitation.operator
    transfer = Transfer(
        artifact="answer",
        exporter=Party(name=config.site, jurisdiction=config.jurisdiction),
        recipient=Party(name=operator.name, jurisdiction=operator.jurisdiction),
        purpose="study_administration",
        study="",
        at=rfc3339(now()),
    )
    with LogStore.open(home.log_file, log_origin(config.consortium, config.site), home.signer().private) as log:
        refuse_set_back(log, transfer.at)
        decision = _engine().decide(transfer)
        sound(log, decision, log.append("decision", decision_body(decision, 0, operator.name)).index)
    if not decision.allow:
        raise denied(decision)


@lru_cache(maxsize=1)
def _engine() -> Engine:
    installed = packs()
    return Engine(installed, {name: pack.digest for name, pack in installed.items()})
