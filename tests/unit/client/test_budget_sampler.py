"""How large a model the noise sampler's error allows, judged before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from client import budget
from client.training.lattice import Lattice, RoundedGaussian
from compliance.errors import Refused
from compliance.messages import LayoutEntry

STEPS = 4


def check(parameters: int) -> None:
    case = SimpleNamespace(study=SimpleNamespace(training=SimpleNamespace(steps=STEPS)))
    budget.check_sampler(case, (LayoutEntry(name="head.weight", shape=(parameters,)),))  # type: ignore[arg-type]


def test_ten_million_parameters_are_admitted() -> None:
    check(10_000_000)


def test_a_model_whose_noise_would_cost_more_than_a_round_is_charged_is_refused() -> None:
    with pytest.raises(Refused, match="RSD-1221"):
        check(300_000_000)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.0])
def test_a_draw_is_counted_with_at_least_the_samplers_error(sigma: float) -> None:
    sampler = RoundedGaussian(Lattice(1.0, 1000, sigma).scale)
    assert sampler.tv_error * 1e15 <= budget._FEMTO_PER_DRAW
