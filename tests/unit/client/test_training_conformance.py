"""Each lie about noise, clipping or sampling is caught by the check that is named after it; honest rounds pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training.conformance import (
    ALPHA,
    RoundCheck,
    _tail,
    batches_plausible,
    overlaps_plausible,
    uncorrelated,
    variance_plausible,
)
from client.training.lattice import Lattice
from client.training.opacus_private import StepSeen
from compliance.errors import RunFailed
from tests.tiny_bert import tiny_round

D, N = 2000, 400
LATTICE = Lattice(1.0, D, 1.0)


def round_of(
    *, quiet=1.0, norm=1.0, batch=None, repeat=False, steps=8, seed=0, mark="a", earlier=None, missing=0,
    masks="poisson", independent=True, error=0.0,
):  # fmt: skip
    """The verdict on a simulated round."""
    rng = np.random.default_rng(seed)
    check = RoundCheck(tiny_round(steps=steps), N, LATTICE, torch.tensor(independent), sum_allowance=1e-3)
    check.saw_stream(mark, set() if earlier is None else earlier)
    order = rng.permutation(N)
    noise = np.zeros(D)
    for step in range(steps - missing):
        if step == 0 or not repeat:
            noise = np.rint(rng.normal(0, LATTICE.scale * quiet, D)).astype(np.int64)
        clipped = rng.integers(-1000, 1000, D)
        size = rng.binomial(N, 0.25) if batch is None else batch
        part = order[step % 4 * 100 : step % 4 * 100 + 100]
        check.saw_mask(np.isin(np.arange(N), part) if masks == "shuffled" else rng.random(N) < 0.25)
        check.saw_step(
            StepSeen(
                torch.from_numpy(clipped), torch.from_numpy(clipped + noise),
                torch.full((size,), norm / LATTICE.gamma, dtype=torch.float64), torch.tensor(0),
                torch.tensor(error, dtype=torch.float64),
            )
        )  # fmt: skip
    return check.verdict()


def test_honest_rounds_pass():
    for seed in range(50):
        assert set(round_of(seed=seed).values()) == {True}


def test_one_step_and_one_empty_batch_pass():
    assert set(round_of(steps=1)) == {
        "noise_variance", "clip_norm", "batch_size", "batch_overlap", "step_correlation", "fresh_stream",
        "record_independence", "sum_error",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lie", "caught_by"),
    [
        ({"quiet": 0.9}, "noise_variance"),
        ({"quiet": 0.0}, "noise_variance"),
        ({"quiet": 1.1}, "noise_variance"),
        ({"norm": 1.01}, "clip_norm"),
        ({"batch": N}, "batch_size"),
        ({"batch": 0}, "batch_size"),
        ({"batch": 40}, "batch_size"),
        ({"missing": 1}, "batch_size"),
        ({"repeat": True}, "step_correlation"),
        ({"earlier": {"a"}}, "fresh_stream"),
        ({"masks": "shuffled"}, "batch_overlap"),
        ({"independent": False}, "record_independence"),
        ({"error": 2e-3}, "sum_error"),
    ],
)
def test_a_lie_is_caught(lie, caught_by):
    with pytest.raises(RunFailed, match=caught_by) as caught:
        round_of(**lie)
    assert caught.value.code == "RSD-4500"
    assert not any(c.isdigit() for c in caught.value.found), "names only, no figures"


def test_shuffled_batches_of_one_size_are_caught_by_what_they_have_in_common():
    """Cutting a shuffled list in four: sizes alone are within bounds, but neighbours share no record."""
    assert batches_plausible([100] * 8, N, 0.25, ALPHA)
    parts = [np.isin(np.arange(N), np.arange(i * 100, i * 100 + 100)) for i in range(4)] * 2
    assert not overlaps_plausible(parts, 0.25, ALPHA)
    assert not overlaps_plausible([parts[0]] * 2, 0.25, ALPHA), "one batch drawn, used twice"
    assert overlaps_plausible([], 0.25, ALPHA)
    assert overlaps_plausible([np.ones(N, bool)] * 3, 1.0, ALPHA)


def test_the_false_alarm_rate_is_what_it_says():
    rng = np.random.default_rng(3)
    squares = (rng.normal(size=(2000, 500)) ** 2).sum(1)
    alarms = sum(not variance_plausible(s, 500, 0.01) for s in squares)
    assert alarms < 45
    products = rng.normal(size=(2000, 500)) * rng.normal(size=(2000, 500))
    assert sum(not uncorrelated([float(p)], 500, 0.01) for p in products.sum(1)) < 45
    assert _tail(0.0, 5) == 1.0
    sizes = rng.binomial(N, 0.25, size=(2000, 4))
    assert sum(not batches_plausible(s.tolist(), N, 0.25, 0.01) for s in sizes) < 45
    masks = rng.random((2000, 4, N)) < 0.25
    assert sum(not overlaps_plausible(list(m), 0.25, 0.01) for m in masks) < 45


def test_batches_beyond_the_table_are_impossible():
    assert not batches_plausible([N + 1], N, 0.999, ALPHA)
    assert batches_plausible([N, N], N, 1.0, ALPHA)
