"""How large a model the noise sampler's error allows, judged before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from client import budget
from client.training.lattice import Lattice, RoundedGaussian
from compliance.errors import Refused
from compliance.messages import LayoutEntry
from compliance.privacy.accounting import SAMPLER_MICRO_EPSILON, epsilon
from compliance.privacy.events import PrivacyEvent

STEPS = 4


def check(parameters: int, rounds: int = 10) -> None:
    case = SimpleNamespace(study=SimpleNamespace(training=SimpleNamespace(steps=STEPS), charged_rounds=rounds))
    budget.check_sampler(case, (LayoutEntry(name="head.weight", shape=(parameters,)),))  # type: ignore[arg-type]


def test_ten_million_parameters_are_admitted() -> None:
    check(10_000_000)


def test_a_model_whose_noise_would_cost_more_than_a_round_is_charged_is_refused() -> None:
    with pytest.raises(Refused, match="RSD-1221"):
        check(300_000_000, rounds=1)


def test_a_study_whose_draws_would_move_eps_by_more_than_it_is_charged_is_refused() -> None:
    most = int(SAMPLER_MICRO_EPSILON / 1e6 / 2 / RoundedGaussian.ratio_error / STEPS / 10_000_000)
    check(10_000_000, rounds=most)
    with pytest.raises(Refused, match=r"RSD-1221.*micro-eps"):
        check(10_000_000, rounds=most + 1)


def test_the_allowance_covers_the_samplers_ratio() -> None:
    assert RoundedGaussian.ratio_error <= budget._RATIO_ERROR


def test_a_stated_eps_holds_the_samplers_ratio() -> None:
    event = PrivacyEvent(
        noise_multiplier_micro=1_000_000, sample_numerator=1, sample_denominator=1, steps=1, unit="record",
        tv_error_femto=0,
    )  # fmt: skip
    pairs = []
    for n in range(1, 9):
        plain = event.model_copy(update={"steps": n})
        pairs.append((epsilon([plain], 10**5), epsilon([plain.model_copy(update={"tv_error_femto": 1})], 10**5)))
    assert all(b >= a for a, b in pairs)
    assert any(b > a for a, b in pairs)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.0])
def test_a_draw_is_counted_with_at_least_the_samplers_error(sigma: float) -> None:
    sampler = RoundedGaussian(Lattice(1.0, 1000, sigma).scale)
    assert sampler.tv_error * 1e15 <= budget._FEMTO_PER_DRAW
