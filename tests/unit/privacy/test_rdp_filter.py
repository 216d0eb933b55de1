"""The RDP filter: costs by hand, the union over orders, the sampler's share."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from compliance.privacy.accounting import epsilon_rdp
from compliance.privacy.events import PrivacyEvent
from compliance.privacy.rdp_filter import (
    ORDERS,
    conversion,
    curve,
    needed_milli,
    sampler_allowance_femto,
    step_cost,
    total,
)


def event(noise_micro: int = 1_000_000, q: tuple[int, int] = (1, 20), steps: int = 100, femto: int = 0) -> PrivacyEvent:
    return PrivacyEvent(
        noise_multiplier_micro=noise_micro,
        sample_numerator=q[0],
        sample_denominator=q[1],
        steps=steps,
        unit="record",
        tv_error_femto=femto,
    )


@pytest.mark.parametrize("order", ORDERS)
def test_without_sampling_the_cost_is_order_over_twice_the_variance(order: int) -> None:
    assert float(step_cost(3_000_000, Fraction(1), order)) == pytest.approx(order / 18, rel=1e-12)


@pytest.mark.parametrize("order", [2, 3, 6])
@pytest.mark.parametrize(("q", "sigma"), [(0.05, 1.0), (0.3, 2.0)])
def test_sampled_cost_equals_the_integral_in_both_directions(order: int, q: float, sigma: float) -> None:
    x = np.linspace(-40 * sigma, 40 * sigma, 400_001)
    width = float(x[1] - x[0])
    base = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    ratio = (1 - q) + q * np.exp((2 * x - 1) / (2 * sigma**2))
    added = math.log(float((base * ratio**order).sum() * width)) / (order - 1)
    removed = math.log(float((base * ratio ** (1 - order)).sum() * width)) / (order - 1)
    ours = float(step_cost(round(sigma * 1e6), Fraction(q).limit_denominator(100), order))
    assert ours == pytest.approx(added, rel=1e-6)
    assert removed <= ours


def test_costs_are_integers_that_round_up_and_add() -> None:
    one, many = curve(event(steps=1)), curve(event(steps=1000))
    assert all(isinstance(c, int) for c in one)
    exact = [float(step_cost(1_000_000, Fraction(1, 20), a)) * 1e9 for a in ORDERS]
    assert all(e <= c <= e + 2 for e, c in zip(exact, one, strict=True))
    assert all(m <= 1000 * o for o, m in zip(one, many, strict=True))


def test_the_union_over_orders_is_paid_for() -> None:
    """Each order gets its share of delta: the filter never promises the eps of the best order taken afterwards."""
    e = event()
    afterwards = min(c + conversion(a, Fraction(10**5)) for a, c in zip(ORDERS, curve(e), strict=True))
    assert needed_milli(total([e]), 10**5) > afterwards / 1e6 >= epsilon_rdp([e], 10**5) - 1
    share = Fraction(10**5 * len(ORDERS) * 10, 9)
    by_hand = min(
        c / 1e9 + math.log((a - 1) / a) + (math.log(float(share)) - math.log(a)) / (a - 1)
        for a, c in zip(ORDERS, curve(e), strict=True)
    )
    assert needed_milli(total([e]), 10**5) == math.ceil(by_hand * 1000)


def test_nothing_needs_nothing_and_delta_matters() -> None:
    assert needed_milli(total([]), 10**5) == 0
    assert needed_milli(total([event()]), 10**6) > needed_milli(total([event()]), 10**5)


def test_the_samplers_allowance() -> None:
    assert sampler_allowance_femto(8000, 10**5) == math.floor(1e15 * 1e-6 / (1 + math.exp(8)))
    assert total([event(femto=3), event(femto=4)]).tv_error_femto == 7
