"""Figures from noised counts: right without noise, covered by their intervals with it, the same on every machine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

from compliance.evaluation.derive import DRAWS, auprc, auroc, figures, project
from compliance.evaluation.histogram import LEAST_DEVIATION, scale_of

BINARY, MANY = ("no", "yes"), ("a", "b", "c", "d")
SCALE, BINS = 1024, 20


def _binary_population(prevalence=0.3):
    edges = np.linspace(0, 1, BINS + 1)
    shares = [np.diff(beta.cdf(edges, 2, 4)), np.diff(beta.cdf(edges, 4, 2))]
    return np.stack([(1 - prevalence) * shares[0], prevalence * shares[1]])


def _many_population():
    cells = np.full((4, 4), 0.02)
    np.fill_diagonal(cells, [0.3, 0.2, 0.15, 0.11])
    return cells / cells.sum()


def _figures(table, deviation, labels):
    found = figures(np.rint(table * SCALE).astype(np.int64), SCALE, deviation, labels)
    return {(f.name, f.label): f for f in found}


def _slow_auroc(table):
    first, second = table
    pairs = sum(second[i] * (first[:i].sum() + first[i] / 2) for i in range(len(first)))
    return pairs / (first.sum() * second.sum())


def test_without_noise_the_figures_are_those_of_the_counts():
    table = np.array([[50.0, 30, 15, 5], [2, 8, 30, 60]])
    found = _figures(table, 1e-3, BINARY)
    value = {k: f.value_micro / 1e6 for k, f in found.items()}
    near = pytest.approx
    assert value["accuracy", ""] == near((80 + 90) / 200, abs=2e-3)
    assert value["recall", "yes"] == near(0.9, abs=2e-3)
    assert value["precision", "yes"] == near(90 / 110, abs=2e-3)
    assert value["f1", "no"] == near(2 * 80 / (90 + 100), abs=2e-3)
    assert value["balanced_accuracy", ""] == near((0.8 + 0.9) / 2, abs=2e-3)
    assert value["auroc", "yes"] == near(_slow_auroc(table), abs=2e-3)
    middle = np.array([0.125, 0.375, 0.625, 0.875])
    brier = ((table[0] * middle**2).sum() + (table[1] * (1 - middle) ** 2).sum()) / 200
    assert value["brier", ""] == near(brier, abs=2e-3)
    assert value["mean_score_minus_rate", "yes"] == near((table.sum(0) * middle).sum() / 200 - 0.5, abs=2e-3)


@given(st.lists(st.integers(0, 40), min_size=8, max_size=8))
@settings(deadline=None, max_examples=60)
def test_auroc_and_auprc_are_those_of_the_records_behind_the_bins(counts):
    table = np.array(counts, dtype=float).reshape(2, 4)
    if table[0].sum() == 0 or table[1].sum() == 0:
        return
    scores = np.concatenate([np.repeat(np.arange(4), table[i].astype(int)) for i in (0, 1)])
    truth = np.concatenate([np.full(int(table[i].sum()), i) for i in (0, 1)])
    assert float(auroc(table)) == pytest.approx(roc_auc_score(truth, scores))
    assert float(auprc(table)) == pytest.approx(average_precision_score(truth, scores))


@given(st.lists(st.floats(-20, 50), min_size=6, max_size=6))
@settings(deadline=None)
def test_the_projection_is_not_negative_keeps_the_sum_and_is_nearest(values):
    table = np.array(values).reshape(2, 3)
    found = project(table)
    assert (found >= 0).all()
    assert found.sum(-1) == pytest.approx(np.maximum(table.sum(-1), 0), abs=1e-9)
    assert project(found) == pytest.approx(found, abs=1e-9)
    for row, near in zip(table, found, strict=True):
        if row.sum() > 0:
            other = near.sum() * np.ones(3) / 3
            assert ((row - near) ** 2).sum() <= ((row - other) ** 2).sum() + 1e-6


@pytest.mark.parametrize(
    ("population", "labels", "n"), [(_binary_population(), BINARY, 2000), (_many_population(), MANY, 800)]
)
def test_95_percent_intervals_hold_the_population_in_90_percent_of_repetitions_or_more(population, labels, n):
    """Records drawn anew and noise drawn anew each time, as at 4 sites with a noise multiplier of 3."""
    rng, deviation, reps = np.random.default_rng(7), 3.0 * 2, 120
    truth = {k: f.value_micro for k, f in _figures(population * 1e9, 1e-3, labels).items()}
    held, shown = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(reps):
        counts = rng.multinomial(n, population.ravel()).reshape(population.shape)
        for key, f in _figures(counts + rng.normal(0, deviation, counts.shape), deviation, labels).items():
            if f.value_micro is not None:
                shown[key] += 1
                held[key] += f.low_micro <= truth[key] <= f.high_micro
    assert min(shown.values()) == reps
    share = {key: held[key] / reps for key in truth}
    assert min(share.values()) >= 0.90, share
    assert 0.93 <= sum(share.values()) / len(share) <= 0.99, share


def test_a_figure_that_the_noise_drowns_is_not_given():
    table = np.full((2, BINS), 2.0)
    found = _figures(table, 40.0, BINARY)
    assert {f.value_micro for f in found.values()} == {None}
    assert all(f.texts() == ("-", "drowned by the noise") for f in found.values())
    found = _figures(np.vstack([np.full(BINS, 500.0), np.full(BINS, 1.0)]), 10.0, BINARY)  # the second class alone
    assert found["recall", "yes"].value_micro is found["auroc", "yes"].value_micro is None
    assert found["recall", "no"].value_micro is not None


def test_the_same_cells_give_the_same_figures_and_others_give_others():
    cells = np.rint(_binary_population() * 500 * SCALE).astype(np.int64)
    first, again = (figures(cells, SCALE, 6.0, BINARY) for _ in range(2))
    assert first == again
    cells[0, 0] += 1
    assert figures(cells, SCALE, 6.0, BINARY) != first
    assert DRAWS >= 1000


@pytest.mark.parametrize("noise", [200_000, 999_999, 1_000_000, 3_000_000, 100_000_000])
def test_the_scale_keeps_the_noise_on_the_samplers_lattice(noise):
    deviation = scale_of(noise) * noise / 1e6
    assert LEAST_DEVIATION <= deviation < 2 * LEAST_DEVIATION
    assert scale_of(noise) & (scale_of(noise) - 1) == 0
