"""eps by PLD against Opacus' PRV accountant, dp_accounting's optimistic PLD and RDP."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
import warnings
from fractions import Fraction

import pytest

from compliance.errors import InputError, Refused
from compliance.privacy import accounting
from compliance.privacy.accounting import calibrate, check_claim, epsilon, epsilon_against, epsilon_coarse, epsilon_rdp
from compliance.privacy.events import PrivacyEvent

CASES = [(1_200_000, 50, 200), (2_000_000, 200, 100), (5_000_000, 100, 80)]


def event(noise_micro: int = 2_000_000, q_milli: int = 100, steps: int = 100, **more: object) -> PrivacyEvent:
    return PrivacyEvent.model_validate(
        {
            "noise_multiplier_micro": noise_micro,
            "sample_numerator": q_milli,
            "sample_denominator": 1000,
            "steps": steps,
            "unit": "record",
            **more,
        }
    )


def optimistic(e: PrivacyEvent, inverse_delta: int) -> float:
    from dp_accounting.pld import privacy_loss_distribution as pld

    one = pld.from_gaussian_mechanism(
        e.noise_multiplier_micro / 1e6,
        sampling_prob=float(e.rate),
        pessimistic_estimate=False,
        use_connect_dots=False,
        value_discretization_interval=1e-3,
    )
    return float(one.self_compose(e.steps).get_epsilon_for_delta(1 / inverse_delta)) * 1000


def opacus_prv(e: PrivacyEvent, inverse_delta: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(e.noise_multiplier_micro / 1e6, float(e.rate), e.steps)]
        return float(prv.get_epsilon(1 / inverse_delta)) * 1000


@pytest.mark.parametrize(("noise", "q", "steps"), CASES)
def test_pld_lies_above_the_optimistic_bound_and_below_rdp(noise: int, q: int, steps: int) -> None:
    e = event(noise, q, steps)
    found = epsilon([e], 10**5)
    assert optimistic(e, 10**5) <= found <= 1.02 * epsilon_rdp([e], 10**5)


@pytest.mark.parametrize(("noise", "q", "steps"), CASES)
def test_pld_agrees_with_opacus_prv_within_two_percent(noise: int, q: int, steps: int) -> None:
    e = event(noise, q, steps)
    assert epsilon([e], 10**5) == pytest.approx(opacus_prv(e, 10**5), rel=0.02)


@pytest.mark.parametrize(("noise", "q", "steps"), [*CASES, (8_000_000, 1000, 20)])
def test_own_rdp_agrees_with_dp_accounting(noise: int, q: int, steps: int) -> None:
    import dp_accounting as dp
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)
    e = event(noise, q, steps)
    theirs = RdpAccountant(orders=[*range(2, 33), 40, 48, 64, 96, 128, 256, 512])
    theirs.compose(dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q / 1000, dp.GaussianDpEvent(noise / 1e6)), steps))
    expected = theirs.get_epsilon(1e-5) * 1000
    assert expected <= epsilon_rdp([e], 10**5) <= expected + 1.01


def test_splitting_an_event_changes_nothing_and_mixing_adds() -> None:
    whole = epsilon([event(steps=100)], 10**5)
    assert epsilon([event(steps=40), event(steps=60)], 10**5) == whole
    other = event(noise_micro=3_000_000, q_milli=100, steps=50)
    both = epsilon([event(), other], 10**5)
    assert max(whole, epsilon([other], 10**5)) < both <= 1.02 * epsilon_rdp([event(), other], 10**5)


def test_no_events_cost_nothing() -> None:
    assert epsilon([], 10**5) == epsilon_rdp([], 10**5) == 0


def test_the_samplers_error_costs_one_plus_e_to_the_eps_times_itself() -> None:
    clean = epsilon([event()], 10**5)
    factor = 1 + 2.718281828 ** (clean / 1000)
    tenth = int(1e10 / 10 / factor)  # a tenth of delta = 1e-5
    dirty = epsilon([event(tv_error_femto=tenth)], 10**5)
    from_smaller_delta = epsilon([event()], 111_111)
    assert clean < dirty == pytest.approx(from_smaller_delta, abs=8)
    with pytest.raises(Refused, match="RSD-4003"):
        epsilon([event(tv_error_femto=tenth * 11)], 10**5)
    assert epsilon_rdp([event(tv_error_femto=tenth)], 10**5) > epsilon_rdp([event()], 10**5)


def test_the_samplers_errors_of_all_events_add_up() -> None:
    twice, once = (event(tv_error_femto=t) for t in (10**8, 5 * 10**7))
    for of in (epsilon_coarse, epsilon_rdp):
        whole = of([twice.model_copy(update={"steps": 200})], 10**5)
        assert of([once, once], 10**5) == whole
        assert whole > of([event(tv_error_femto=5 * 10**7, steps=200)], 10**5)


def test_with_little_noise_the_samplers_error_still_comes_out_of_delta() -> None:
    """Beyond eps 40, where Renyi DP is the bound."""
    little = event(noise_micro=250_000, q_milli=1000, steps=5)
    clean = epsilon([little], 10**5)
    assert clean > accounting._LOUD_MILLI
    with pytest.raises(Refused, match="RSD-4003"):
        epsilon([little.model_copy(update={"tv_error_femto": 10**8})], 10**5)


def test_eps_is_rounded_up() -> None:
    for steps in range(10, 50, 10):
        e = event(steps=steps)
        merged = ((e.noise_multiplier_micro, e.rate, steps),)
        exact = 1000 * accounting._distribution(merged, accounting._COARSE).get_epsilon_for_delta(1e-5)
        assert exact <= epsilon_coarse([e], 10**5) <= exact + 1.001


def test_what_the_samplers_error_adds_to_eps_costs_delta_again() -> None:
    def at(delta: Fraction) -> int:
        return math.ceil(200 * math.log(1 / delta))

    found = accounting._with_sampler(at, 4 * 10**8, 10**5)
    left = Fraction(1, 10**5) - Fraction(4 * 10**8, 10**15) * (1 + Fraction(math.exp(found / 1000)))
    assert at(left) <= found


def test_the_samplers_ratio_is_in_the_second_opinion_too() -> None:
    plain = [event(steps=n) for n in range(1, 201)]
    more = sum(epsilon_rdp([e.model_copy(update={"tv_error_femto": 1})], 10**5) for e in plain)
    more -= sum(epsilon_rdp([e], 10**5) for e in plain)
    assert more >= 0.7 * len(plain) * accounting.SAMPLER_MICRO_EPSILON / 1000


def test_the_samplers_ratio_comes_out_of_delta_too() -> None:
    """Draws within e^(+-rho) turn (eps, delta) into (eps + 2 N rho, e^(N rho) delta)."""
    asked = list[Fraction]()

    def at(delta: Fraction) -> int:
        asked.append(delta)
        return 0

    accounting._with_sampler(at, 1, 10**5)
    assert asked
    assert max(asked) <= math.exp(-accounting.SAMPLER_MICRO_EPSILON / 2 / 1e6) / 10**5


def test_units_do_not_mix_and_delta_must_be_small() -> None:
    with pytest.raises(InputError, match="RSD-4001"):
        epsilon([event(), event(unit="patient")], 10**5)
    with pytest.raises(InputError, match="RSD-4002"):
        epsilon([event()], 1)


@pytest.mark.parametrize(("target", "numerator", "steps"), [(4000, 100, 80), (1000, 100, 80)])
def test_calibrate_is_tight_and_quick(target: int, numerator: int, steps: int) -> None:
    epsilon([event()], 10**5)  # the import is not what is timed
    began = time.process_time()
    noise = calibrate(target, 10**5, numerator, 1000, steps)
    assert time.process_time() - began < 6  # measured 0.7 to 2 s; twice that for a busy machine
    assert epsilon([event(noise, numerator, steps)], 10**5) <= target
    assert epsilon([event(noise * 999 // 1000 - 1, numerator, steps)], 10**5) > target


def test_calibrate_grows_with_steps_and_falls_with_eps() -> None:
    at = {n: calibrate(2000, 10**5, 100, 1000, n) for n in (10, 40)}
    assert at[10] < at[40]
    assert calibrate(1000, 10**5, 100, 1000, 10) > at[10]
    assert calibrate(2000, 10**5, 100, 1000, 10, tv_error_femto=10**8) > at[10]


def test_calibrate_says_so_when_nothing_helps() -> None:
    with pytest.raises(Refused, match="RSD-4004"):
        calibrate(1, 10**9, 1, 1, 100_000)


def test_a_claim_is_checked() -> None:
    assert check_claim(event(), 4000, 10**5) <= 4000
    with pytest.raises(Refused, match=r"RSD-4005.*100 milli-eps"):
        check_claim(event(), 100, 10**5)


def test_the_ledger_does_not_load_the_accountant() -> None:
    code = (
        "import sys, compliance.privacy.ledger as l; sys.exit('dp_accounting' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_limit_that_the_coarse_bound_keeps_needs_no_fine_one(monkeypatch: pytest.MonkeyPatch) -> None:
    e, built, step = event(noise_micro=1_234_000), list[float](), accounting._step

    def seen(noise_micro: int, rate: Fraction, grid: float) -> object:
        built.append(grid)
        return step(noise_micro, rate, grid)

    monkeypatch.setattr(accounting, "_step", seen)
    limit = epsilon_coarse([e], 10**5)
    assert epsilon_against([e], 10**5, limit) == limit
    assert set(built) == {accounting._COARSE}
    fine = epsilon_against([e], 10**5, limit - 1)
    assert set(built) == {accounting._COARSE, accounting._FINE}
    assert fine == epsilon([e], 10**5) <= limit


def test_a_coarse_bound_that_fails_is_not_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise Refused("RSD-4003", "the sampler's error uses up delta")

    monkeypatch.setattr(accounting, "epsilon_coarse", refused)
    assert epsilon_against([event()], 10**5, 10**6) == epsilon([event()], 10**5)


def test_several_sites_numbers_of_steps_share_what_one_step_costs() -> None:
    accounting._step.cache_clear()
    found = [epsilon_coarse([event(noise_micro=1_345_000, steps=n)], 10**5) for n in (10, 20, 40)]
    assert found == sorted(set(found))
    assert accounting._step.cache_info().misses == 1
