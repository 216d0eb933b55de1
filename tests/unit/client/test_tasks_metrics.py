"""The figures are scikit-learn's, on random scores with ties and missing classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from client.tasks import metrics


@st.composite
def _cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, n = draw(st.integers(2, 4)), draw(st.integers(1, 40))
    # Few classes and halves: missing classes and many equal scores.
    targets = rng.integers(0, draw(st.integers(1, classes)), n)
    return targets, rng.integers(-6, 7, (n, classes)) / 2


@settings(max_examples=60, deadline=None)
@given(_cases())
def test_counts_agree_with_scikit_learn(case):
    targets, scores = case
    classes = scores.shape[1]
    found = metrics.class_metrics(targets, scores)
    predicted = metrics.probabilities(scores).argmax(1)
    which = {"labels": [1]} if classes == 2 else {"labels": np.unique(targets)}
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        targets, predicted, average="macro", zero_division=0, **which
    )
    recalls = oracle.recall_score(targets, predicted, labels=np.unique(targets), average="macro")
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(targets, predicted))
    assert found["balanced_accuracy"] == pytest.approx(recalls)
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))


@settings(max_examples=60, deadline=None)
@given(_cases())
def test_areas_agree_with_scikit_learn(case):
    targets, scores = case
    classes = scores.shape[1]
    found = metrics.class_metrics(targets, scores)
    chances = metrics.probabilities(scores)
    columns = {1: scores[:, 1] - scores[:, 0]} if classes == 2 else {c: chances[:, c] for c in range(classes)}
    both = [c for c in columns if len(np.unique(targets == c)) == 2]
    assert ("auroc" in found) == ("auprc" in found) == bool(both)
    if both:
        areas = np.mean([oracle.roc_auc_score(targets == c, columns[c]) for c in both])
        precisions = np.mean([oracle.average_precision_score(targets == c, columns[c]) for c in both])
        assert (found["auroc"], found["auprc"]) == pytest.approx((areas, precisions))


@settings(max_examples=60, deadline=None)
@given(_cases())
def test_brier_agrees_with_scikit_learn(case):
    targets, scores = case
    classes = scores.shape[1]
    chances = metrics.probabilities(scores)
    expected = oracle.brier_score_loss(targets, chances, labels=np.arange(classes), scale_by_half=True)
    assert metrics.brier(targets, chances) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # Bins of width 1/2: .5 lies in (0, .5] and says too much, .6 and both .9 in (.5, 1] and say too little.
    chances = np.array([[0.5, 0.5], [0.6, 0.4], [0.1, 0.9], [0.9, 0.1]])
    targets = np.array([1, 0, 1, 0], dtype=np.int64)
    assert metrics.calibration_error(targets, chances, bins=2) == pytest.approx((abs(0 - 0.5) + abs(3 - 2.4)) / 4)


def test_calibration_error_of_honest_probabilities_is_small_and_of_boastful_ones_is_not():
    rng = np.random.default_rng(3)
    chance = rng.uniform(0, 1, 200_000)
    targets = (rng.uniform(0, 1, chance.size) < chance).astype(np.int64)
    assert metrics.calibration_error(targets, np.stack([1 - chance, chance], 1)) < 0.01
    loud = np.where(chance > 0.5, 0.99, 0.01)
    assert metrics.calibration_error(targets, np.stack([1 - loud, loud], 1)) == pytest.approx(0.24, abs=0.01)


def test_one_class_has_no_area_and_no_records_are_refused():
    found = metrics.class_metrics(np.array([1, 1]), [[0.0, 1.0], [1.0, 0.0]])
    assert "auroc" not in found
    assert found["accuracy"] == 0.5
    with pytest.raises(ValueError, match="at least one record"):
        metrics.class_metrics(np.zeros(0, dtype=np.int64), np.zeros((0, 2)))
