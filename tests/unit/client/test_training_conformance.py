"""Each lie about noise, clipping, sampling or release is caught by the check named after it; honest rounds pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from client.training.batches import Overlap, sizes_plausible, sizes_vary
from client.training.conformance import ALPHA, RoundCheck, variance_plausible
from client.training.fingerprint import Fingerprint, mask_bits, noise_bits
from client.training.lattice import Lattice
from client.training.opacus_private import StepSeen
from client.training.released import Released
from client.training.repetition import (
    KeptNoise,
    coordinates,
    few_repeats,
    uncorrelated_inside,
    uncorrelated_steps,
)
from compliance.errors import RunFailed
from tests.tiny_bert import tiny_round

D, N = 2000, 400
LATTICE = Lattice(1.0, D, 1.0)


def round_of(
    *, quiet=1.0, norm=1.0, batch=None, repeat=False, steps=8, seed=0, missing=0, masks="poisson", independent=True,
    error=0.0, divided_by=10, pull=0.5, sent=1.0, copies=1, beside=0, longest=1.0, first_by=None, rates=(0.1, 0.3),
):  # fmt: skip
    """The verdict on a simulated round."""
    rng = np.random.default_rng(seed)
    spec = tiny_round(steps=steps, proximal_micro=500_000, head_rate_milli=100, adapter_rate_milli=300)
    trained = [("head.w", nn.Parameter(torch.randn(D // 2))), ("lora", nn.Parameter(torch.randn(D - D // 2)))]
    start = torch.cat([p.detach() for _, p in trained])
    check = RoundCheck(
        spec, N, LATTICE, torch.tensor(independent), Released(spec, trained, LATTICE), sum_allowance=1e-3
    )
    order = rng.permutation(N)
    noise = np.zeros(D)
    for step in range(steps - missing):
        if step == 0 or not repeat:
            noise = np.rint(rng.normal(0, LATTICE.scale * quiet, D // copies)).astype(np.int64)
            noise = np.resize(noise, D)
        clipped = rng.integers(-1000, 1000, D)
        part = order[step % 4 * 100 : step % 4 * 100 + 100]
        mask = np.isin(np.arange(N), part) if masks == "shuffled" else rng.random(N) < 0.25
        if batch is not None:
            mask = np.isin(np.arange(N), rng.permutation(N)[:batch])
        check.saw_mask(mask)
        size = int(mask.sum()) + beside
        norms = torch.full((size,), norm / LATTICE.gamma, dtype=torch.float64)
        norms[size - 1 :] *= longest if step == 0 else 1.0
        check.saw_step(
            StepSeen(
                torch.from_numpy(clipped), torch.from_numpy(clipped + noise), norms, torch.tensor(0),
                torch.tensor(error if step == 0 else 0.0, dtype=torch.float64),
            )
        )  # fmt: skip
        by = first_by if first_by and step == 0 else divided_by
        update(trained, start, torch.from_numpy(clipped + noise) * LATTICE.gamma / by, pull, rates)
        check.released.updated()
    check.released.sent(((torch.cat([p.detach() for _, p in trained]) - start) * sent).numpy())
    return check.verdict()


def update(trained, start, mean, pull, rates):
    with torch.no_grad():
        for (_, p), rate, at in zip(trained, rates, (slice(0, D // 2), slice(D // 2, D)), strict=True):
            p.sub_((mean[at].float() + pull * (p - start[at])) * rate)


def test_honest_rounds_pass():
    for seed in range(60):
        assert set(round_of(seed=seed, steps=1 + seed % 12).values()) == {True}


def test_one_step_passes_and_these_are_the_checks():
    assert set(round_of(steps=1)) == {
        "noise_variance", "clip_norm", "batch_size", "batch_variation", "batch_overlap", "step_correlation",
        "noise_repetition", "release", "record_independence", "sum_error",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lie", "caught_by"),
    [
        ({"quiet": 0.9}, "noise_variance"),
        ({"quiet": 0.0}, "noise_variance"),
        ({"quiet": 1.1}, "noise_variance"),
        ({"norm": 1.01}, "clip_norm"),
        ({"longest": 1.01}, "clip_norm"),
        ({"batch": N}, "batch_size"),
        ({"batch": 0}, "batch_size"),
        ({"batch": 40}, "batch_size"),
        ({"missing": 1}, "batch_size"),
        ({"beside": 1}, "batch_size"),
        ({"batch": 100}, "batch_variation"),
        ({"repeat": True}, "step_correlation"),
        ({"copies": 2}, "noise_repetition"),
        ({"copies": 8}, "noise_repetition"),
        ({"masks": "shuffled"}, "batch_overlap"),
        ({"divided_by": 10.001}, "release"),
        ({"first_by": 10.01}, "release"),
        ({"rates": (0.1, 0.3003)}, "release"),
        ({"rates": (0.1001, 0.3)}, "release"),
        ({"pull": 0.0}, "release"),
        ({"sent": 1.001}, "release"),
        ({"independent": False}, "record_independence"),
        ({"error": 2e-3}, "sum_error"),
    ],
)
def test_a_lie_is_caught(lie, caught_by):
    with pytest.raises(RunFailed) as caught:
        round_of(**lie)
    assert caught.value.code == "RSD-4500"
    assert caught_by in caught.value.found.split(", ")
    assert not any(c.isdigit() for c in caught.value.found), "names only, no figures"


def test_a_step_that_released_without_being_seen_and_one_that_was_seen_and_not_released():
    spec, trained = tiny_round(), [("head.w", nn.Parameter(torch.zeros(D)))]
    noisy = torch.zeros(D, dtype=torch.int64)
    for seen, updates in ((1, 2), (2, 1), (1, 0)):
        released = Released(spec, trained, LATTICE)
        for i in range(max(seen, updates)):
            if i < seen:
                released.noised(noisy)
            if i < updates:
                released.updated()
        released.sent(np.zeros(D, np.float32))
        assert not released.as_seen()
    for seen, left, why in ((2, True, "one update, seen as two"), (1, False, "nobody saw what left")):
        released = Released(spec, trained, LATTICE)
        for _ in range(seen):
            released.noised(noisy)
        released.updated()
        if left:
            released.sent(np.zeros(D, np.float32))
        assert not released.as_seen(), why


def test_a_parameter_that_was_no_number_for_one_step_is_seen():
    trained = [("head.w", nn.Parameter(torch.zeros(D)))]
    released = Released(tiny_round(), trained, LATTICE)
    for value in (torch.nan, 0.0):
        trained[0][1].data.fill_(value)
        released.noised(torch.zeros(D, dtype=torch.int64))
        released.updated()
    released.sent(np.zeros(D, np.float32))
    assert not released.as_seen()


def overlap(masks, q=0.25):
    found = Overlap(q)
    for mask in masks:
        found.add(mask)
    return found


def test_shuffled_batches_of_one_size_are_caught_by_what_they_have_in_common():
    """Cutting a shuffled list in four: sizes alone are within bounds, but neighbours share no record."""
    assert sizes_plausible([100] * 8, N, 0.25, ALPHA)
    parts = [np.isin(np.arange(N), np.arange(i * 100, i * 100 + 100)) for i in range(4)]
    assert not overlap(parts).plausible(ALPHA)
    assert not overlap([parts[0]] * 2).plausible(ALPHA), "one batch drawn, used twice"
    drawn = np.random.default_rng(2).random((2, N)) < 0.25
    assert overlap([drawn[0], drawn[1]]).plausible(ALPHA)
    assert not overlap([drawn[0], parts[0], parts[1], drawn[1]]).plausible(ALPHA), "the second pair alone"
    assert overlap([]).plausible(ALPHA)
    assert overlap([np.ones(N, bool)] * 3, 1.0).plausible(ALPHA), "q = 1: every batch is the same"
    few = np.random.default_rng(0).random((50, 4)) < 0.5
    assert overlap(list(few), 0.5).plausible(ALPHA), "four units repeat a batch by chance"


def test_sizes_that_vary_too_little_or_too_much():
    rng = np.random.default_rng(1)
    assert not sizes_vary([100] * 8, N, 0.25, 4 * ALPHA)
    assert not sizes_vary([103] * 8, N, 0.25, 4 * ALPHA)
    assert sizes_vary([100] * 5, N, 0.25, 4 * ALPHA), "too few steps to tell"
    assert not sizes_vary([512] * 6, 10_000, 0.0512, 4 * ALPHA)
    assert not sizes_vary([99, 100, 101] * 10, N, 0.25, 4 * ALPHA)
    assert not sizes_vary([75, 125] * 12, N, 0.25, 4 * ALPHA)
    assert sizes_vary(rng.binomial(N, 0.25, 200).tolist(), N, 0.25, 4 * ALPHA)
    assert sizes_vary([N] * 9, N, 1.0, 4 * ALPHA)
    assert sizes_vary([], N, 0.25, 4 * ALPHA)


@pytest.mark.parametrize("dimension", [3, 2040, 4096, 4097, 60_001, 3_000_003])
def test_which_coordinates_are_kept(dimension):
    kept, aligned = coordinates(dimension)
    assert len(set(kept.tolist())) == kept.size == min(dimension, kept.size)
    assert 0 <= kept.min() <= kept.max() < dimension
    assert kept[:aligned].tolist() == sorted(kept[:aligned].tolist())
    assert kept.size >= min(dimension, 3500)
    for steps in (1, 8, 100, 10_000):
        rows = KeptNoise(dimension, steps, LATTICE.scale, torch.device("cpu"))._rows
        assert sum(r.numel() * r.element_size() for r in rows) <= (768 << 10) + 8 * 4 * steps
        assert rows[0].shape[1] >= min(8, dimension)


@pytest.mark.parametrize("length", [150_000, 37_499, 1000, 1 << 14])
def test_parts_of_a_long_vector_that_repeat_are_seen_from_a_sample(length):
    """Halves and eighths at any length; also a block of the sampler that comes again."""
    rng, d = np.random.default_rng(2), 299_999
    kept = KeptNoise(d, 4, LATTICE.scale, torch.device("cpu"))
    for _ in range(4):
        part = np.rint(rng.normal(0, LATTICE.scale, length))
        kept.add(torch.from_numpy(np.resize(part, d)))
    assert not kept.coordinates_differ(ALPHA)
    assert kept.steps_differ(ALPHA)


def test_a_single_step_that_comes_again_among_many():
    rng = np.random.default_rng(3)
    for steps, again in ((16, 11), (3000, 2500)):
        kept = KeptNoise(500, steps, LATTICE.scale, torch.device("cpu"))
        rows = [np.rint(rng.normal(0, LATTICE.scale, 500)) for _ in range(steps)]
        rows[again] = rows[3]
        for row in rows:
            kept.add(torch.from_numpy(row))
        assert not kept.steps_differ(ALPHA)
        assert kept.coordinates_differ(ALPHA)


def test_noise_that_is_only_correlated():
    rng = np.random.default_rng(4)
    steps = rng.normal(size=(12, 4096))
    assert uncorrelated_steps(steps, ALPHA)
    steps[9] = 0.25 * steps[2] + math.sqrt(1 - 0.25**2) * steps[9]
    assert not uncorrelated_steps(steps, ALPHA)
    opposite = rng.normal(size=(12, 4096))
    opposite[4] = -0.25 * opposite[3] + math.sqrt(1 - 0.25**2) * opposite[4]
    assert not uncorrelated_steps(opposite, ALPHA)
    many = rng.normal(size=(150, 500))
    assert uncorrelated_steps(many, ALPHA)
    many[1:] += 0.1 * many[:-1]
    assert not uncorrelated_steps(many, ALPHA), "too little to see in one pair"
    assert uncorrelated_steps(many[:2], ALPHA)
    inside = rng.normal(size=(12, 4096))
    assert uncorrelated_inside(inside, ALPHA)
    assert not uncorrelated_inside((inside + 0.1 * np.roll(inside, 77, axis=1)), ALPHA)
    assert not uncorrelated_inside(np.concatenate([inside[:1, :2048], -inside[:1, :2048]], axis=1), ALPHA), "antithetic"


def test_half_the_noise_with_the_other_sign_repeats_no_value_and_is_seen():
    rng = np.random.default_rng(5)
    kept = KeptNoise(4000, 4, LATTICE.scale, torch.device("cpu"))
    for _ in range(4):
        half = np.rint(rng.normal(0, LATTICE.scale, 2000))
        kept.add(torch.from_numpy(np.concatenate([half, -half])))
    assert not kept.coordinates_differ(ALPHA)


def test_the_false_alarm_rate_is_what_it_says():
    """At 1 % each; the bounds are bounds, so the counts stay below 2000 * 1 % and three deviations."""
    rng, rounds, most = np.random.default_rng(3), 2000, 34
    squares = (rng.normal(size=(rounds, 500)) ** 2).sum(1)
    assert sum(not variance_plausible(s, 500, 0.01) for s in squares) < most
    assert sum(not sizes_plausible(s.tolist(), N, 0.25, 0.01) for s in rng.binomial(N, 0.25, (rounds, 4))) < most
    masks = rng.random((rounds, 4, N)) < 0.25
    assert sum(not overlap(list(m)).plausible(0.01) for m in masks) < most
    for n, q, steps in ((N, 0.25, 6), (20, 0.1, 30), (10_000, 0.05, 3)):
        drawn = rng.binomial(n, q, (rounds // 4, steps))
        assert sum(not sizes_vary(s.tolist(), n, q, 0.01) for s in drawn) < most / 2
    noise = rng.normal(size=(rounds, 6, 40))
    assert sum(not uncorrelated_steps(z, 0.01) for z in noise) < most
    assert sum(not uncorrelated_inside(z, 0.01) for z in noise) < most
    rounded = np.rint(noise * 6553).astype(np.float32)
    repeats = sum(not few_repeats(z, 6553.0, 0.01) for z in rounded)
    assert repeats < most


def test_fingerprints_are_of_enough_and_the_same_for_a_part():
    assert noise_bits(1, 6553.0) == pytest.approx(14.5, abs=0.1)
    assert mask_bits(100, 0.5) == 100
    assert mask_bits(100, 1.0) == 0
    made = Fingerprint()
    for step in range(40):
        made.add(bytes([step]), 50.0)
    assert len(made.marks) == len(set(made.marks)) == 4
    later = Fingerprint()
    for step in range(20, 40):
        later.add(bytes([step]), 50.0)
    assert {*made.marks} & {*later.marks}, "a part of the same steps"
    short = Fingerprint()
    short.add(b"x", 79.0)
    assert short.marks == ()


def test_each_size_is_judged_and_their_total():
    assert not sizes_plausible([40, 160], N, 0.25, ALPHA), "the total is what it should be"
    assert sizes_plausible([121], N, 0.25, ALPHA)
    assert not sizes_plausible([121] * 9, N, 0.25, ALPHA), "each alone may be"
    assert not sizes_plausible([79] * 9, N, 0.25, ALPHA)


def test_batches_beyond_the_table_are_impossible():
    assert not sizes_plausible([N + 1], N, 0.999, ALPHA)
    assert sizes_plausible([N, N], N, 1.0, ALPHA)
