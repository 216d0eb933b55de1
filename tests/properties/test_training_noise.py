"""Properties of sampling, sensitivity and the round specification, over random inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from client.data.template import parse_template
from client.training.keystream import poisson_mask
from client.training.lattice import Lattice, RoundedGaussian
from client.training.opacus_private import LatticeOptimizer
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


@given(st.lists(words, min_size=1, max_size=20), st.integers(1, 2**62), st.data())
def test_a_mask_is_integer_comparison_of_accepted_words(given_words, denominator, data):
    numerator = data.draw(st.integers(1, denominator))
    mask = poisson_mask(Replay(given_words), len(given_words), numerator, denominator)
    last = 2**64 - 2**64 % denominator - 1
    for word, drawn in zip(given_words, mask, strict=True):
        if word <= last:
            assert drawn == (word % denominator < numerator)


def clipped_sum(gradients, clip):
    """What the optimizer sums, in lattice steps, for per-sample gradients given."""
    parameter = torch.nn.Parameter(torch.zeros(gradients.shape[1]))
    seen = []
    lattice = Lattice(clip, gradients.shape[1], 1.0)
    optimizer = LatticeOptimizer(
        torch.optim.SGD([parameter], lr=1.0), parameters=[parameter], lattice=lattice,
        noise=lambda n: np.zeros(n, np.int64), expected_batch=1, observe=seen.append,
    )  # fmt: skip
    parameter.grad_sample = torch.from_numpy(gradients)
    optimizer.step()
    return seen[0].clipped, lattice


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.sampled_from([1e-6, 0.01, 1.0, 50.0, 1e30])
)
def test_one_record_moves_the_sum_by_no_more_than_the_sensitivity(seed, n, d, size):
    rng = np.random.default_rng(seed)
    gradients = (rng.normal(size=(n, d)) * size).astype(np.float32)
    whole, lattice = clipped_sum(gradients, 0.7)
    out = rng.integers(n)
    without, _ = clipped_sum(np.delete(gradients, out, 0), 0.7)
    assert np.linalg.norm((whole - without).astype(float)) * lattice.gamma <= lattice.sensitivity
    order = rng.permutation(n)
    assert (clipped_sum(gradients[order], 0.7)[0] == whole).all(), "exact: the order of records does not matter"


@given(st.floats(0.1, 100.0), st.integers(1, 10**7), st.floats(1e-6, 1e3))
def test_the_noise_is_never_below_the_claim(sigma, dimension, clip):
    lattice = Lattice(clip, dimension, sigma)
    assert lattice.deviation >= sigma * clip
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
