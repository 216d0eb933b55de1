"""What a study does at a site, as the privacy accounting counts it. The one place that says so."""

from __future__ import annotations

from typing import Final

from compliance.privacy.events import PrivacyEvent
from compliance.study import SiteTerms, Study

# What a round may add to delta through the noise sampler, in 1e-15: charged before the round, checked after it.
TV_ERROR_FEMTO_PER_ROUND = 20
# The same for the evaluation: a draw errs by less than 2e-8 femto, and there are at most 64 * 64 cells.
TV_ERROR_FEMTO_EVALUATION: Final = 1
EVALUATION_ROUND: Final = 0  # under which ledger and logs keep what belongs to the evaluation; rounds count from 1


def study_event(study: Study, terms: SiteTerms, rounds: int) -> PrivacyEvent:
    """`rounds` rounds of `study` at the site of `terms`."""
    return PrivacyEvent(
        noise_multiplier_micro=terms.noise_multiplier_micro,
        sample_numerator=terms.batch,
        sample_denominator=terms.records_public,
        steps=study.training.steps * rounds,
        unit=study.privacy.unit,
        tv_error_femto=TV_ERROR_FEMTO_PER_ROUND * rounds,
    )


def also_done(study: Study) -> tuple[PrivacyEvent, ...]:
    """What `study` does beside its rounds, once at each site: its evaluation, if it has one.

    Every unit adds one to one cell, so the L2 sensitivity is 1 under add/remove, and all units take part: q = 1.
    """
    if study.evaluation is None:
        return ()
    event = PrivacyEvent(
        noise_multiplier_micro=study.evaluation.noise_multiplier_micro,
        sample_numerator=1,
        sample_denominator=1,
        steps=1,
        unit=study.privacy.unit,
        tv_error_femto=TV_ERROR_FEMTO_EVALUATION,
    )
    return (event,)
