"""FedAdam on the server: Reddi et al. 2021, Adaptive Federated Optimization, arXiv 2003.00295, Algorithm 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compliance.errors import InputError
from strategies.fedavg import State, blocks, check_pair, finite, require_keys
from strategies.flat import Flat

_KEYS = {"momentum", "second_moment"}


@dataclass(frozen=True)
class AdamRates:
    """Parameters in millionths: rate and tau (the adaptivity, keeps the divisor above 0) 1..10^9, betas 0..999999.

    Raises InputError RSD-8431 outside these ranges.
    """

    rate_micro: int
    beta1_micro: int = 900_000
    beta2_micro: int = 990_000
    tau_micro: int = 1_000

    def __post_init__(self) -> None:
        betas = (self.beta1_micro, self.beta2_micro)
        sizes = (self.rate_micro, self.tau_micro)
        if not all(0 <= b < 10**6 for b in betas) or not all(1 <= s <= 10**9 for s in sizes):
            raise InputError(
                "RSD-8431",
                "FedAdam's parameters are out of range",
                found=f"rate {sizes[0]}, beta1 {betas[0]}, beta2 {betas[1]}, tau {sizes[1]}",
                limit="rate and tau 1..10^9, betas 0..999999, millionths",
            )


class FedAdam:
    """x + rate * m / (sqrt(v) + tau) with m, v the moving moments of the mean delta, m = 0 and v = tau^2 at first.

    No bias correction, as in the paper. Moments are float64[d]; the model is rounded to float32 once a round.
    A `ServerRule`.
    """

    def __init__(self, rates: AdamRates, d: int) -> None:
        self._rates = rates
        self._momentum = np.zeros(d, np.float64)
        self._second = np.full(d, (rates.tau_micro / 1e6) ** 2, np.float64)

    def apply(self, global_flat: Flat, mean_delta: Flat) -> Flat:
        """The next model, float32[d]. Refused RSD-8422 if arrays do not fit or the result is not finite; state kept."""
        check_pair(global_flat, mean_delta)
        self._fits("mean_delta", mean_delta.shape)
        r = self._rates
        beta1, beta2 = r.beta1_micro / 1e6, r.beta2_micro / 1e6
        momentum, second = np.empty_like(self._momentum), np.empty_like(self._second)
        moved = np.empty_like(global_flat)
        for part in blocks(moved.size):
            delta = mean_delta[part].astype(np.float64)
            momentum[part] = beta1 * self._momentum[part] + (1 - beta1) * delta
            second[part] = beta2 * self._second[part] + (1 - beta2) * (delta * delta)
            step = (r.rate_micro / 1e6) * momentum[part] / (np.sqrt(second[part]) + r.tau_micro / 1e6)
            moved[part] = finite(global_flat[part].astype(np.float64) + step)
        self._momentum, self._second = momentum, second
        return moved

    def state(self) -> State:
        """`momentum` and `second_moment`, float64[d], copies."""
        return {"momentum": self._momentum.copy(), "second_moment": self._second.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Continue from `state`. Raises InputError RSD-8430 for other arrays, shapes, dtypes or impossible values."""
        require_keys(state, _KEYS)
        for name, array in state.items():
            self._fits(name, array.shape)
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise InputError("RSD-8430", f"{name} is not finite float64", found=array.dtype, limit="float64")
        second = state["second_moment"].astype(np.float64)
        if (second < 0).any():
            raise InputError("RSD-8430", "second_moment is negative", found="below 0", limit="at least 0")
        self._momentum, self._second = state["momentum"].astype(np.float64), second

    def _fits(self, name: str, shape: tuple[int, ...]) -> None:
        if shape != self._momentum.shape:
            raise InputError(
                "RSD-8430", f"{name} has another size than FedAdam's state", found=shape, limit=self._momentum.shape
            )
