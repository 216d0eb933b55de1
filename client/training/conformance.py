"""Does the round do what the study claims? Cheap checks at the site; names and pass or fail leave, no figures.

An honest round is failed with probability at most 1e-9. Of it `noise_variance`, `batch_size`, `batch_overlap`,
`step_correlation` and `noise_repetition` may use 1e-10 each and `batch_variation` 4e-10; the rest is for equal
fingerprints, 2^-80 a pair. `clip_norm`, `release`, `record_independence` and `sum_error` are false only where the code
is wrong. That the noise is rounded (to less than 2^-12 of its deviation) is left out of account.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import chdtr, chdtrc

from client.training.batches import Overlap, sizes_plausible, sizes_vary
from client.training.lattice import Lattice
from client.training.released import Released
from client.training.repetition import KeptNoise
from client.verdict import passed
from client.work import RoundSpec

if TYPE_CHECKING:
    from client.training.opacus_private import StepSeen

_BLOCK = 1 << 16
ALPHA = 1e-10


class RoundCheck:
    """Collects what the steps of one round did and judges it against the claim `spec`.

    `units`: how many records or patients there are. `independent`: see per_sample/probe.py. `released` follows the
    parameters. Figures stay on the device until `verdict`.
    """

    def __init__(
        self,
        spec: RoundSpec,
        units: int,
        lattice: Lattice,
        independent: torch.Tensor,
        released: Released,
        sum_allowance: float = 0.0,
    ) -> None:
        self.released = released
        self._spec, self._units, self._lattice, self._allowance = spec, units, lattice, sum_allowance
        self._independent, self._q = independent, spec.sample_numerator / spec.sample_denominator
        self._squares: list[torch.Tensor] = []
        self._drawn: list[int] = []
        self._batches: list[int] = []
        self._longest: list[torch.Tensor] = []
        self._errors: list[torch.Tensor] = []
        self._overlap = Overlap(self._q)
        self._kept = KeptNoise(lattice.dimension, spec.steps, lattice.scale, released.device)

    def saw_mask(self, mask: npt.NDArray[np.bool_]) -> None:
        """The units drawn for one step, bool (units,)."""
        self._overlap.add(mask)
        self._drawn.append(int(mask.sum()))

    def saw_step(self, step: StepSeen) -> None:
        """Take in one noisy step, without waiting for the device."""
        self.released.noised(step.noisy)
        z = step.noisy - step.clipped
        self._kept.add(z)
        self._squares.append(_squared(z))
        self._batches.append(step.norms.numel())
        self._longest.append(step.norms.amax() if step.norms.numel() else step.norms.sum())
        self._errors.append(step.sum_error)

    def marks(self) -> dict[str, tuple[str, ...]]:
        """Fingerprints of the noise and of the batches, by the check that compares them with those of other rounds."""
        return {"fresh_noise": self._kept.fingerprint().marks, "fresh_sampling": self._overlap.fingerprint.marks}

    def verdict(self) -> dict[str, bool]:
        """All checks by name, all true. Raises RunFailed RSD-4500 naming those that failed."""
        lattice, steps, kept = self._lattice, len(self._squares), self._kept
        squares = math.fsum(_numbers(self._squares)) / lattice.scale**2
        found = {
            "noise_variance": variance_plausible(squares, steps * lattice.dimension, ALPHA),
            "clip_norm": max(_numbers(self._longest), default=0.0) * lattice.gamma <= lattice.sensitivity,
            "batch_size": self._batches == self._drawn
            and steps == self._spec.steps
            and sizes_plausible(self._batches, self._units, self._q, ALPHA),
            "batch_variation": sizes_vary(self._batches, self._units, self._q, 4 * ALPHA),
            "batch_overlap": self._overlap.plausible(ALPHA),
            "step_correlation": kept.steps_differ(ALPHA),
            "noise_repetition": kept.coordinates_differ(ALPHA),
            "release": self.released.as_seen(),
            "record_independence": bool(self._independent),
            "sum_error": max(_numbers(self._errors), default=0.0) <= self._allowance,
        }
        return passed(found, "round")


def _squared(z: torch.Tensor) -> torch.Tensor:
    """float64 scalar: sum of the squares of int64 (d,); on a CPU by blocks that stay in its cache."""
    width = _BLOCK if z.device.type == "cpu" else max(1, len(z))
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    for part in torch.split(z, width):
        some = part.double()
        total += some @ some
    return total


def _numbers(scalars: list[torch.Tensor]) -> list[float]:
    """Scalars on the device, as floats, fetched at once."""
    return [float(x) for x in torch.stack(scalars).tolist()] if scalars else []


def variance_plausible(squares: float, count: int, alpha: float) -> bool:
    """Whether a sum of `count` squared standard normals may be `squares`: chi-square, two-sided."""
    return bool(min(chdtr(count, squares), chdtrc(count, squares)) >= alpha / 2)
