"""The ledger's side of a study: the limit by policy, the reservation, and a dry run."""

from __future__ import annotations

import math

from client.admission import Case
from client.site import Site
from compliance.canonical import Json
from compliance.errors import Refused
from compliance.messages import LayoutEntry
from compliance.privacy.accounting import SAMPLER_MICRO_EPSILON, check_claim
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import Charge, Plan
from compliance.roster import EntryRef
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND, also_done

# Total variation of one draw, in 1e-15, rounded up: client.training.lattice bounds it by 1.7e-23.
_FEMTO_PER_DRAW = 1.7e-8
_RATIO_ERROR = 2.0**-44  # how far a draw's probabilities may be off, relatively: the same module's `ratio_error`
_MOST_CELLS = 64 * 64  # of an evaluation, whose draws count too


def apply_limit(ledger: Ledger, case: Case) -> None:
    """Give the data source the limit that the signed policy states; raising it needs that policy's digest."""
    limit = case.policy.policy.ledger
    ledger.set_limit(case.dataset.source, limit.epsilon_milli, limit.inverse_delta, case.policy.digest)


def check_terms(case: Case) -> None:
    """The study's noise keeps the eps that it claims for this site, by this site's own accounting (PLD)."""
    event = case.event(case.study.charged_rounds)
    check_claim(event, case.terms.epsilon_milli, case.study.privacy.inverse_delta, also_done(case.study))


def check_sampler(case: Case, layout: tuple[LayoutEntry, ...]) -> None:
    """The noise sampler's errors stay within what is charged: a round's in delta, the study's in eps (RSD-1221)."""
    draws = case.study.training.steps * sum(math.prod(e.shape) for e in layout)
    whole = draws * case.study.charged_rounds + _MOST_CELLS
    if (micro := 2 * whole * _RATIO_ERROR * 1e6) > SAMPLER_MICRO_EPSILON:
        raise Refused(
            "RSD-1221",
            "the noise sampler's error over the study would be above what the study is charged",
            rule="eps includes the sampler's error",
            found=f"{micro:.1f} micro-eps ({whole} draws)",
            limit=f"{SAMPLER_MICRO_EPSILON} micro-eps",
            next="propose fewer steps or rounds, or fewer trained parameters",
        )
    found = draws * _FEMTO_PER_DRAW
    if found > TV_ERROR_FEMTO_PER_ROUND:
        raise Refused(
            "RSD-1221",
            "the noise sampler's error over a round would be above what a round is charged",
            rule="delta includes the sampler's error",
            found=f"{found:.1f} femto ({draws} draws)",
            limit=f"{TV_ERROR_FEMTO_PER_ROUND} femto",
            next="propose fewer steps a round or fewer trained parameters",
        )


def record_charge(site: Site, paid: Charge, base_sha256: str, since: int) -> EntryRef:
    """Log a charge of the ledger, once, with the model that it was paid for; its entry cannot stand before `since`."""
    body: dict[str, Json] = {
        "source": paid.source,
        "round": paid.round,
        "attempt": paid.attempt,
        "event": paid.event.model_dump(mode="json"),
        "seq": paid.seq,
        "head": paid.head,
        "base_sha256": base_sha256,
    }
    return site.record_once("charge", body, paid.study, since)


def reserve(site: Site, case: Case) -> dict[str, Json]:
    """Hold the whole study's budget, spare attempts included; returns the log entry's body. Refused RSD-4101."""
    check_terms(case)
    apply_limit(site.ledger, case)
    event = case.event(case.study.charged_rounds)
    inverse_delta = case.study.privacy.inverse_delta
    also = also_done(case.study)
    held = site.ledger.reserve(
        case.dataset.source, case.digest, event, case.terms.epsilon_milli, inverse_delta, case.units(), also
    )
    return {
        "source": case.dataset.source,
        "study_epsilon_milli": case.terms.epsilon_milli,
        "inverse_delta": inverse_delta,
        "event": held.event.model_dump(mode="json"),
        "also": [e.model_dump(mode="json") for e in held.also],
    }


def plan(ledger: Ledger, case: Case) -> Plan:
    """What the study would take from the ledger; spends nothing. Raises what reserving it would: Refused RSD-41xx.

    A study that was joined takes nothing more: it is held.
    """
    check_terms(case)
    apply_limit(ledger, case)
    event = case.event(case.study.charged_rounds)
    inverse_delta, also = case.study.privacy.inverse_delta, also_done(case.study)
    ledger.check(case.dataset.source, case.digest, event, case.terms.epsilon_milli, inverse_delta, case.units(), also)
    if ledger.reservation(case.dataset.source, case.digest) is not None:
        return Plan(case.dataset.source, 0, ledger.left(case.dataset.source), fits=True)
    return ledger.plan(case.dataset.source, event, also)
