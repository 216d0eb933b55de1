"""Sequence classification: rows of a table become texts and classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from client.data.template import parse_template
from client.tasks.base import Task, needed
from client.tasks.classes import classes_of
from client.tasks.metrics import class_metrics
from client.training.encoder_top import build_top, saved_top
from client.training.examples import Inputs
from client.training.top import Top
from client.training.trunk import cached_trunk, trunk_file
from compliance.task_spec import SequenceClassification
from compliance.training_spec import ModelSpec

if TYPE_CHECKING:
    from client.data.table import DataSource


@dataclass(frozen=True)
class Records:
    """`texts` and `labels` (int64 index into the task's `labels`) of n records, in the order of the table."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


def task_columns(task: SequenceClassification) -> tuple[str, ...]:
    """The columns that a table needs for `task`. Raises InputError RSD-2306."""
    return (*parse_template(task.template).columns, task.label_column)


def load_records(task: SequenceClassification, source: DataSource) -> Records:
    """Texts and classes of all rows. Raises InputError RSD-2300 to RSD-2306; no error holds a value of the table."""
    table = source.table(task_columns(task))
    template = parse_template(task.template)
    return Records(
        texts=tuple(template.render({str(k): v for k, v in row.items()}) for row in table.to_dict("records")),
        labels=classes_of(task, table[task.label_column]),
    )


class Classification:
    """See `client.tasks.base.Task`."""

    def columns(self, spec: SequenceClassification) -> tuple[str, ...]:
        """See `task_columns`."""
        return task_columns(spec)

    def records(self, spec: SequenceClassification, source: DataSource) -> Records:
        """See `load_records`."""
        return load_records(spec, source)

    def inputs_file(self, model: ModelSpec, spec: SequenceClassification, records: Records, cache: Path) -> Path:
        """See `trunk_file`."""
        return trunk_file(model, spec, records.texts, cache)

    def inputs(
        self,
        model: ModelSpec,
        spec: SequenceClassification,
        folder: Path | None,
        records: Records,
        cache: Path,
        device: str,
    ) -> Inputs:
        """See `cached_trunk`."""
        return cached_trunk(model, spec, needed(folder), records.texts, cache, device)

    def targets(
        self, model: ModelSpec, spec: SequenceClassification, folder: Path | None, records: Records
    ) -> torch.Tensor:
        """The classes, int64 (n,)."""
        del model, spec, folder
        return torch.from_numpy(records.labels)

    def top(self, model: ModelSpec, spec: SequenceClassification, folder: Path | None) -> Top:
        """See `build_top`."""
        return build_top(model, needed(folder), len(spec.labels))

    def saved_top(
        self, model: ModelSpec, spec: SequenceClassification, folder: Path, tensors: dict[str, torch.Tensor]
    ) -> Top:
        """See `saved_top`."""
        return saved_top(model, folder, len(spec.labels), tensors)

    def metrics(
        self, spec: SequenceClassification, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """See `class_metrics`: `targets` (n,), `scores` (n, classes)."""
        del spec
        return class_metrics(targets, scores)


TASK: Task[SequenceClassification, Records] = Classification()
