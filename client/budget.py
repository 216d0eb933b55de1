"""The ledger's side of a study: the limit by policy, the reservation, and a dry run."""

from __future__ import annotations

from client.admission import Case
from client.site import Site
from compliance.canonical import Json
from compliance.errors import Refused
from compliance.privacy.accounting import check_claim
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_state import Plan


def apply_limit(ledger: Ledger, case: Case) -> None:
    """Give the data source the limit that the signed policy states; raising it needs that policy's digest."""
    limit = case.policy.policy.ledger
    ledger.set_limit(case.dataset.source, limit.epsilon_milli, limit.inverse_delta, case.policy.digest)


def check_terms(case: Case) -> None:
    """The study's noise keeps the eps that it claims for this site, by this site's own accounting (PLD)."""
    event = case.event(case.study.charged_rounds)
    check_claim(event, case.terms.epsilon_milli, case.study.privacy.inverse_delta)


def reserve(site: Site, case: Case) -> dict[str, Json]:
    """Hold the whole study's budget, spare attempts included; returns the log entry's body. Refused RSD-4101."""
    check_terms(case)
    apply_limit(site.ledger, case)
    event = case.event(case.study.charged_rounds)
    inverse_delta = case.study.privacy.inverse_delta
    held = site.ledger.reserve(case.dataset.source, case.digest, event, case.terms.epsilon_milli, inverse_delta)
    return {
        "source": case.dataset.source,
        "study_epsilon_milli": case.terms.epsilon_milli,
        "inverse_delta": inverse_delta,
        "event": held.event.model_dump(mode="json"),
    }


def plan(ledger: Ledger, case: Case) -> Plan:
    """What the study would take from the ledger; spends nothing. Raises Refused RSD-4101 when it does not fit."""
    check_terms(case)
    apply_limit(ledger, case)
    found = ledger.plan(case.dataset.source, case.event(case.study.charged_rounds))
    held = ledger.reservation(case.dataset.source, case.digest)
    if not found.fits and held is None:
        raise Refused(
            "RSD-4101",
            f"data source {case.dataset.source} cannot pay for study {case.study.name}",
            rule="the ledger's limit, over all studies for ever",
            found=f"{found.needed_milli / 1000:.3f} needed",
            limit=f"{found.left_milli / 1000:.3f} left",
            next="propose a study that spends less; what was spent never comes back",
        )
    return found
