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
from functools import lru_cache

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
_TABLED = 4.5  # standard deviations whose thresholds are tabled; 7 words in 10^6 are beyond
_BLOCKED = 6.0  # ... whose thresholds are made again block by block; one word in 5 * 10^8 is beyond
_BLOCK = 256  # thresholds of a block
_BLOCKS = 32  # made again at a time: they stay in the cache
_GUIDES = (  # samples from which on a guide is worth its making, bits of a word that it looks up, looks at thresholds
    (1 << 20, 20, 1),
    (1 << 16, 17, 2),
)
_CHUNK = 1 << 14  # samples at a time: what is between words and samples stays in the cache; whole blocks
_HIGH, _LOW = 63, 40  # bits of the weights: in the first word, and in the second where the first does not decide
_TOP = 32  # of the 63 bits, the ones that the table holds
_MASK = np.uint64(2**_LOW - 1)
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

    What is kept does not touch the distribution: the first 32 bits of the thresholds, which decide for all but one word
    in 10^4, and where each block of thresholds starts, from which its 103 bits are made again.

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
        self._tops = np.empty(math.ceil(_TABLED * scale), np.uint32)
        blocks = range(0, math.ceil(_BLOCKED * scale), _CHUNK)
        self._starts = np.zeros((2, len(blocks) * _CHUNK // _BLOCK + 1), np.uint64)
        for at, part in zip(blocks, _thresholds(scale), strict=False):
            some = self._tops[at : at + _CHUNK]
            some[:] = part[0][: some.size] >> np.uint64(_HIGH - _TOP)
            first = at // _BLOCK + 1
            self._starts[:, first : first + _CHUNK // _BLOCK] = [bits[_BLOCK - 1 :: _BLOCK] for bits in part]
        self._guide: _Guide | None = None
        self.tv_error = _magnitudes_of(scale) * 2.0 ** -(_HIGH + _LOW) + _TAIL_MASS

    def sample(self, stream: Stream, count: int) -> Integers:
        """`count` independent samples, shape (count,), int64."""
        out = np.empty(count, np.int64)
        if self._guide is None:
            self._guide = next((_Guide(self._tops, bits, looks) for n, bits, looks in _GUIDES if count >= n), None)
        open_ = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
        for at in range(0, count, _CHUNK):
            words = stream.words(min(_CHUNK, count - at))
            magnitude, undecided = self._looked_up((words >> np.uint64(64 - _TOP)).astype(np.uint32))
            open_.append((undecided + at, words[undecided]))
            out[at : at + words.size] = _signed(magnitude, words)
        where, words = (np.concatenate(part) for part in zip(*open_, strict=True))
        out[where] = _signed(self._settled(words >> np.uint64(1), stream), words)
        return out

    def _looked_up(self, tops: npt.NDArray[np.uint32]) -> tuple[Integers, Integers]:
        """How many thresholds are at or below each word, by its first 32 bits; and at which places they do not decide.

        By search, or where the guide knows, by a look or two.
        """
        found = np.searchsorted(self._tops, tops, side="right") if self._guide is None else self._guide.find(tops)
        beyond, equal = found >= self._tops.size, self._tops.take(found - 1, mode="wrap") == tops
        return found, np.flatnonzero(beyond | equal)

    def _settled(self, high: Words, stream: Stream) -> Integers:
        """The magnitudes for 63-bit words, each from the thresholds of one block where those decide."""
        found = np.empty(high.size, np.int64)
        for at in range(0, high.size, _BLOCKS):
            found[at : at + _BLOCKS] = self._in_its_block(high[at : at + _BLOCKS])
        for i in np.flatnonzero(found < 0):
            found[i] = self._settle(int(high[i]), stream)
        return found

    def _in_its_block(self, high: Words) -> Integers:
        """The same; -1 where the word is a threshold, or beyond the last block."""
        block = np.searchsorted(self._starts[0], high, side="right") - 1
        first = block * _BLOCK
        whole, rest = _split(_masses(self._scale, first[:, None] + np.arange(_BLOCK)) * _unit(self._scale))
        start_high, start_low = self._starts[:, block, None]
        thresholds, _ = _carried(np.cumsum(whole, 1) + start_high, np.cumsum(rest, 1) + start_low)
        inside = (thresholds <= high[:, None]).sum(1)
        is_one = (start_high[:, 0] == high) | (thresholds == high[:, None]).any(1)
        return np.where(is_one | (inside == _BLOCK), -1, first + inside)

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


def _signed(magnitude: Integers, words: Words) -> Integers:
    """Negative where the word's last bit is 1."""
    sign = (words & np.uint64(1)).view(np.int64)
    return (magnitude ^ -sign) + sign


class _Guide:
    """For each first `bits` bits of a word, where its thresholds begin: a search in `looks` steps for most words."""

    def __init__(self, tops: npt.NDArray[np.uint32], bits: int, looks: int) -> None:
        self._tops, self._looks, self._shift = tops, looks, np.uint32(_TOP - bits)
        # thresholds below, and 1 bit, whether more than `looks` are inside
        self._below = np.empty(1 << bits, np.uint32)
        for at in range(0, self._below.size, _CHUNK):
            edges = np.arange(at, at + _CHUNK + 1, dtype=np.uint64) << np.uint64(self._shift)
            below = np.searchsorted(tops, np.minimum(edges, 2**_TOP - 1).astype(np.uint32), side="left")
            self._below[at : at + _CHUNK] = (below[:-1] << 1) | ((np.diff(below) > looks) | (below[:-1] == tops.size))
        self._below[-1] |= 1  # the last has no upper edge

    def find(self, words: npt.NDArray[np.uint32]) -> Integers:
        """How many thresholds are at or below each word."""
        entry = self._below.take(words >> self._shift)
        found = (entry >> 1).astype(np.int64)
        for _ in range(self._looks):
            found += self._tops.take(found, mode="clip") <= words
        many = np.flatnonzero(entry & 1)
        found[many] = np.searchsorted(self._tops, words[many], side="right")
        return found


def _magnitudes_of(scale: float) -> int:
    return math.ceil(TAIL * scale) + 1


def _thresholds(scale: float) -> Iterator[tuple[Words, Words]]:
    """The cumulated weights chunk by chunk, as (units of 2^-63, the 40 further bits)."""
    high, low = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    for whole, rest in _weights(scale):
        high, low = _carried(np.cumsum(whole) + high[-1], np.cumsum(rest) + low[-1])
        yield high, low


def _carried(high: Words, low: Words) -> tuple[Words, Words]:
    """What `low` holds beyond 40 bits, added to `high`. `low` is below 2^24 entries * 2^40."""
    return high + (low >> np.uint64(_LOW)), low & _MASK


def _weights(scale: float) -> Iterator[tuple[Words, Words]]:
    """The magnitudes' weights in units of 2^-103, as (units of 2^-63, the rest), together just below 2^103.

    Chunk by chunk: what is only on the way to the tables that stay takes no memory and leaves no holes.
    """
    unit = _unit(scale)
    for some in _chunks(scale):
        yield _split(_masses(scale, some) * unit)


def _split(mass: npt.NDArray[np.float64]) -> tuple[Words, Words]:
    """As (whole ones, units of 2^-40), rounded down."""
    floor = np.floor(mass)
    return floor.astype(np.uint64), np.floor((mass - floor) * 2.0**_LOW).astype(np.uint64)


@lru_cache(maxsize=2)
def _unit(scale: float) -> float:
    """What the masses are multiplied by, so that together they are just below 2^63."""
    return 2.0**_HIGH * (1 - 2.0**-40) / math.fsum(_masses(scale, some).sum() for some in _chunks(scale))


def _chunks(scale: float) -> Iterator[Integers]:
    """All magnitudes."""
    count = _magnitudes_of(scale)
    return (np.arange(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK))


def _masses(scale: float, magnitudes: Integers) -> npt.NDArray[np.float64]:
    """Their masses, not normed."""
    x2 = (magnitudes / scale) ** 2
    h2 = 1.0 / (scale * scale)
    mass: npt.NDArray[np.float64] = np.exp(-x2 / 2) * (1 + h2 * (x2 - 1) / 24 + h2 * h2 * (x2 * x2 - 6 * x2 + 3) / 1920)
    return mass * np.where(magnitudes == 0, 1.0, 2.0)


def tv_error_femto(sampler: RoundedGaussian, dimension: int, steps: int) -> int:
    """Total-variation error of a whole round, in 1e-15, rounded up: it adds over `dimension * steps` samples.

    A mechanism within total variation t of an (eps, delta)-private one is (eps, delta + (1 + e^eps) t)-private.
    """
    return math.ceil(sampler.tv_error * dimension * steps * 1e15)
