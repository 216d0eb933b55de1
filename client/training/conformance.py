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
import torch
from scipy.special import bdtr, bdtrc, chdtr, chdtrc

from client.training.lattice import Lattice
from client.work import RoundSpec
from compliance.errors import RunFailed

if TYPE_CHECKING:
    from client.training.opacus_private import StepSeen

ALPHA = 1e-9 / 1000 / 5  # four checks are statistical; the others are false only where the code is wrong


@dataclass
class RoundCheck:
    """Collects what the steps of one round did and judges it against the claim `spec`.

    `units`: how many records or patients there are. `independent`: see per_sample/probe.py. Figures stay on the device
    until `verdict`.
    """

    spec: RoundSpec
    units: int
    lattice: Lattice
    independent: torch.Tensor
    sum_allowance: float = 0.0
    _squares: list[torch.Tensor] = field(default_factory=list)
    _products: list[torch.Tensor] = field(default_factory=list)
    _previous: torch.Tensor | None = None
    _batches: list[int] = field(default_factory=list)
    _longest: list[torch.Tensor] = field(default_factory=list)
    _errors: list[torch.Tensor] = field(default_factory=list)
    _masks: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _fresh: bool = False

    def saw_stream(self, mark: str, earlier: set[str]) -> None:
        """A stream's mark must not be among `earlier` marks, to which it is added."""
        self._fresh = mark not in earlier
        earlier.add(mark)

    def saw_mask(self, mask: npt.NDArray[np.bool_]) -> None:
        """The units drawn for one step, bool (units,)."""
        self._masks.append(mask)

    def saw_step(self, step: StepSeen) -> None:
        """Take in one noisy step, without waiting for the device."""
        z = step.noisy.double().sub_(step.clipped)
        self._squares.append(z @ z)
        if self._previous is not None:
            self._products.append(z @ self._previous.double())
        self._previous = z.float()  # exact: an integer below 2^24
        self._batches.append(step.norms.numel())
        self._longest.append(step.norms.amax() if step.norms.numel() else step.norms.sum())
        self._errors.append(step.sum_error)

    def verdict(self) -> dict[str, bool]:
        """All checks by name, all true. Raises RunFailed RSD-4500 naming those that failed."""
        q = self.spec.sample_numerator / self.spec.sample_denominator
        variance = self.lattice.scale**2
        steps, squares = len(self._squares), math.fsum(_numbers(self._squares)) / variance
        products = [p / variance for p in _numbers(self._products)]
        found = {
            "noise_variance": variance_plausible(squares, steps * self.lattice.dimension, ALPHA),
            "clip_norm": max(_numbers(self._longest), default=0.0) * self.lattice.gamma <= self.lattice.sensitivity,
            "batch_size": batches_plausible(self._batches, self.units, q, ALPHA) and steps == self.spec.steps,
            "batch_overlap": overlaps_plausible(self._masks, q, ALPHA),
            "step_correlation": uncorrelated(products, self.lattice.dimension, ALPHA),
            "fresh_stream": self._fresh,
            "record_independence": bool(self.independent),
            "sum_error": max(_numbers(self._errors), default=0.0) <= self.sum_allowance,
        }
        if failed := sorted(name for name, passed in found.items() if not passed):
            raise RunFailed(
                "RSD-4500", "the noise or the sampling of this round is not what the study claims",
                rule="conformance checks, false alarm below 1e-9 a study", found=", ".join(failed),
                limit="all checks pass", next="do not send the update; keep the log and report the software version",
            )  # fmt: skip
        return found


def _numbers(scalars: list[torch.Tensor]) -> list[float]:
    """Scalars on the device, as floats, fetched at once."""
    return [float(x) for x in torch.stack(scalars).tolist()] if scalars else []


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


def overlaps_plausible(masks: list[npt.NDArray[np.bool_]], q: float, alpha: float) -> bool:
    """Whether as many units are in two steps that follow each other as when each step draws anew: Binomial with q^2.

    Batches cut from a shuffled list, which hold nothing in common, and batches drawn once and used again fail. Every
    unit is counted in disjoint pairs of steps (1 and 2, 3 and 4, ...), and again in the pairs between; two-sided.
    """
    for first in (0, 1):
        pairs = list(zip(masks[first::2], masks[first + 1 :: 2], strict=False))
        common, tried = sum(int((a & b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)
        if pairs and not _binomial(common, tried, q * q, alpha / 4):
            return False
    return True


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
