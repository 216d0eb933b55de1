"""Figures from noised counts, with intervals for the noise and for the sampling of the records together.

Input: the sum over sites of cells n_c + noise, noise Gaussian of known deviation. Two classes: a cell is class x score
bin, and a bin stands for its middle; AUROC and AUPRC are of the binned score (ties count half). More classes: true x
predicted class. Nothing is clipped before it is summed, so that figures that are ratios of sums have no bias from
clipping; AUPRC alone, which divides in every bin, first projects each class onto counts that are not negative and add
up to the same, and is corrected for what that shifts in the draws below.

Intervals (95 %): a parametric bootstrap by Monte Carlo. The counts behind the cells are estimated (the projection);
around them cells are drawn 2000 times as normal with variance count + noise variance: Poisson sampling of the records
and the noise. The interval is the basic one, value - quantiles of (drawn figure - figure of the estimate), cut to the
figure's range. It holds for the population from which the sites' records are drawn; tests measure that it covers the
truth in 90 % of repetitions or more. The draws come from SHAKE-256 over the summed cells: whoever has the cells gets
the same figures, and no secret is involved. Nothing here needs or yields the true counts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from compliance.training_spec import Frozen

Floats = npt.NDArray[np.float64]
DRAWS: Final = 2000
TOLERANCE_MICRO: Final = 5  # between two machines' floating-point libraries
_QUANTILES: Final = (0.025, 0.975)


class Figure(Frozen):
    """One figure in millionths with its 95 % interval; all None if the noise drowns what it is divided by.

    `label`: of which class; "" for the whole.
    """

    name: str
    label: str
    value_micro: int | None
    low_micro: int | None
    high_micro: int | None

    def texts(self) -> tuple[str, str]:
        """Value and interval with three decimals, for people."""
        if self.value_micro is None or self.low_micro is None or self.high_micro is None:
            return "-", "drowned by the noise"
        return f"{self.value_micro / 1e6:.3f}", f"{self.low_micro / 1e6:.3f} to {self.high_micro / 1e6:.3f}"


@dataclass(frozen=True)
class _Measure:
    """A figure of tables (..., rows, columns) -> (...). `divisors`: sums that it divides by, at which it must hold."""

    name: str
    label: str
    of: Callable[[Floats], Floats]
    divisors: Callable[[Floats], list[Floats]]
    low: float = 0.0
    biased: bool = False  # by the projection; its mean shift in the draws is taken off
    least: float = 4.0  # a divisor below so many deviations of its own noise divides nothing


def figures(cells: npt.NDArray[np.int64], scale: int, deviation: float, labels: tuple[str, ...]) -> tuple[Figure, ...]:
    """All figures of `cells`, (rows, columns): sums in units of 1 / `scale` count, noise of `deviation` counts a cell.

    Deterministic. Two `labels`: (2, bins), the score being the second one's probability; more: (classes, classes).
    """
    table = cells.astype(np.float64) / scale
    estimate = project(table)
    spread = np.sqrt(estimate + deviation * deviation)
    drawn = estimate + spread * _normals(cells, (DRAWS, *table.shape))
    measures = _binary(labels, table.shape[1]) if len(labels) == 2 else _confusion(labels)
    return tuple(_figure(m, table, estimate, drawn, deviation) for m in measures)


def _figure(measure: _Measure, table: Floats, estimate: Floats, drawn: Floats, deviation: float) -> Figure:
    counted = [np.asarray(d) for d in measure.divisors(np.ones_like(table))]  # how many cells each divisor adds up
    sums = [float(d) for d in measure.divisors(table)]
    enough = all(s > measure.least * deviation * math.sqrt(float(n)) for s, n in zip(sums, counted, strict=True))
    if not enough:
        return Figure(name=measure.name, label=measure.label, value_micro=None, low_micro=None, high_micro=None)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, centre = float(measure.of(table)), float(measure.of(estimate))
        moved = measure.of(drawn) - centre
    moved = np.nan_to_num(moved, nan=0.0, posinf=1.0, neginf=-1.0)
    down, up = (float(q) for q in np.quantile(moved, _QUANTILES))
    middle = value - float(moved.mean()) if measure.biased else value
    cut = [min(max(x, measure.low), 1.0) for x in (middle, value - up, value - down)]
    value_micro, low_micro, high_micro = (round(x * 1e6) for x in cut)
    return Figure(
        name=measure.name, label=measure.label, value_micro=value_micro, low_micro=low_micro, high_micro=high_micro
    )


def project(table: Floats) -> Floats:
    """Each row's nearest counts that are not negative and add up to the same (to 0 if the row's sum is below).

    Euclidean projection onto the simplex, over the last axis: (..., rows, columns).
    """
    whole = np.maximum(table.sum(-1, keepdims=True), 0.0)
    falling = -np.sort(-table, axis=-1)
    excess = (np.cumsum(falling, axis=-1) - whole) / np.arange(1, table.shape[-1] + 1)
    last = np.maximum((falling > excess).sum(-1, keepdims=True) - 1, 0)
    nearest: Floats = np.maximum(table - np.take_along_axis(excess, last, axis=-1), 0.0)
    return nearest


def _normals(cells: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Floats:
    """Standard normals that follow from the cells: SHAKE-256, 53 bits each, through the inverse distribution."""
    from scipy.special import ndtri  # noqa: PLC0415 - slow to import, only where figures are derived

    stream = hashlib.shake_256(b"residency.evaluation/1\0" + cells.astype("<i8").tobytes())
    words = np.frombuffer(stream.digest(8 * math.prod(shape)), dtype="<u8") >> np.uint64(11)
    drawn: Floats = ndtri((words.astype(np.float64) + 0.5) * 2.0**-53).reshape(shape)
    return drawn


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.asarray(top / bottom)


def _classes(labels: tuple[str, ...], split: Callable[[Floats], Floats]) -> list[_Measure]:
    """Accuracy, balanced accuracy, and precision, recall and F1 of each class, from (..., true, predicted)."""

    def hits(t: Floats) -> Floats:
        return np.asarray(np.diagonal(split(t), axis1=-2, axis2=-1))

    def true(t: Floats) -> Floats:
        return np.asarray(split(t).sum(-1))

    def said(t: Floats) -> Floats:
        return np.asarray(split(t).sum(-2))

    def whole(t: Floats) -> Floats:
        return np.asarray(t.sum((-2, -1)))

    each = range(len(labels))
    out = [
        _Measure("accuracy", "", lambda t: _ratio(hits(t).sum(-1), whole(t)), lambda t: [whole(t)]),
        _Measure(
            "balanced_accuracy",
            "",
            lambda t: _ratio(hits(t), true(t)).mean(-1),
            lambda t: [true(t)[..., i] for i in each],
        ),
    ]
    for i, label in enumerate(labels):
        out += [
            _part("precision", label, lambda t, i=i: hits(t)[..., i], lambda t, i=i: said(t)[..., i]),
            _part("recall", label, lambda t, i=i: hits(t)[..., i], lambda t, i=i: true(t)[..., i]),
            _part("f1", label, lambda t, i=i: 2 * hits(t)[..., i], lambda t, i=i: said(t)[..., i] + true(t)[..., i]),
        ]
    return out


def _part(name: str, label: str, top: Callable[..., Floats], bottom: Callable[..., Floats]) -> _Measure:
    return _Measure(name, label, lambda t: _ratio(top(t), bottom(t)), lambda t: [bottom(t)])


def _confusion(labels: tuple[str, ...]) -> list[_Measure]:
    return _classes(labels, lambda t: t)


def _binary(labels: tuple[str, ...], bins: int) -> list[_Measure]:
    half = bins // 2
    middle = (np.arange(bins) + 0.5) / bins

    def split(t: Floats) -> Floats:
        return np.stack([t[..., :half].sum(-1), t[..., half:].sum(-1)], axis=-1)

    def true(t: Floats) -> list[Floats]:
        return [np.asarray(t[..., i, :].sum(-1)) for i in (0, 1)]

    def whole(t: Floats) -> list[Floats]:
        return [np.asarray(t.sum((-2, -1)))]

    def brier(t: Floats) -> Floats:
        missed = (t[..., 0, :] * middle**2 + t[..., 1, :] * (1 - middle) ** 2).sum(-1)
        return _ratio(missed, whole(t)[0])

    def gap(t: Floats) -> Floats:
        return _ratio((t.sum(-2) * middle).sum(-1) - t[..., 1, :].sum(-1), whole(t)[0])

    return [
        *_classes(labels, split),
        _Measure("auroc", labels[1], auroc, true),
        _Measure("auprc", labels[1], auprc, true, biased=True, least=8.0),
        _Measure("brier", "", brier, whole),
        _Measure("mean_score_minus_rate", labels[1], gap, whole, low=-1.0),
    ]


def auroc(table: Floats) -> Floats:
    """P(score of the second class > score of the first) + half of P(equal), of the binned score."""
    first, second = table[..., 0, :], table[..., 1, :]
    below = np.cumsum(first, axis=-1) - first / 2
    return _ratio((second * below).sum(-1), first.sum(-1) * second.sum(-1))


def auprc(table: Floats) -> Floats:
    """Average precision over the bins from the highest: precision at each bin's edge, weighted by the recall gained."""
    counts = project(table)[..., ::-1]
    hits = np.cumsum(counts[..., 1, :], axis=-1)
    said = np.cumsum(counts.sum(-2), axis=-1)
    precision = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
    return _ratio((precision * counts[..., 1, :]).sum(-1), counts[..., 1, :].sum(-1))
