"""Is the noise of a round drawn anew, for every step and every coordinate? From a public sample of its coordinates."""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from client.training.fingerprint import LEAST_BITS, Fingerprint, noise_bits

Floats = npt.NDArray[np.float64]
_COORDINATES: Final = 1 << 12  # of a step that is looked at closely
_CLOSELY: Final = 32  # such steps, spread over the round
_WINDOWS: Final = 24  # so many equal parts begin with a window: halves, thirds, quarters, sixths, eighths lie alike
_WIDTH: Final = _COORDINATES // 2 // _WINDOWS
_KEPT: Final = 1 << 16  # numbers kept over all steps
_FIRST: Final = 8  # coordinates that make the fingerprint


class KeptNoise:
    """Some coordinates of every step's noise, on the device until they are judged; at most 768 KiB.

    Which ones follows from the dimension and the number of steps: all up to 4,096. Beyond, windows at the 24ths of the
    vector, then coordinates scattered by a hash.
    """

    def __init__(self, dimension: int, steps: int, scale: float, device: torch.device) -> None:
        """`scale`: the noise's standard deviation."""
        self._scale, self._steps = scale, 0
        wide, self._aligned = coordinates(dimension)
        few = np.unique(wide)[:: max(1, wide.size * steps // _KEPT)][: max(0, _KEPT // steps - _FIRST)]
        few = np.unique(np.concatenate([np.arange(min(_FIRST, dimension)), few]))
        self._every = -(-steps // _CLOSELY)
        self._which = [torch.from_numpy(some).to(device) for some in (few, wide)]
        sizes = ((steps, few.size), (-(-steps // self._every), wide.size))
        self._rows = [torch.zeros(size, dtype=torch.float32, device=device) for size in sizes]

    def add(self, noise: torch.Tensor) -> None:
        """One step's noise, (d,), integers below 2^24; without waiting for the device."""
        few, wide = self._rows
        step = self._steps % len(few)
        few[step] = noise.index_select(0, self._which[0]).float()
        if step % self._every == 0:
            wide[step // self._every] = noise.index_select(0, self._which[1]).float()
        self._steps += 1

    def fingerprint(self) -> Fingerprint:
        """Of the first coordinates, step by step."""
        made, bits = Fingerprint(), noise_bits(1, self._scale)
        for row in self._rows[0][:, :_FIRST].cpu().numpy().astype(np.int64):
            made.add(row.tobytes(), row.size * bits)
        return made

    def steps_differ(self, alpha: float) -> bool:
        """See `uncorrelated_steps`; and no step's values are those of another, if 2^-80 or less would make them so."""
        rows = self._normal(0)
        long = noise_bits(rows.shape[1], self._scale) >= LEAST_BITS
        repeated = long and len({row.tobytes() for row in rows}) < len(rows)
        return not repeated and uncorrelated_steps(rows, alpha)

    def coordinates_differ(self, alpha: float) -> bool:
        """See `uncorrelated_inside` and `few_repeats`."""
        rows = self._normal(1)
        return uncorrelated_inside(rows[:, : self._aligned], alpha / 2) and few_repeats(rows, self._scale, alpha / 2)

    def _normal(self, which: int) -> Floats:
        return self._rows[which].cpu().numpy().astype(np.float64) / self._scale


def coordinates(dimension: int) -> tuple[npt.NDArray[np.int64], int]:
    """Which coordinates of a step are looked at, and how many of them, from the first on, lie alike in equal parts."""
    if dimension <= _COORDINATES:
        return np.arange(dimension), dimension
    starts = np.arange(_WINDOWS) * dimension // _WINDOWS
    aligned = (starts[:, None] + np.arange(_WIDTH)).ravel()
    scattered = np.frombuffer(hashlib.shake_128(b"coordinates").digest(8 * 2 * _COORDINATES), "<u8") % dimension
    rest = np.setdiff1d(scattered.astype(np.int64), aligned)
    kept = rest[:: max(1, rest.size // (_COORDINATES - aligned.size))][: _COORDINATES - aligned.size]
    return np.concatenate([aligned, kept]), aligned.size


def uncorrelated_steps(rows: Floats, alpha: float) -> bool:
    """Whether the noise of each step, standard normals (steps, k), is independent of every earlier step's.

    Judged for each pair of steps, and for each distance between steps over all pairs at that distance.
    """
    steps, k = rows.shape
    if steps < 2:
        return True
    by_lag, largest = np.zeros(steps - 1), 0.0
    for t in range(steps - 1):
        products = rows[t + 1 :] @ rows[t]
        by_lag[: products.size] += products
        largest = max(largest, float(np.abs(products).max()))
    counts = k * np.arange(steps - 1, 0, -1.0)
    single = _log_tail(np.array([largest]), np.array([float(k)])) >= math.log(alpha / 2 / steps / (steps - 1))
    pooled = _log_tail_of_chains(by_lag, counts) >= math.log(alpha / 4 / (steps - 1))
    return bool(single.all() and pooled.all())


def uncorrelated_inside(rows: Floats, alpha: float) -> bool:
    """Whether neighbours at any distance within a step, standard normals (steps, k), are independent."""
    k = rows.shape[1]
    if k < 2:
        return True
    size = 1 << (2 * k - 1).bit_length()
    power = np.zeros(size // 2 + 1)
    for row in rows:
        power += np.abs(np.fft.rfft(row, size)) ** 2
    by_lag = np.fft.irfft(power, size)[1:k]
    counts = len(rows) * np.arange(k - 1, 0, -1.0)
    return bool((_log_tail_of_chains(by_lag, counts) >= math.log(alpha / 2 / (k - 1))).all())


def few_repeats(rows: Floats, scale: float, alpha: float) -> bool:
    """Whether no more values of a step occur in it before than rounded normals of deviation `scale` repeat by chance.

    Wherever the repeated coordinates lie. Given the i - 1 values before, value i is one of them with probability at
    most (i - 1) / (sqrt(2 pi) scale); so the number of repetitions exceeds r with probability at most that of Chernoff
    for a Poisson variable with the sum of these as its mean.
    """
    k = rows.shape[1]
    found = int((np.diff(np.sort(rows, axis=1), axis=1) == 0).sum())
    mean = len(rows) * k * (k - 1) / 2 / (math.sqrt(2 * math.pi) * scale)
    return bool(found <= mean or found - mean + found * math.log(mean / found) >= math.log(alpha))


def _log_tail(x: Floats, k: Floats) -> Floats:
    """Log of a bound on the probability that a sum of k products of independent standard normals exceeds |x|.

    exp(-(t x + k/2 log(1 - t^2))) for every t in (0, 1) (Chernoff), here at its best t.
    """
    x = np.abs(x)
    t = 2 * x / (k + np.sqrt(k * k + 4 * x * x))
    found: Floats = -(t * x + k / 2 * np.log1p(-t * t))
    return found


def _log_tail_of_chains(x: Floats, n: Floats) -> Floats:
    """The same for n products in which no normal occurs more than twice, such as z_i z_(i + lag) for all i.

    Their sum is z' M z with eigenvalues in [-1, 1], symmetric about 0, whose squares sum to n / 2. Hence log E[e^(u
    sum)] = -1/2 sum over the positive ones of log(1 - 4 u^2 m^2) <= -(n / 8) log(1 - 4 u^2) (convex in m^2), which with
    t = 2 u is the bound of `_log_tail` for half of x and a quarter of n.
    """
    return _log_tail(x / 2, n / 4)
