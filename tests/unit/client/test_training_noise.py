"""Keystream, Poisson masks and the rounded Gaussian."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import chdtrc, log_ndtr, ndtr

from client.training.keystream import Keystream, poisson_mask
from client.training.lattice import (
    _BLOCK,
    _GUIDES,
    FLOAT_SLACK,
    TAIL,
    Lattice,
    RoundedGaussian,
    _Guide,
    _thresholds,
    _weights,
    tv_error_femto,
)
from tests.tiny_bert import SeededStream


class GivenWords:
    """A stream of words that the test chose."""

    mark = "given"

    def __init__(self, *words):
        self._left = list(words)

    def words(self, count):
        taken, self._left = self._left[:count], self._left[count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.uint64)


def test_no_two_streams_share_their_first_64_bytes():
    streams = [Keystream.fresh() for _ in range(500)]
    assert len({s.mark for s in streams}) == 500
    assert len({s.words(8).tobytes() for s in streams}) == 500


def test_a_stream_goes_on_and_does_not_repeat():
    stream = Keystream.fresh()
    words = np.concatenate([stream.words(n) for n in (1, 3, 1000, 1 << 17)])
    assert words.dtype == np.uint64
    assert np.unique(words).size == words.size
    ones = np.unpackbits(words.view(np.uint8)).sum()
    bits = words.size * 64
    assert abs(ones - bits / 2) < 7 * math.sqrt(bits / 4)


def test_sampling_is_exact_at_the_borders():
    # 2^64 = 16 mod 48: the 16 words from 2^64 - 16 on are drawn again.
    q = {"numerator": 5, "denominator": 48}
    assert poisson_mask(GivenWords(4, 5, 48, 52, 53), 5, **q).tolist() == [True, False, True, True, False]
    again = GivenWords(2**64 - 16, 0, 2**64 - 1, 2**64 - 17, 3, 7)
    assert poisson_mask(again, 4, **q).tolist() == [True, True, False, False]
    assert (2**64 - 17) % 48 == 47
    assert poisson_mask(GivenWords(2**64 - 1, 2**64 - 2, 2**64 - 3, 4), 1, **q).all(), "drawn again until one is below"
    assert poisson_mask(GivenWords(2**64 - 1, 0), 2, 1, 1).all()


def test_every_residue_is_equally_likely():
    """Counted, not sampled: accepted words of each residue are the same number, so q is numerator / denominator."""
    for denominator in (3, 5, 48, 255, 2400, 10**9 + 7):
        last = 2**64 - 2**64 % denominator - 1
        assert (last + 1) % denominator == 0
        assert Fraction((last + 1) // denominator * 2, last + 1) == Fraction(2, denominator)


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 5), (6, 5), (1, 2**63)])
def test_impossible_rates_are_refused(numerator, denominator):
    with pytest.raises(ValueError, match="sampling rate"):
        poisson_mask(SeededStream(1), 3, numerator, denominator)


@pytest.mark.parametrize("scale", [4096.0, 6553.7, 65536.0])
def test_the_table_is_the_rounded_gaussian(scale):
    high, low = (np.concatenate(part) for part in zip(*_weights(scale), strict=True))
    weights = high.astype(np.float64) + low / 2.0**40
    probabilities = weights / weights.sum()
    m = np.arange(weights.size)
    # float64 differences of the normal distribution lose digits near 0: compare at the precision that they have
    exact = np.where(m == 0, 1, 2) * (ndtr(-(m - 0.5) / scale) - ndtr(-(m + 0.5) / scale))
    assert np.abs(probabilities - exact).max() < 1e-15
    tail = np.array([1, 3, 5, 7, 9]) * int(scale)
    upper = log_ndtr(-(tail - 0.5) / scale)
    reference = upper + np.log(-np.expm1(log_ndtr(-(tail + 0.5) / scale) - upper)) + math.log(2)
    assert np.abs(np.log(probabilities[tail]) - reference).max() < 1e-8
    assert int(high.sum()) < 2**63


def test_the_series_has_the_next_term_that_the_docstring_states():
    x, h = 10.0, 2.0**-12
    hermite6 = x**6 - 15 * x**4 + 45 * x**2 - 15
    assert h**6 / 322_560 * hermite6 < 2**-60


def test_samples_pass_a_chi_square_test():
    scale, count = 5000.0, 400_000
    z = RoundedGaussian(scale).sample(Keystream.fresh(), count)
    edges = np.linspace(-4, 4, 201)
    seen, _ = np.histogram(z, bins=np.concatenate([[-np.inf], edges * scale, [np.inf]]))
    below = ndtr(edges)  # an edge is never a half-integer boundary closer than 1/5000 deviation: negligible
    expected = np.diff(np.concatenate([[0], below, [1]])) * count
    assert chdtrc(seen.size - 1, ((seen - expected) ** 2 / expected).sum()) > 1e-7
    assert abs((z > 0).sum() - (z < 0).sum()) < 7 * math.sqrt(count)
    assert z.dtype == np.int64


def test_a_word_on_a_threshold_is_settled_by_a_second_word():
    sampler = RoundedGaussian(4096.0)
    threshold, rest = (int(bits[5]) for bits in next(_thresholds(4096.0)))
    assert rest > 0
    below, above = (rest - 1) << 24, rest << 24
    assert sampler.sample(GivenWords(threshold << 1, below), 1).tolist() == [5]
    assert sampler.sample(GivenWords(threshold << 1, above), 1).tolist() == [6]
    assert sampler.sample(GivenWords(threshold << 1 | 1, above), 1).tolist() == [-6]
    assert sampler.sample(GivenWords((threshold - 1) << 1), 1).tolist() == [5]
    assert sampler.sample(GivenWords((threshold + 1) << 1), 1).tolist() == [6]


def test_a_word_beyond_the_last_weight_is_drawn_again():
    sampler = RoundedGaussian(4096.0)
    last = 2**64 - 2
    assert sampler.sample(GivenWords(last, 0, 8, 0), 1).tolist() == [0]


@pytest.mark.parametrize("guide", [None, *(bits_looks for _, *bits_looks in _GUIDES)])
def test_a_word_beside_any_threshold_needs_no_further_word(guide):
    """Where its first bits do not decide, at the borders of blocks, beyond the table and beyond all blocks."""
    scale = 4096.0
    sampler = RoundedGaussian(scale)
    if guide:
        sampler._guide = _Guide(sampler._tops, *guide)
    every = np.concatenate([high for high, _ in _thresholds(scale)])
    assert every.size == TAIL * scale + 1 > sampler._starts.shape[1] * _BLOCK > sampler._tops.size
    assert (every[: sampler._tops.size] >> np.uint64(31) == sampler._tops).all()
    m = np.array(
        [1, 2, 255, 256, 257, 3000, 9000, sampler._tops.size - 1, sampler._tops.size, 24_576, 7 * 4096, 33_100]
    )
    m = np.concatenate([m, np.arange(16_000, 18_500)])
    below, above = every[m - 1] + np.uint64(1), every[m] - np.uint64(1)
    assert (below < above).all()
    words = np.concatenate([below << np.uint64(1), above << np.uint64(1) | np.uint64(1)])
    assert sampler.sample(GivenWords(*words.tolist()), words.size).tolist() == [*m.tolist(), *(-m).tolist()]


def test_a_block_is_made_again_as_the_whole_table_was():
    """Bit by bit, at the borders of every block: the sums go on where the block before ends."""
    scale = 65_728.3
    sampler = RoundedGaussian(scale)
    every = np.concatenate([high for high, _ in _thresholds(scale)])
    m = np.arange(1, 6 * 65_728, 61)
    assert (sampler._settled(every[m] - np.uint64(1), GivenWords()) == m).all()
    assert (sampler._settled(every[m] + np.uint64(1), GivenWords()) == m + 1).all()
    assert (sampler._in_its_block(every[m]) == -1).all(), "a threshold itself is for the second word"


def test_the_tables_take_little_memory():
    """Counted against the benchmark's bound on memory: at the largest scale that there is."""
    sampler = RoundedGaussian(70_000.0)
    sampler.sample(Keystream.fresh(), 1 << 16)
    assert sampler._tops.nbytes + sampler._guide._below.nbytes + sampler._starts.nbytes <= 7 << 18


@pytest.mark.parametrize(("count", "bits", "looks"), _GUIDES)
def test_a_guide_finds_what_a_search_finds(count, bits, looks):
    """Also for the first and the last words, and at every threshold."""
    sampler = RoundedGaussian(41_234.5)
    sampler.sample(Keystream.fresh(), count)
    assert sampler._guide._below.size == 1 << bits
    ends = np.array([0, 1, 2**32 - 2, 2**32 - 1], np.uint32)
    words = np.concatenate([ends, sampler._tops, sampler._tops - np.uint32(1), np.arange(0, 2**32, 4099, np.uint32)])
    assert (sampler._guide.find(words) == np.searchsorted(sampler._tops, words, side="right")).all()
    assert looks < 3


def test_the_sensitivity_covers_rounding_and_the_noise_follows_it():
    lattice = Lattice(clip=0.5, dimension=147_456, sigma=2.5)
    assert lattice.gamma == 0.5 * 4 / 65536
    assert lattice.sensitivity >= 0.5 * (1 + FLOAT_SLACK) + lattice.gamma * math.sqrt(147_456) / 2
    assert lattice.sensitivity < 0.5 * 1.02
    assert lattice.deviation == 2.5 * lattice.sensitivity
    large = Lattice(0.5, 147_456, 2.5, summed=100_000, sum_error=1e-3)
    assert large.sensitivity >= 0.5 + large.gamma * math.sqrt(47_456 / 4 + 100_000) + 2 * 1e-3, "with it and without"
    for sigma in (0.1, 0.5, 1.0, 1.01, 7.9, 64.0):
        assert 4096 <= Lattice(1.0, 5000, sigma).scale <= 70_000


@pytest.mark.parametrize("bad", [{"clip": 0.0}, {"clip": math.inf}, {"dimension": 0}, {"sigma": 0.05}, {"sigma": 1e9}])
def test_constants_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        Lattice(**{"clip": 1.0, "dimension": 10, "sigma": 1.0, **bad})


def test_the_error_of_a_round_is_small_and_rounded_up():
    scale = Lattice(1.0, 5378, 1.0).scale
    sampler = RoundedGaussian(scale)
    assert sampler.tv_error >= 2 * ndtr(-TAIL) + TAIL * scale * 2.0**-103, "what is beyond the table, and the rounding"
    assert tv_error_femto(sampler, 5378, 24) == 1
    assert tv_error_femto(sampler, 147_456, 10_000) == math.ceil(sampler.tv_error * 147_456 * 10_000 * 1e15)
    assert sampler.ratio_error * 2 * 10**6 < 2e-7
