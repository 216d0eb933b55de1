"""The distribution of one step on arrays is the library's own, point by point."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from compliance.privacy.pld import one_step

GRID = 1e-2


@pytest.mark.parametrize("noise", [0.5, 1.3, 40.0])
@pytest.mark.parametrize("rate", [1e-4, 0.1, 0.75, 0.999999, 1.0])
def test_a_step_is_the_librarys(noise: float, rate: float) -> None:
    ours = one_step(noise, rate, GRID)
    theirs = pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=GRID, pessimistic_estimate=True,
        neighboring_relation=pld.NeighborRel.ADD_OR_REMOVE_ONE,
    )  # fmt: skip
    assert ours._symmetric == theirs._symmetric == (rate == 1)
    for kind in ("_pmf_remove", "_pmf_add"):
        one, other = (getattr(d, kind).to_dense_pmf() for d in (ours, theirs))
        assert (one._lower_loss, one.size) == (other._lower_loss, other.size)
        assert one._pessimistic_estimate
        assert np.abs(np.asarray(one._probs) - np.asarray(other._probs)).max() < 1e-12
        assert one._infinity_mass == pytest.approx(other._infinity_mass, rel=1e-9, abs=1e-30)
    for epsilon in (0.0, 0.3, 2.0):
        assert ours.get_delta_for_epsilon(epsilon) == pytest.approx(
            theirs.get_delta_for_epsilon(epsilon), rel=1e-9, abs=1e-15
        )
