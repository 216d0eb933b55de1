"""Random sequences of events by four accountants: PLD (what is stated), two of RDP, and Opacus' PRV.

The stated bounds. PLD lies below RDP, which is looser. PRV gives an upper end of an interval of twice its error that
holds eps; PLD lies in that interval, up to a milli-eps of rounding. What the filter admits is within the limit by PLD.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import Json
from compliance.errors import InputError, Refused
from compliance.privacy import ledger_state as rules
from compliance.privacy.accounting import calibrate, check_claim, epsilon, epsilon_coarse, epsilon_rdp
from compliance.privacy.events import MOST_EPSILON_MILLI, PrivacyEvent
from compliance.privacy.ledger_state import SourceState
from compliance.privacy.rdp_filter import needed_milli, total

INVERSE_DELTA = 10**5
PRV_ERROR_MILLI = 10  # Opacus' default eps_error


def _event(noise: int, q_milli: int, steps: int, unit: str = "record") -> PrivacyEvent:
    return PrivacyEvent.model_validate(
        {
            "noise_multiplier_micro": noise,
            "sample_numerator": q_milli,
            "sample_denominator": 1000,
            "steps": steps,
            "unit": unit,
        }
    )


EVENTS = st.builds(_event, st.integers(800_000, 9_000_000), st.integers(5, 400), st.integers(1, 150)).filter(
    lambda e: float(e.rate) ** 2 * e.steps / (e.noise_multiplier_micro / 1e6) ** 2 < 3  # eps below 15: quick
)
SEQUENCES = st.lists(EVENTS, min_size=1, max_size=4)


def _prv(events: list[PrivacyEvent]) -> float:
    """The upper end of Opacus' PRV interval, milli-eps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(e.noise_multiplier_micro / 1e6, float(e.rate), e.steps) for e in events]
        return float(prv.get_epsilon(1 / INVERSE_DELTA, eps_error=PRV_ERROR_MILLI / 1000)) * 1000


def _opacus_rdp(events: list[PrivacyEvent]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant

        rdp = RDPAccountant()
        rdp.history = [(e.noise_multiplier_micro / 1e6, float(e.rate), e.steps) for e in events]
        return float(rdp.get_epsilon(1 / INVERSE_DELTA, alphas=list(range(2, 65)))) * 1000


@settings(max_examples=8, deadline=None)
@given(SEQUENCES)
def test_pld_lies_in_the_interval_of_prv_and_below_rdp(events: list[PrivacyEvent]) -> None:
    found = epsilon(events, INVERSE_DELTA)
    upper = _prv(events)
    assert upper - 2 * PRV_ERROR_MILLI - 1 <= found <= upper + 1
    assert found <= epsilon_rdp(events, INVERSE_DELTA) + 1
    assert found <= _opacus_rdp(events) + 1
    assert found <= epsilon_coarse(events, INVERSE_DELTA) <= found + 2
    assert epsilon_rdp(events, INVERSE_DELTA) <= needed_milli(total(events), INVERSE_DELTA)


@settings(max_examples=10, deadline=None)
@given(SEQUENCES)
def test_our_rdp_and_dp_accounting_s_agree_on_sequences(events: list[PrivacyEvent]) -> None:
    import dp_accounting as dp
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    theirs = RdpAccountant(orders=[*range(2, 33), 40, 48, 64, 96, 128, 256, 512])
    for e in events:
        one = dp.PoissonSampledDpEvent(float(e.rate), dp.GaussianDpEvent(e.noise_multiplier_micro / 1e6))
        theirs.compose(dp.SelfComposedDpEvent(one, e.steps))
    expected = theirs.get_epsilon(1 / INVERSE_DELTA) * 1000
    assert expected - 1e-6 <= epsilon_rdp(events, INVERSE_DELTA) <= expected + 1.01


def _asked(state: SourceState, study: str, e: PrivacyEvent) -> Json | None:
    """The reservation's body; None if the filter refused it for want of budget."""
    with suppress(Refused):
        return rules.decide_reserve(state, study, e, (1, INVERSE_DELTA), ("record",))
    return None


@settings(max_examples=10, deadline=None)
@given(st.lists(EVENTS, min_size=2, max_size=8), st.integers(1000, 9000))
def test_what_the_filter_admits_is_within_the_limit_by_pld(events: list[PrivacyEvent], limit: int) -> None:
    """Studies come one after the other, each as large as it likes; whatever was let in is judged by the other maths."""
    state = SourceState("source", "0" * 64)
    state.apply(1, "limit", {"epsilon_milli": limit, "inverse_delta": INVERSE_DELTA, "policy_sha256": ""}, "0" * 64)
    admitted: list[PrivacyEvent] = []
    for i, e in enumerate(events):
        body = _asked(state, f"study-{i}", e)
        if body is None:
            assert needed_milli(total([*admitted, e]), INVERSE_DELTA) > limit
            continue
        state.apply(state.seq + 1, "reserve", body, "0" * 64)
        admitted.append(e)
    assert epsilon_coarse(admitted, INVERSE_DELTA) <= limit


# --- what is out of range -------------------------------------------------------------------------------------------


@contextmanager
def _refused(code: str) -> Iterator[None]:
    with pytest.raises(InputError) as error:
        yield
    assert error.value.code == code


@pytest.mark.parametrize("milli", [0, -1, MOST_EPSILON_MILLI + 1])
def test_an_eps_out_of_range_is_refused(milli: int) -> None:
    with _refused("RSD-4122"):
        calibrate(milli, INVERSE_DELTA, 1, 10, 10)
    with _refused("RSD-4122"):
        check_claim(_event(10**6, 10, 10), milli, INVERSE_DELTA)


@pytest.mark.parametrize("inverse_delta", [1, 0, -5])
def test_a_delta_out_of_range_is_refused(inverse_delta: int) -> None:
    e = _event(10**6, 10, 10)
    with _refused("RSD-4002"):
        epsilon([e], inverse_delta)
    with _refused("RSD-4002"):
        epsilon_coarse([e], inverse_delta)
    with _refused("RSD-4002"):
        epsilon_rdp([e], inverse_delta)
    with _refused("RSD-4002"):
        calibrate(1000, inverse_delta, 1, 10, 10)
    with _refused("RSD-4002"):
        check_claim(e, 1000, inverse_delta)


@pytest.mark.parametrize("field", ["noise_multiplier_micro", "sample_numerator", "sample_denominator", "steps"])
@pytest.mark.parametrize("value", [0, -1, 10**15])
def test_an_event_out_of_range_does_not_exist(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        PrivacyEvent.model_validate({**_event(10**6, 10, 10).model_dump(), field: value})
