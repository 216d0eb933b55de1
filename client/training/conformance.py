"""Does the round do what the study claims? Cheap checks at the site; names and pass or fail leave, no figures.

Each check of a round is false by chance with probability at most 1e-9 / 1000 / 5, so that a study of up to 1000 rounds
is failed wrongly with probability at most 1e-9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, chdtr, chdtrc

from client.training.lattice import Lattice
from client.work import RoundSpec
from compliance.errors import RunFailed

if TYPE_CHECKING:
    from client.training.opacus_private import StepSeen

ALPHA = 1e-9 / 1000 / 5


@dataclass
class RoundCheck:
    """Collects what the steps of one round did and judges it against the claim `spec`."""

    spec: RoundSpec
    records: int
    lattice: Lattice
    _squares: float = 0.0
    _samples: int = 0
    _products: list[float] = field(default_factory=list)
    _previous: npt.NDArray[np.float64] | None = None
    _batches: list[int] = field(default_factory=list)
    _longest: float = 0.0
    _fresh: bool = False

    def saw_stream(self, mark: str, earlier: set[str]) -> None:
        """A stream's mark must not be among `earlier` marks, to which it is added."""
        self._fresh = mark not in earlier
        earlier.add(mark)

    def saw_step(self, step: StepSeen) -> None:
        """Take in one noisy step."""
        z = (step.noisy - step.clipped) / self.lattice.scale
        self._squares += float(z @ z)
        self._samples += z.size
        if self._previous is not None:
            self._products.append(float(z @ self._previous))
        self._previous = z
        self._batches.append(step.norms.size)
        self._longest = max(self._longest, float(step.norms.max(initial=0.0)))

    def verdict(self) -> dict[str, bool]:
        """All checks by name, all true. Raises RunFailed RSD-4500 naming those that failed."""
        q = self.spec.sample_numerator / self.spec.sample_denominator
        found = {
            "noise_variance": variance_plausible(self._squares, self._samples, ALPHA),
            "clip_norm": self._longest * self.lattice.gamma <= self.lattice.sensitivity,
            "batch_size": batches_plausible(self._batches, self.records, q, ALPHA)
            and len(self._batches) == self.spec.steps,
            "step_correlation": uncorrelated(self._products, self.lattice.dimension, ALPHA),
            "fresh_stream": self._fresh,
        }
        if failed := sorted(name for name, passed in found.items() if not passed):
            raise RunFailed(
                "RSD-4500", "the noise or the sampling of this round is not what the study claims",
                rule="conformance checks, false alarm below 1e-9 a study", found=", ".join(failed),
                limit="all checks pass", next="do not send the update; keep the log and report the software version",
            )  # fmt: skip
        return found


def variance_plausible(squares: float, count: int, alpha: float) -> bool:
    """Whether a sum of `count` squared standard normals may be `squares`: chi-square, two-sided."""
    return bool(min(chdtr(count, squares), chdtrc(count, squares)) >= alpha / 2)


def batches_plausible(sizes: list[int], records: int, q: float, alpha: float) -> bool:
    """Whether each size may be Binomial(records, q), and their total Binomial(records * steps, q); two-sided."""
    if any(size > records for size in sizes):
        return False
    each = alpha / 4 / max(1, len(sizes))
    return all(_binomial(s, records, q, each) for s in sizes) and _binomial(
        sum(sizes), records * len(sizes), q, alpha / 4
    )


def _binomial(k: int, n: int, q: float, alpha: float) -> bool:
    """Both tails P(X <= k) and P(X >= k) are at least `alpha`."""
    upper = 1.0 if k == 0 else float(bdtrc(k - 1, n, q))
    return min(float(bdtr(k, n, q)), upper) >= alpha


def uncorrelated(products: list[float], dimension: int, alpha: float) -> bool:
    """Whether the inner products of the noise of neighbouring steps are those of independent standard normals.

    Even and odd pairs are summed apart (independent terms each); a sum of k products of standard normals exceeds x
    with probability at most exp(-(t x + k/2 log(1 - t^2))) for every t in (0, 1) (Chernoff), here at its best t.
    """
    halves = (products[0::2], products[1::2])
    return all(_tail(abs(math.fsum(h)), dimension * len(h)) >= alpha / 4 for h in halves if h)


def _tail(x: float, k: int) -> float:
    t = (math.sqrt(k * k + 4 * x * x) - k) / (2 * x) if x else 0.0
    return math.exp(-(t * x + k / 2 * math.log1p(-t * t)))
