"""Gaussian noise on a lattice: which step, which sensitivity, which error, and the sampler itself.

Every unit's clipped gradient is rounded to multiples of a public step gamma, the sum is taken in integers (exact, in
any order), and Z = round(N(0, S^2)) is added in integers, S = noise standard deviation / gamma. For an integer x,
x + round(y) = round(x + y): the released value is a rounding of the real Gaussian mechanism on the integer sum, so its
Gaussian accounting holds (post-processing), with the sensitivity of that sum. No floating-point addition of noise to
data ever happens (Mironov, CCS 2012, shows what that would leak).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.training.keystream import Stream, Words

Integers = npt.NDArray[np.int64]

STEPS_PER_CLIP = 1 << 16  # gamma = clip / 2^16 for sigma <= 1, and in proportion for more
# What a clipped length exceeds the clip by, relative, before it is rounded to the lattice. The squares of float32 are
# exact in float64 and their sum errs by d 2^-53 <= 2^-21, so the length by 2^-22, for d < 2^32; the factor is rounded
# down to float32; each product with it errs by 2^-24. Together below 2^-21.
FLOAT_SLACK = 2.0**-20
TAIL = 10.0  # standard deviations that the sampler's table covers
_TAIL_MASS = 1.6e-23  # P(|N(0,1)| > 10) < 1.53e-23
_KEPT = 6.0  # standard deviations whose thresholds are kept; one word in 5 * 10^8 is beyond
_GUIDE = 18  # bits of a word that the guide looks up
_GUIDED = 1 << 16  # samples from which on the guide is worth its making
_CHUNK = 1 << 14  # samples at a time: what is between words and samples stays in the cache
_HIGH, _LOW = 63, 40  # bits of the weights: in the first word, and in the second where the first does not decide
_REST = np.uint64(_HIGH - _GUIDE)
MIN_SIGMA, MAX_SIGMA = 0.1, 100.0


@dataclass(frozen=True)
class Lattice:
    """The public constants of the noise of one round.

    `gamma`: lattice step. `sensitivity`: L2 bound on what adding or removing one unit changes in the integer sum, times
    gamma. Of `dimension` coordinates, all but `summed` are rounded unit by unit: one unit moves each by its clipped
    value and at most gamma / 2. The `summed` ones (large linear layers, client/training/per_sample/summed.py) are
    rounded once, as a sum whose floating-point error is at most `sum_error` in length: at most gamma each, and twice
    the error. Hence clip * (1 + 2^-20) + gamma * sqrt((dimension - summed) / 4 + summed) + 2 * sum_error.
    `deviation`: standard deviation of the noise, noise multiplier * sensitivity, so that the multiplier stated in the
    privacy event is the true one. `scale` = deviation / gamma.
    """

    clip: float
    dimension: int
    sigma: float
    summed: int = 0
    sum_error: float = 0.0

    def __post_init__(self) -> None:
        if not (self.clip > 0 and math.isfinite(self.clip) and 1 <= self.dimension < 2**32):
            raise ValueError("clip must be positive and the dimension in [1, 2^32)")
        if not (0 <= self.summed <= self.dimension and 0 <= self.sum_error < math.inf):
            raise ValueError("the summed coordinates are part of the dimension, and their error is finite")
        if not MIN_SIGMA <= self.sigma <= MAX_SIGMA:
            raise ValueError(f"the noise multiplier must lie in [{MIN_SIGMA}, {MAX_SIGMA}]")

    @property
    def gamma(self) -> float:
        """Clip over 2^16, times the power of two at or above sigma if sigma > 1: `scale` stays near 2^15 to 2^16."""
        return self.clip * 2.0 ** max(0, math.ceil(math.log2(self.sigma))) / STEPS_PER_CLIP

    @property
    def sensitivity(self) -> float:
        """See the class."""
        rounding = math.sqrt((self.dimension - self.summed) / 4 + self.summed)
        return self.clip * (1 + FLOAT_SLACK) + self.gamma * rounding + 2 * self.sum_error

    @property
    def deviation(self) -> float:
        """See the class."""
        return self.sigma * self.sensitivity

    @property
    def scale(self) -> float:
        """Standard deviation in lattice steps, at least 6,553."""
        return self.deviation / self.gamma


class RoundedGaussian:
    """Samples Z = round(N(0, scale^2)) by inverting a table of its distribution, one 64-bit word a sample.

    One bit of a word is the sign; 63 bits w choose the magnitude m among the cumulated integer weights, which have 40
    further bits: only when w equals a threshold does a second word decide, and a w above the last one is drawn again.
    The weight of m is proportional to (2 for m > 0) * phi(x) * (1 + h^2 (x^2 - 1)/24 + h^4 (x^4 - 6 x^2 + 3)/1920),
    x = m/S, h = 1/S: the integral of the normal density over [m - 1/2, m + 1/2] by its Taylor series; for S >= 2^12
    and x <= 10 the next term is below 2^-60 relative.

    Error, in two parts. Pointwise: every probability is within a factor e^(+-rho), rho < 2^-44 = `ratio_error`
    (float64 exp of an argument below 51 whose relative error is below 2^-51); over N samples that turns (eps, delta)
    into at most (eps + 2 N rho, e^(N rho) delta). Each stated eps holds 250e-6 for it, and a site refuses a study with
    more draws (client/budget.py). Total variation, which is added to delta, `tv_error`: the tail beyond 10 standard
    deviations and K weights rounded down to 2^-103.
    """

    ratio_error = 2.0**-44

    def __init__(self, scale: float) -> None:
        if scale < 2**12:
            raise ValueError("the table's series needs a scale of at least 4096 lattice steps")
        self._scale = scale
        self._high = np.empty(math.ceil(_KEPT * scale / _CHUNK) * _CHUNK, np.uint64)
        for at, (high, _) in zip(range(0, self._high.size, _CHUNK), _thresholds(scale), strict=False):
            self._high[at : at + _CHUNK] = high
        self._guide: npt.NDArray[np.uint32] | None = None
        self.tv_error = _magnitudes_of(scale) * 2.0 ** -(_HIGH + _LOW) + _TAIL_MASS

    def sample(self, stream: Stream, count: int) -> Integers:
        """`count` independent samples, shape (count,), int64."""
        out = np.empty(count, np.int64)
        if self._guide is None and count >= _GUIDED and self._high.size < 1 << 31:
            self._guide = _guide(self._high)
        for at in range(0, count, _CHUNK):
            words = stream.words(min(_CHUNK, count - at))
            magnitude = self._magnitudes(words >> np.uint64(1), stream)
            sign = (words & np.uint64(1)).view(np.int64)
            out[at : at + words.size] = (magnitude ^ -sign) + sign
        return out

    def _magnitudes(self, high: Words, stream: Stream) -> Integers:
        """How many thresholds are at or below each 63-bit word; by search, or where the guide knows, by one look."""
        if self._guide is None:
            found = np.searchsorted(self._high, high, side="right")
        else:
            entry = self._guide.take((high >> _REST).view(np.int64))
            found = (entry >> 1).astype(np.int64)
            found += self._high.take(found, mode="clip") <= high
            many = np.flatnonzero(entry & 1)
            found[many] = np.searchsorted(self._high, high[many], side="right")
        # Seldom: w is a threshold, or beyond the last one that is kept.
        for i in np.flatnonzero((found == self._high.size) | (self._high.take(found - 1, mode="wrap") == high)):
            found[i] = self._settle(int(high[i]), stream)
        return found

    def _settle(self, high: int, stream: Stream) -> int:
        """The magnitude when 63 bits do not decide: 40 more bits, and again from the start beyond the last weight."""
        thresholds, further = (np.concatenate(part) for part in zip(*_thresholds(self._scale), strict=True))
        found = int(np.searchsorted(thresholds, np.uint64(high), side="right"))
        if found < thresholds.size and int(thresholds[found - 1]) != high:
            return found
        while True:
            low = int(stream.words(1)[0]) >> (64 - _LOW)
            first = int(np.searchsorted(thresholds, np.uint64(high), side="left"))
            while first < thresholds.size and (int(thresholds[first]), int(further[first])) <= (high, low):
                first += 1
            if first < thresholds.size:
                return first
            high = int(stream.words(1)[0]) >> 1


def _guide(thresholds: Words) -> npt.NDArray[np.uint32]:
    """For each first 18 bits of a 63-bit word: how many thresholds are below, and 1 bit, whether more than one is
    inside."""
    found = np.empty(1 << _GUIDE, np.uint32)
    for at in range(0, found.size, _CHUNK):
        edges = np.arange(at, at + _CHUNK + 1, dtype=np.uint64) << _REST
        below = np.searchsorted(thresholds, edges, side="left")
        found[at : at + _CHUNK] = (below[:-1] << 1) | (np.diff(below) > 1)
    return found


def _magnitudes_of(scale: float) -> int:
    return math.ceil(TAIL * scale) + 1


def _thresholds(scale: float) -> Iterator[tuple[Words, Words]]:
    """The cumulated weights chunk by chunk, as (units of 2^-63, the 40 further bits)."""
    high, low = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    for whole, rest in _weights(scale):
        high = np.cumsum(whole) + high[-1]
        low = np.cumsum(rest) + low[-1]  # below 2^23 entries * 2^40
        yield high + (low >> np.uint64(_LOW)), low & np.uint64(2**_LOW - 1)


def _weights(scale: float) -> Iterator[tuple[Words, Words]]:
    """The magnitudes' weights in units of 2^-103, as (units of 2^-63, the rest), together just below 2^103.

    Chunk by chunk: what is only on the way to the tables that stay takes no memory and leaves no holes.
    """
    count = _magnitudes_of(scale)
    starts = range(0, count, _CHUNK)
    unit = 2.0**_HIGH * (1 - 2.0**-40) / math.fsum(_masses(scale, at, count).sum() for at in starts)
    for at in starts:
        mass = _masses(scale, at, count) * unit
        floor = np.floor(mass)
        yield floor.astype(np.uint64), np.floor((mass - floor) * 2.0**_LOW).astype(np.uint64)


def _masses(scale: float, start: int, count: int) -> npt.NDArray[np.float64]:
    """The masses, not normed, of the magnitudes from `start` on, a chunk of those below `count`."""
    x2 = (np.arange(start, min(start + _CHUNK, count), dtype=np.float64) / scale) ** 2
    h2 = 1.0 / (scale * scale)
    mass: npt.NDArray[np.float64] = np.exp(-x2 / 2) * (1 + h2 * (x2 - 1) / 24 + h2 * h2 * (x2 * x2 - 6 * x2 + 3) / 1920)
    mass[(1 if start == 0 else 0) :] *= 2
    return mass


def tv_error_femto(sampler: RoundedGaussian, dimension: int, steps: int) -> int:
    """Total-variation error of a whole round, in 1e-15, rounded up: it adds over `dimension * steps` samples.

    A mechanism within total variation t of an (eps, delta)-private one is (eps, delta + (1 + e^eps) t)-private.
    """
    return math.ceil(sampler.tv_error * dimension * steps * 1e15)
