"""Properties of sampling, sensitivity and the round specification, over random inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.data.template import parse_template
from client.training.clipping import clip_rows, factors
from client.training.keystream import poisson_mask
from client.training.lattice import FLOAT_SLACK, Lattice, RoundedGaussian, _thresholds
from client.training.per_sample.summed import squared_lengths
from client.work import RoundSpec
from compliance.errors import InputError
from tests.tiny_bert import SeededStream, tiny_round

words = st.integers(0, 2**64 - 1)


class Replay:
    """Given words, then a seeded stream."""

    mark = "replay"

    def __init__(self, given_words):
        self._given, self._rest = list(given_words), SeededStream(0)

    def words(self, count):
        head, self._given = self._given[:count], self._given[count:]
        return np.concatenate([np.array(head, np.uint64), self._rest.words(count - len(head))])


class Chosen:
    """Words that the test chose, and no more."""

    mark = "chosen"

    def __init__(self, chosen):
        self._left = chosen

    def words(self, count):
        taken, self._left = self._left[:count], self._left[count:]
        assert taken.size == count
        return taken


@given(st.lists(words, min_size=1, max_size=20), st.integers(1, 2**62), st.data())
def test_a_mask_is_integer_comparison_of_accepted_words(given_words, denominator, data):
    numerator = data.draw(st.integers(1, denominator))
    mask = poisson_mask(Replay(given_words), len(given_words), numerator, denominator)
    last = 2**64 - 2**64 % denominator - 1
    for word, drawn in zip(given_words, mask, strict=True):
        if word <= last:
            assert drawn == (word % denominator < numerator)


def clipped_sum(gradients, clip):
    """What is summed, in lattice steps, for per-sample gradients given."""
    lattice = Lattice(clip, gradients.shape[1], 1.0)
    flat = torch.from_numpy(gradients.copy())
    out = clip_rows(flat, factors(squared_lengths(flat), lattice))
    assert (out.lengths.numpy() * lattice.gamma <= lattice.sensitivity).all()
    return out.total.numpy(), lattice


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([1e-44, 1e-25, 1e-6, 0.01, 1.0, 50.0, 1e30, 3e38]),
    st.sampled_from([1e-6, 0.7, 1000.0]),
)
def test_one_record_moves_the_sum_by_no_more_than_the_sensitivity(seed, n, d, size, clip):
    rng = np.random.default_rng(seed)
    gradients = (rng.normal(size=(n, d)).clip(-1, 1) * size).astype(np.float32)
    whole, lattice = clipped_sum(gradients, clip)
    out = rng.integers(n)
    without, _ = clipped_sum(np.delete(gradients, out, 0), clip)
    assert np.linalg.norm((whole - without).astype(float)) * lattice.gamma <= lattice.sensitivity
    order = rng.permutation(n)
    assert (clipped_sum(gradients[order], clip)[0] == whole).all(), "exact: the order of records does not matter"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(1, 6000), st.floats(1e-3, 1e3))
def test_float32_scaling_stays_within_its_slack(seed, n, d, size):
    """Before rounding, no row is longer than clip (1 + 2^-20); after it, every entry is the nearest integer."""
    rng = np.random.default_rng(seed)
    flat = torch.from_numpy((rng.normal(size=(n, d)) * size).astype(np.float32))
    lattice = Lattice(1.0, d, 1.0)
    by = factors(squared_lengths(flat), lattice)
    scaled = flat * by.steps.unsqueeze(1)
    assert (torch.linalg.vector_norm(scaled.double(), dim=1) * lattice.gamma <= 1 + FLOAT_SLACK).all()
    exact = (
        flat.double() * (1.0 / torch.linalg.vector_norm(flat.double(), dim=1).clamp_min(1.0) / lattice.gamma)[:, None]
    )
    out = clip_rows(flat.clone(), by)
    assert (out.total - torch.round(exact).sum(0)).abs().max() <= n, "float32 moves a value across a half at most"


@pytest.mark.parametrize("clip", [0.7, 1e-6])
def test_factors_are_rounded_down(clip):
    squared = torch.from_numpy(np.random.default_rng(1).uniform(0.0, 9.0 * clip * clip, 500))
    lattice = Lattice(clip, 3, 1.0)
    exact, by = clip / squared.sqrt().clamp_min(clip), factors(squared, lattice)
    for found, most in ((by.plain, exact), (by.steps, exact / lattice.gamma)):
        assert (found.double() <= most).all()
        assert (found.double() >= most * (1 - 2.0**-22)).all()


@pytest.mark.parametrize("rows", [1, 256, 257, 1001])
def test_many_full_rows_sum_exactly(rows):
    """One coordinate holds the whole clip in every row, the largest sum that there is; or one step less, an odd one."""
    lattice = Lattice(1.0, 3, 1.0)
    for value, steps in ((7.0, 1 << 16), (1 - 2.0**-16, (1 << 16) - 1)):
        flat = torch.zeros(rows, 3)
        flat[:, 1] = value
        out = clip_rows(flat, factors(squared_lengths(flat), lattice))
        assert out.total.tolist() == [0, rows * steps, 0]


def test_a_row_that_is_not_finite_counts_as_zero():
    flat = torch.tensor([[1.0, 2.0], [float("inf"), 0.0], [float("nan"), 1.0], [0.1, 0.1]])
    lattice = Lattice(1.0, 2, 1.0)
    out = clip_rows(flat.clone(), factors(squared_lengths(flat), lattice))
    alone = clip_rows(flat[[0, 3]].clone(), factors(squared_lengths(flat[[0, 3]]), lattice))
    assert (out.total == alone.total).all()
    assert out.bad.tolist() == [False, True, True, False]
    assert out.lengths[1:3].tolist() == [0.0, 0.0]


@given(st.lists(st.integers(0, 2**63 - 1), max_size=30), st.floats(4096, 70000))
@settings(max_examples=3, deadline=None)
def test_the_tables_give_what_a_search_of_all_thresholds_gives(extra, scale):
    every = np.concatenate([high for high, _ in _thresholds(scale)])
    near = np.concatenate([every[:50], every[: int(6 * scale) : 997], every[int(4.4 * scale) : int(4.6 * scale) : 31]])
    near = np.concatenate([near - np.uint64(1), near + np.uint64(1), near ^ np.uint64(1 << 20)])
    random = SeededStream(1).words(1 << 16) >> np.uint64(1)
    high = np.concatenate([random, near, np.array(extra, np.uint64)])
    high = high[(high < every[-1]) & ~np.isin(high, every)]
    wanted = np.searchsorted(every, high, side="right")
    sampler = RoundedGaussian(scale)
    assert (sampler.sample(Chosen(high << np.uint64(1)), high.size) == wanted).all()
    assert sampler._guide is not None
    sampler = RoundedGaussian(scale)
    assert (sampler.sample(Chosen(high[-9000:] << np.uint64(1)), 9000) == wanted[-9000:]).all()
    assert sampler._guide is None


@given(st.floats(0.1, 100.0), st.integers(1, 10**7), st.floats(1e-6, 1e3))
def test_the_noise_is_never_below_the_claim(sigma, dimension, clip):
    lattice = Lattice(clip, dimension, sigma)
    assert lattice.deviation >= sigma * clip
    assert Lattice(clip, dimension, sigma, dimension // 2, clip * 0.01).deviation >= lattice.deviation
    assert lattice.scale >= 4096


@settings(max_examples=20, deadline=None)
@given(st.lists(words, min_size=1, max_size=50), st.floats(4096, 9000))
def test_samples_are_a_monotone_function_of_the_word(given_words, scale):
    ordered = sorted(w >> 1 << 1 for w in given_words)
    z = RoundedGaussian(scale).sample(Replay(ordered), len(ordered))
    limited = z[np.array(ordered) < 2**64 - 2**30]
    assert (np.diff(np.abs(limited)) >= -1).all()
    assert np.abs(z).max() <= 9.5 * scale + 1


@given(st.text(min_size=1, max_size=20).filter(lambda s: s not in RoundSpec.model_fields), st.integers())
def test_a_round_takes_no_field_but_its_own(name, value):
    with pytest.raises(ValidationError):
        RoundSpec.model_validate({**tiny_round().model_dump(), name: value})


@given(st.sampled_from(sorted(RoundSpec.model_fields)), st.one_of(st.floats(), st.text(), st.none(), st.booleans()))
def test_a_round_takes_integers_only(name, value):
    with pytest.raises(ValidationError):
        RoundSpec.model_validate({**tiny_round().model_dump(), name: value})


@given(st.text(alphabet="ab{}[] .!:_", max_size=25))
def test_a_template_is_refused_or_renders_to_what_the_columns_hold(text):
    try:
        template = parse_template(text)
    except InputError:
        return
    row = dict.fromkeys(template.columns, "7")
    rendered = template.render(row)
    assert rendered.count("7") == text.count("{")
    assert not set(rendered) & set("{}[]")
