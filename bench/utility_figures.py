"""What the runs of `residency bench utility` say: means, paired differences, intervals; and the table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Runs = npt.NDArray[np.float64]  # (splits, repetitions)
Json = dict[str, Any]
TEST_TO_TRAIN: Final = 0.34 / 0.66
INTERVAL: Final = "95 %, Student's t over the means of the splits, each the mean of its repetitions"
CORRECTED: Final = "the same with the variance of Nadeau and Bengio (2003) for test parts that share records"


def spread(runs: Runs) -> Json:
    """Mean and standard deviation over all runs."""
    return {"mean": _round(float(runs.mean())), "sd": _round(float(runs.std(ddof=1)))}


def interval(runs: Runs) -> Json:
    """Mean of `runs` with its two 95 % intervals; at least two splits.

    The repetitions of a split share its rows: the splits are the sample, not the runs. Splits share rows too, which
    the `corrected` interval allows for: its variance is larger by (1/k + test/train) / (1/k) for k splits.
    """
    means = runs.mean(axis=1)
    count = len(means)
    deviation, t = float(means.std(ddof=1)), float(stdtrit(count - 1, 0.975))
    middle = float(means.mean())
    plain, wide = t * deviation / math.sqrt(count), t * deviation * math.sqrt(1 / count + TEST_TO_TRAIN)
    return {
        "mean": _round(middle),
        "interval": [_round(middle - plain), _round(middle + plain)],
        "corrected": [_round(middle - wide), _round(middle + wide)],
    }


def compared(arms: Mapping[str, Runs], published: Mapping[str, float]) -> Json:
    """Every arm's spread, and federated minus every other arm run by run, and minus every published figure."""
    ours = arms["federated"]
    return {
        "arms": {name: spread(runs) for name, runs in arms.items()},
        "differences": {
            **{f"federated - {name}": interval(ours - runs) for name, runs in arms.items() if name != "federated"},
            **{f"federated - published {name}": interval(ours - figure) for name, figure in published.items()},
        },
    }


def lines(found: Json) -> list[str]:
    """The table for people."""
    out: list[str] = []
    for data in found["datasets"]:
        out.append(
            f"{data['name']}: {data['primary']}, {data['splits']} splits x {data['repetitions']} repetitions, "
            f"delta 1/{data['inverse_delta']}, unit {data['unit']}"
        )
        for row in data["results"]:
            out.append(f"  eps {row['epsilon']:>3}  noise {row['noise_multiplier'] or '-'}")
            out += [f"    {n:<28} {a['mean']:.4f} sd {a['sd']:.4f}" for n, a in row["arms"].items()]
            out += [f"    {n:<44} {_signed(d)}" for n, d in row["differences"].items()]
            out += [f"    on own patients: {n:<27} {_signed(d)}" for n, d in row["own_test"]["differences"].items()]
    return out


def _signed(difference: Json) -> str:
    (low, high), (wide_low, wide_high) = difference["interval"], difference["corrected"]
    return f"{difference['mean']:+.4f} [{low:+.4f}, {high:+.4f}] corrected [{wide_low:+.4f}, {wide_high:+.4f}]"


def mean_of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure over the runs that define it."""
    names = sorted({name for f in figures for name in f})
    return {n: _round(float(np.mean([f[n] for f in figures if n in f]))) for n in names}


def _round(value: float) -> float:
    return round(value, 4)
