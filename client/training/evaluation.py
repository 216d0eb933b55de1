"""What a site tells of its records' scores: one noised count a cell, noise from a keystream on the integer lattice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from client.training.conformance import ALPHA, variance_plausible
from client.training.device import autocast, pick_device
from client.training.examples import Examples
from client.training.fast_products import fast_products
from client.training.fingerprint import Fingerprint, noise_bits
from client.training.keystream import Stream
from client.training.lattice import Integers, RoundedGaussian
from client.training.sampling import filled
from client.training.top import Flat, Top
from client.verdict import passed
from client.work import EvaluationSpec

ROWS: Final = 64  # records a forward pass; each is filled up, so that a score depends on no other record


def _always() -> None:
    """Nothing speaks against the next records."""


@dataclass(frozen=True)
class Counted:
    """`cells`: count times scale plus noise, int64 (rows * columns,). `conformance`: check -> passed, all true.

    `marks`: as of a round (client/training/dpsgd.py).
    """

    cells: Integers
    conformance: dict[str, bool]
    marks: dict[str, tuple[str, ...]]


def count(
    top: Top,
    examples: Examples,
    spec: EvaluationSpec,
    flat: Flat,
    stream: Stream,
    may_read: Callable[[], None] = _always,
) -> Counted:
    """Score one record of each unit with the model `flat`, count the cells, add the noise.

    Privacy: each unit adds `scale` to one cell or to none, so adding or removing a unit moves the cells by at most
    `scale` in L2; the noise is round(N(0, S^2)), S = scale * noise_multiplier_micro / 1e6, drawn from `stream` alone.
    That is one step of the Gaussian mechanism with q = 1. The caller has charged the ledger. A unit whose score is not
    finite counts nowhere: an error would tell of it. `may_read` is called before each batch and at the end; what it
    raises ends the evaluation. Raises InputError RSD-4501, RunFailed RSD-4500.
    """
    device = pick_device()
    top.to(device)
    top.set_flat(flat)
    cells = np.zeros(spec.rows * spec.columns, dtype=np.int64)
    for chosen in np.split(_one_a_unit(examples, stream), range(ROWS, len(examples), ROWS)):
        may_read()
        cells += _counts(top, examples, torch.from_numpy(chosen), spec, device)
    sampler = RoundedGaussian(spec.scale * (spec.noise_multiplier_micro / 1e6))
    noise = sampler.sample(stream, cells.size)
    may_read()
    seen = Fingerprint()
    seen.add(noise.tobytes(), noise_bits(noise.size, spec.scale * (spec.noise_multiplier_micro / 1e6)))
    marks = {"fresh_stream": (stream.mark,), "fresh_noise": seen.marks}
    return Counted(cells * spec.scale + noise, _verdict(noise, spec), marks)


def _one_a_unit(examples: Examples, stream: Stream) -> npt.NDArray[np.int64]:
    """Index of one record of each unit, drawn evenly among the unit's own, whatever the others have."""
    if examples.units is None:
        return np.arange(len(examples), dtype=np.int64)
    units = examples.units.numpy()
    order = np.lexsort((stream.words(len(examples)), units))
    first = np.flatnonzero(np.diff(units[order], prepend=-1))
    return order[first].astype(np.int64)


def _counts(
    top: Top, examples: Examples, chosen: torch.Tensor, spec: EvaluationSpec, device: torch.device
) -> npt.NDArray[np.int64]:
    """How many of the chosen records fall into each cell, each into one at most."""
    if not len(chosen):
        return np.zeros(spec.rows * spec.columns, dtype=np.int64)
    inputs, targets = examples.take(filled(chosen, ROWS), device)
    targets = targets[: len(chosen)]
    with torch.no_grad(), autocast(device), fast_products(top):
        scores = top(inputs)[: len(chosen)].float().cpu().double()
    column = place(scores.numpy(), spec)
    row = targets.cpu().numpy().astype(np.int64)
    known = (column >= 0) & (row >= 0) & (row < spec.rows)
    return np.bincount(row[known] * spec.columns + column[known], minlength=spec.rows * spec.columns)


def place(scores: npt.NDArray[np.float64], spec: EvaluationSpec) -> npt.NDArray[np.int64]:
    """The column of each record's scores (logits), (n, classes) or, for two classes, (n,) or (n, 1); -1 if not finite.

    Two classes: the bin of the second one's probability, the last bin with its upper edge. More: the greatest score.
    """
    flat = scores.reshape(len(scores), -1)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    flat = np.where(finite[:, np.newaxis], flat, 0.0)
    if spec.rows == 2:
        odds = flat[:, 0] if flat.shape[1] == 1 else flat[:, 1] - flat[:, 0]
        probability = 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
        column = np.minimum((probability * spec.columns).astype(np.int64), spec.columns - 1)
    else:
        column = flat.argmax(axis=1)
    return np.where(finite, column, -1)


def _verdict(noise: Integers, spec: EvaluationSpec) -> dict[str, bool]:
    """All checks by name, all true. Raises RunFailed RSD-4500 naming those that failed."""
    z = noise / (spec.scale * spec.noise_multiplier_micro / 1e6)
    return passed({"noise_variance": variance_plausible(float(z @ z), z.size, ALPHA)}, "evaluation")
