"""Accuracy and AUC of a model on the harness's holdout. Outside the product: no site's record is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from client.data.table import TableFile
from client.tasks.base import task_of
from client.training.examples import Examples, Inputs
from client.training.fast_products import fast_products
from client.training.top import Flat, Top
from compliance.canonical import parse_canonical
from compliance.files import read_bytes
from compliance.identity import parse_envelope
from compliance.study import Study
from compliance.validation import load_model

_ROWS: Final = 128


@dataclass(frozen=True)
class Score:
    """Share of right classes, and area under the ROC curve of the second class; both in [0, 1]."""

    accuracy: float
    auc: float

    def as_json(self) -> dict[str, float]:
        """Four decimals: the holdout has 1,500 rows."""
        return {"accuracy": round(self.accuracy, 4), "auc": round(self.auc, 4)}


@dataclass(frozen=True)
class Shortened(Examples):
    """Records from the shortest to the longest, so that those that are taken together have like lengths.

    They are taken without the tokens that none of them has. The product pads every pass to one public length; nobody
    watches the harness.
    """

    def take(self, records: torch.Tensor, device: torch.device) -> tuple[Inputs, torch.Tensor]:
        """See `Examples.take`."""
        inputs, targets = super().take(records, device)
        return shortened(inputs), targets


def by_length(inputs: Inputs, targets: torch.Tensor) -> Shortened:
    """These records in the order of their lengths."""
    order = inputs["mask"].sum(1).argsort(stable=True)
    return Shortened({name: t[order] for name, t in inputs.items()}, targets[order])


def shortened(inputs: Inputs) -> Inputs:
    """Without the last tokens that are padding in every row."""
    longest = int(inputs["mask"].sum(1).max())
    return {name: t[:, :longest].contiguous() for name, t in inputs.items()}


@dataclass(frozen=True)
class Holdout:
    """The test rows as the top takes them, from the shortest to the longest."""

    inputs: Inputs
    labels: npt.NDArray[np.int64]

    @property
    def majority(self) -> float:
        """Accuracy of always naming the commonest class."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    def score(self, top: Top) -> Score:
        """Score `top` as it stands."""
        logits = forward(top, self.inputs)
        right = float((logits.argmax(1) == self.labels).mean())
        return Score(right, float(roc_auc_score(self.labels, logits[:, 1] - logits[:, 0])))

    def score_flat(self, top: Top, flat: Flat) -> Score:
        """Score `top` with the trained parameters `flat`."""
        top.set_flat(flat)
        return self.score(top)


def forward(top: Top, inputs: Inputs) -> npt.NDArray[np.float32]:
    """Logits (n, classes)."""
    with torch.inference_mode(), fast_products(top):
        starts = range(0, len(inputs["mask"]), _ROWS)
        parts = [top(shortened({k: t[i : i + _ROWS] for k, t in inputs.items()})) for i in starts]
    logits: npt.NDArray[np.float32] = torch.cat(parts).float().numpy()
    return logits


def read_study(path: Path) -> Study:
    """The study inside a signed file; the harness does not judge signatures."""
    payload = parse_envelope(read_bytes(path, "study"), str(path)).payload
    return load_model(Study, parse_canonical(payload, str(path)), "RSD-2007", str(path))


def load_holdout(study: Study, table: Path, model_dir: Path, cache: Path) -> Holdout:
    """The holdout's trunk output, from the cache if it is there."""
    task = task_of(study.task.kind)
    records = task.records(study.task, TableFile(table))
    inputs = task.inputs(study.model, study.task, model_dir, records, cache, "cpu")
    rows = by_length(inputs, task.targets(study.model, study.task, model_dir, records))
    return Holdout(rows.inputs, rows.targets.numpy())


def fresh_top(study: Study, model_dir: Path) -> Top:
    """An untrained top of the study's model."""
    return task_of(study.task.kind).top(study.model, study.task, model_dir)


def average(flats: list[Flat]) -> Flat:
    """The mean that the release takes over the last rounds: float64, then float32."""
    mean: Flat = np.mean(np.stack(flats).astype(np.float64), axis=0).astype(np.float32)
    return mean
