"""Figures of a classifier's scores on records that may be counted: numpy only.

None of this is private: it is for a public holdout, or for counts that were noised and charged before they came here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ECE_BINS: Final = 15  # of equal width, as in Guo et al. 2017 (arXiv 1706.04599)


def probabilities(scores: npt.ArrayLike) -> Floats:
    """Softmax of logits, (n, classes) -> (n, classes) float64, rows of sum one."""
    wide = np.asarray(scores, dtype=np.float64)
    exped = np.exp(wide - wide.max(axis=1, keepdims=True))
    out: Floats = exped / exped.sum(axis=1, keepdims=True)
    return out


def confusion(targets: Labels, predicted: Labels, classes: int) -> Labels:
    """Counts, int64 (classes, classes): row = the true class, column = the predicted one."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(table: Labels) -> float:
    """Share of the counts of a confusion table that lie on its diagonal. ValueError for an empty table."""
    _some(int(table.sum()))
    return float(np.trace(table) / table.sum())


def balanced_accuracy(table: Labels) -> float:
    """Mean over the classes that occur of the share of each that was found. ValueError for an empty table."""
    _some(int(table.sum()))
    rows = table.sum(axis=1)
    return float((np.diag(table)[rows > 0] / rows[rows > 0]).mean())


def precision_recall_f1(table: Labels) -> tuple[float, float, float]:
    """Of class 1 for two classes; for more, the plain mean over the classes that occur. A ratio of 0 to 0 is 0."""
    _some(int(table.sum()))
    hits, rows, columns = np.diag(table).astype(np.float64), table.sum(axis=1), table.sum(axis=0)
    precision = hits / np.maximum(columns, 1)
    recall = hits / np.maximum(rows, 1)
    f1 = 2 * hits / np.maximum(rows + columns, 1)
    which = np.array([False, True]) if len(table) == 2 else rows > 0
    return float(precision[which].mean()), float(recall[which].mean()), float(f1[which].mean())


def auroc(positive: npt.NDArray[np.bool_], score: npt.ArrayLike) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2; None unless both classes occur."""
    wide = np.asarray(score, dtype=np.float64)
    ups = int(positive.sum())
    downs = len(positive) - ups
    if not ups or not downs:
        return None
    _, place, counts = np.unique(wide, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # mean rank among equal scores
    return float((ranks[positive].sum() - ups * (ups + 1) / 2) / (ups * downs))


def auprc(positive: npt.NDArray[np.bool_], score: npt.ArrayLike) -> float | None:
    """Average precision: sum over thresholds of (gain in recall) * precision, no interpolation; None without positives.

    Records with equal scores pass a threshold together.
    """
    wide = np.asarray(score, dtype=np.float64)
    if not positive.any():
        return None
    order = np.argsort(-wide, kind="stable")
    last = np.flatnonzero(np.append(np.diff(wide[order]) != 0, True))
    hits = np.cumsum(positive[order])[last]
    gains = np.diff(hits, prepend=0) / positive.sum()
    return float((gains * hits / (last + 1)).sum())


def calibration_error(targets: Labels, chances: Floats, bins: int = ECE_BINS) -> float:
    """Expected calibration error of the most likely class.

    `bins` intervals (a, b] of equal width over [0, 1], 0 itself in the first; sum over them of the share of records
    times |share that is right - mean probability|. ValueError for no records.
    """
    _some(len(targets))
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == targets
    which = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(targets))


def brier(targets: Labels, chances: Floats) -> float:
    """Mean over records of half the squared distance of the probabilities from the class, in [0, 1].

    For two classes that is (probability of class 1 - class)^2. ValueError for no records.
    """
    _some(len(targets))
    off = chances.copy()
    off[np.arange(len(targets)), targets] -= 1.0
    return float((off**2).sum(axis=1).mean() / 2)


def class_metrics(targets: Labels, scores: npt.ArrayLike) -> dict[str, float]:
    """All figures of a classifier from `targets` (n,) and logits (n, classes), n at least 1 (ValueError).

    Keys: accuracy, balanced_accuracy, precision, recall, f1 (see `precision_recall_f1`), ece, brier, and auroc and
    auprc: of class 1 for two classes, else the mean of one class against the rest over the classes that have both. A
    figure that the records do not define (one class only) is left out.
    """
    chances = probabilities(scores)
    classes = chances.shape[1]
    table = confusion(targets, chances.argmax(axis=1), classes)
    precision, recall, f1 = precision_recall_f1(table)
    out = {
        "accuracy": accuracy(table),
        "balanced_accuracy": balanced_accuracy(table),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ece": calibration_error(targets, chances),
        "brier": brier(targets, chances),
    }
    if (ranks := _one_against_rest(targets, scores, chances)) is not None:
        out["auroc"], out["auprc"] = ranks
    return out


def _one_against_rest(targets: Labels, scores: npt.ArrayLike, chances: Floats) -> tuple[float, float] | None:
    if chances.shape[1] == 2:  # the margin of the logits: their softmax may round two scores into one
        wide = np.asarray(scores, dtype=np.float64)
        columns = {1: wide[:, 1] - wide[:, 0]}
    else:
        columns = {c: chances[:, c] for c in range(chances.shape[1])}
    found = []
    for label, column in columns.items():
        area, precision = auroc(targets == label, column), auprc(targets == label, column)
        if area is not None and precision is not None:
            found.append((area, precision))
    if not found:
        return None
    areas, precisions = zip(*found, strict=True)
    return float(np.mean(areas)), float(np.mean(precisions))


def _some(records: int) -> None:
    if records < 1:
        raise ValueError("figures need at least one record")
