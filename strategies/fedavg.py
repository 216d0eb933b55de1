"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629) of flat updates with public integer weights.

The mean must not depend on the order in which updates arrive: after a crash the committed updates come again in
another order, and the model must be the identical one. So sums are exact integers. Every float32 is written as
hi * 2^-20 + lo * 2^-60 with int64 hi and lo, exactly for 2^-37 <= |x| <= 2^22 (24 significant bits end at 2^-60 or
above), and to within 2^-61 below. Integer sums commute; only the mean is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from compliance.errors import InputError, Refused
from strategies.flat import FLOAT32, Flat
from strategies.gate import check_update

State = dict[str, npt.NDArray[np.generic]]

LARGEST = 2.0**22  # |x| <= 2^22 and weights <= 2^20 in all keep |hi| <= 2^62 and |lo| <= 2^59
MAX_WEIGHT = 2**20
_HI, _LO = 2.0**20, 2.0**60
_BLOCK = 1 << 15  # float64 and int64 temporaries stay in the cache


class ServerRule(Protocol):
    """How the server moves the global model by the mean of the updates. Deterministic; state is plain arrays."""

    def apply(self, global_flat: Flat, mean_delta: Flat) -> Flat:
        """The next global model, a new float32[d]. The state moves on only if this returns."""

    def state(self) -> State:
        """Copies of the arrays that `restore` needs to continue bit for bit; empty for a stateless rule."""

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Continue from `state`. Raises InputError RSD-8430 if it is not a state of this rule."""


class FedAvg:
    """global + mean delta (server rate 1), rounded once to float32."""

    def apply(self, global_flat: Flat, mean_delta: Flat) -> Flat:
        """See `ServerRule`. Refused RSD-8422 for arrays that do not fit or are not finite."""
        check_pair(global_flat, mean_delta)
        flat = np.empty_like(global_flat)
        for part in blocks(flat.size):
            flat[part] = finite(global_flat[part].astype(np.float64) + mean_delta[part])
        return flat

    def state(self) -> State:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Accepts only the empty state."""
        require_keys(state, set())


@dataclass(frozen=True)
class Mean:
    """Weighted mean of the updates of `sites` (sorted): sum of w_i x_i over sum of w_i."""

    delta: Flat
    sites: tuple[str, ...]
    weight: int


class Accumulator:
    """Sums updates as they arrive, 16 bytes a parameter however many sites; the mean is the same in every order.

    One serves many rounds: `clear` begins the next in the same memory.

    `weights` maps every site that may contribute to its public weight, a positive integer (never the site's real
    record count); at most 2^20 in all. Raises InputError RSD-8420 otherwise.
    """

    def __init__(self, weights: Mapping[str, int], d: int) -> None:
        if d < 1 or not weights or min(weights.values()) < 1 or sum(weights.values()) > MAX_WEIGHT:
            raise InputError(
                "RSD-8420",
                "the public weights are out of range",
                found=f"{len(weights)} sites, sum {sum(weights.values())}, d {d}",
                limit=f"positive integers, sum at most {MAX_WEIGHT}, d at least 1",
            )
        self._weights = dict(weights)
        self._hi = np.zeros(d, np.int64)
        self._lo = np.zeros(d, np.int64)
        self._sites: set[str] = set()

    def clear(self) -> None:
        """Forget what was added."""
        self._hi.fill(0)
        self._lo.fill(0)
        self._sites.clear()

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that have contributed, sorted."""
        return tuple(sorted(self._sites))

    def add(self, site: str, delta: npt.NDArray[np.generic]) -> None:
        """Count the update of `site`, float32[d], once; `delta` is not kept.

        Refused: RSD-8421 for a site without a weight or a second update, RSD-8410..8412 by the gate, RSD-8413 for a
        value beyond 2^22. After a refusal nothing of the update was counted.
        """
        if site not in self._weights or site in self._sites:
            raise Refused(
                "RSD-8421",
                f"site {site} cannot contribute to this round",
                rule="each site of the study contributes once a round",
                found="a second update" if site in self._sites else "no public weight",
                limit="one update of a site of the study",
                next="keep the first update; drop this one",
            )
        flat = check_update(site, delta, self._hi.size)
        largest = max(float(flat.max()), -float(flat.min()))
        if largest > LARGEST:
            raise Refused(
                "RSD-8413",
                f"the update of site {site} is too large",
                rule="values beyond 2^22 cannot be summed exactly",
                found=f"{largest:.6g}",
                limit=LARGEST,
                next=f"record {site} as failed in the roster and tell its engineer",
            )
        weight = self._weights[site]
        for part in blocks(flat.size):
            rest = flat[part].astype(np.float64)
            digits = rest * _HI
            np.rint(digits, out=digits)
            self._hi[part] += digits.astype(np.int64) * weight
            digits /= _HI
            rest -= digits  # exact: both are multiples of x's last bit
            rest *= _LO
            np.rint(rest, out=rest)
            self._lo[part] += rest.astype(np.int64) * weight
        self._sites.add(site)

    def mean(self) -> Mean:
        """The mean of what was added so far, to within one unit in the last place of float32.

        Refused RSD-8423 if no site contributed; the quorum is the caller's rule.
        """
        if not self._sites:
            raise Refused("RSD-8423", "no site contributed to this round", found=0, limit=1, next="run the round again")
        weight = sum(self._weights[s] for s in self._sites)
        delta = np.empty(self._hi.size, FLOAT32)
        for part in blocks(delta.size):
            delta[part] = (self._hi[part] / _HI + self._lo[part] / _LO) / weight
        return Mean(delta, self.sites, weight)


def blocks(size: int) -> Iterator[slice]:
    """The parts of an array of `size` values, in order, each small enough for the cache."""
    return (slice(at, min(at + _BLOCK, size)) for at in range(0, size, _BLOCK))


def check_pair(global_flat: Flat, mean_delta: Flat) -> None:
    """Refused RSD-8422 unless both are float32[d] of one d."""
    if (
        global_flat.ndim != 1
        or global_flat.shape != mean_delta.shape
        or {global_flat.dtype, mean_delta.dtype} != {FLOAT32}
    ):
        raise Refused(
            "RSD-8422",
            "model and mean update do not fit each other",
            found=f"{global_flat.dtype}{list(global_flat.shape)} and {mean_delta.dtype}{list(mean_delta.shape)}",
            limit="float32[d] both",
        )


def finite(wide: npt.NDArray[np.float64]) -> Flat:
    """`wide` rounded to float32. Refused RSD-8422 if a value is not finite afterwards."""
    with np.errstate(over="ignore"):
        flat = wide.astype(FLOAT32)
    if not np.isfinite(flat).all():
        raise Refused(
            "RSD-8422",
            "the next global model is not finite",
            rule="no model with NaN or infinity is sent",
            found=f"{int((~np.isfinite(flat)).sum())} of {flat.size} values",
            limit="finite values",
            next="stop the run and look at the last round's updates",
        )
    return flat


def require_keys(state: Mapping[str, npt.NDArray[np.generic]], keys: set[str]) -> None:
    """InputError RSD-8430 unless `state` holds exactly `keys`."""
    if set(state) != keys:
        raise InputError("RSD-8430", "not a state of this server rule", found=sorted(state), limit=sorted(keys))
