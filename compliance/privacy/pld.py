"""dp_accounting's privacy-loss distribution of one step of Gaussian noise, computed on arrays.

The library asks for the loss of one point of its grid after the other in Python, which is most of what an eps costs.
The formula here is the same on the whole grid; the bounds of the grid, the pessimistic rounding (Doroshenko et al.
2022) and the composition are the library's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss


class _Step(GaussianPrivacyLoss):  # type: ignore[misc]  # the library has no types
    """One step, for neighbours that lack a record or have one more."""

    def get_delta_for_epsilon(self, epsilon: Any) -> Any:
        """The library's for an array: P[loss > eps] less e^eps times that under the neighbour."""
        epsilons, rate = np.asarray(epsilon, dtype=float), self.sampling_prob
        sign = 1.0 if self.adjacency_type == AdjacencyType.REMOVE else -1.0
        reached = sign * epsilons > math.log1p(-rate) if rate < 1 else np.full(epsilons.shape, True)
        deltas = np.where(reached | (sign < 0), 0.0, -np.expm1(epsilons))
        loss = sign * epsilons[reached]
        with np.errstate(divide="ignore"):  # the least loss there is lies at infinity
            unsampled = loss - math.log(rate) + np.log1p(-np.minimum((1 - rate) * np.exp(-loss), 1.0))
        cut = -sign * (0.5 + unsampled * self.standard_deviation**2)
        deltas[reached] = self.mu_upper_cdf(cut) - np.exp(epsilons[reached] + self.mu_lower_log_cdf(cut))
        return np.clip(deltas, 0, 1)


def one_step(noise: float, rate: float, grid: float) -> Any:
    """The pessimistic distribution for the sum of a Poisson sample at `rate` under noise of `noise` sensitivities."""

    def losses(kind: AdjacencyType) -> Any:
        step = _Step(noise, sensitivity=1, pessimistic_estimate=True, sampling_prob=rate, adjacency_type=kind)
        bounds = step.connect_dots_bounds()
        low, high = math.floor(bounds.epsilon_lower / grid), math.ceil(bounds.epsilon_upper / grid)
        deltas = step.get_delta_for_epsilon(np.arange(low, high + 1) * grid)
        return create_pmf_pessimistic_connect_dots_fixed_gap(grid, low, high, deltas)

    kinds = [AdjacencyType.REMOVE] if rate == 1 else [AdjacencyType.REMOVE, AdjacencyType.ADD]
    return PrivacyLossDistribution(*map(losses, kinds))
