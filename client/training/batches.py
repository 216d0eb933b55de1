"""Are the batches of a round Poisson samples? By their sizes, by how these vary, and by what two batches share."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, gammaln, xlog1py, xlogy

from client.training.fingerprint import LEAST_BITS, Fingerprint, mask_bits

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_TRIED: Final = 81  # values of x in Chernoff's bound; each gives a bound, the best is taken


@dataclass
class Overlap:
    """How many units two steps that follow each other share: Binomial with q^2 if each step draws anew.

    Batches cut from a shuffled list, which share nothing, and batches drawn once and used again fail. Every unit is
    counted in disjoint pairs of steps (1 and 2, 3 and 4, ...), and again in the pairs between; two-sided. A batch drawn
    earlier in the round, however long ago, fails too, where chance would repeat one with probability below 2^-80.
    """

    q: float
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    _last: Mask | None = None
    _common: list[int] = field(default_factory=lambda: [0, 0])
    _tried: list[int] = field(default_factory=lambda: [0, 0])
    _steps: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _repeated: bool = False

    def add(self, mask: Mask) -> None:
        """The units drawn for one step, bool (units,)."""
        if self._last is not None:
            which = (self._steps - 1) % 2
            self._common[which] += int((mask & self._last).sum())
            self._tried[which] += mask.size
        self._last = mask
        self._steps += 1
        packed, bits = np.packbits(mask).tobytes(), mask_bits(mask.size, self.q)
        self.fingerprint.add(packed, bits)
        if bits >= LEAST_BITS:
            digest = hashlib.sha256(packed).digest()[:12]
            self._repeated |= digest in self._seen
            self._seen.add(digest)

    def plausible(self, alpha: float) -> bool:
        """False for honest steps with probability at most `alpha` (and 2^-80 for each pair of steps)."""
        pairs = zip(self._common, self._tried, strict=True)
        return not self._repeated and all(_binomial(c, n, self.q**2, alpha / 4) for c, n in pairs if n)


def sizes_plausible(sizes: list[int], units: int, q: float, alpha: float) -> bool:
    """Whether each size may be Binomial(units, q), and their total Binomial(units * steps, q); two-sided."""
    if any(size > units for size in sizes):
        return False
    each = alpha / 4 / max(1, len(sizes))
    return all(_binomial(s, units, q, each) for s in sizes) and _binomial(sum(sizes), units * len(sizes), q, alpha / 4)


def _binomial(k: int, n: int, q: float, alpha: float) -> bool:
    """Both tails P(X <= k) and P(X >= k) are at least `alpha`."""
    upper = 1.0 if k == 0 else float(bdtrc(k - 1, n, q))
    return min(float(bdtr(k, n, q)), upper) >= alpha


def sizes_vary(sizes: list[int], units: int, q: float, alpha: float) -> bool:
    """Whether the sizes differ as much as Binomial(units, q) does, neither less nor more.

    False by chance with probability at most `alpha`: alpha / 2 for steps all of one size (the sum of P(size)^steps),
    and alpha / 4 on each side for T, the squared distances from the mean size, by Chernoff: P(T <= t) is at most
    e^(x t) E[e^(-x D^2)]^steps for every x > 0, and in the same way above. Sizes with a tail below 1e-15 are left out
    of the expectation: `sizes_plausible` fails on them. Batches of one fixed size fail from the number of steps on at
    which all of them have it with probability alpha / 4: 8 steps if the size's standard deviation is 9, 6 if it is 25,
    5 if it is 50.
    """
    steps, spread = len(sizes), math.sqrt(units * q * (1 - q))
    if not steps or not spread:
        return True
    possible = np.arange(max(0, int(units * q - 12 * spread - 60)), min(units, int(units * q + 12 * spread + 60)) + 1)
    chance = np.exp(
        gammaln(units + 1) - gammaln(possible + 1) - gammaln(units - possible + 1)
        + xlogy(possible, q) + xlog1py(units - possible, -q)
    )  # fmt: skip
    if len(set(sizes)) == 1 and steps > 1 and float((chance**steps).sum()) < alpha / 2:
        return False
    centre = round(units * q)
    total = float(((np.array(sizes) - centre) ** 2).sum())
    kept = np.minimum(bdtr(possible, units, q), bdtrc(possible - 1, units, q)) >= 1e-15
    distance, chance = (possible[kept] - centre) ** 2.0, chance[kept]
    return all(_log_bound(sign, total, distance, chance, steps, spread) >= math.log(alpha / 4) for sign in (1, -1))


def _log_bound(sign: int, total: float, distance: Floats, chance: Floats, steps: int, spread: float) -> float:
    """Log of a bound on P(T <= total) (sign 1) or P(T >= total) (sign -1)."""
    best = 0.0
    for x in sign * np.geomspace(1e-3 / (2 * spread * spread), 40, _TRIED):
        weights = np.log(chance) - x * distance
        top = float(weights.max())
        best = min(best, x * total + steps * (top + math.log(float(np.exp(weights - top).sum()))))
    return best
