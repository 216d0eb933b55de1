"""What rounds of a study do at a site, as the privacy accounting counts it. The one place that says so."""

from __future__ import annotations

from compliance.privacy.events import PrivacyEvent
from compliance.study import SiteTerms, Study

# What a round may add to delta through the noise sampler, in 1e-15: charged before the round, checked after it.
TV_ERROR_FEMTO_PER_ROUND = 20


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
