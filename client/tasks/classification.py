"""Sequence classification: rows of a table become texts and classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.data.table import DataSource
from client.data.template import parse_template
from client.data.text import canonical_text
from compliance.errors import InputError
from compliance.training_spec import TaskSpec


@dataclass(frozen=True)
class Records:
    """`texts` and `labels` (int64 index into the task's `labels`) of n records, in the order of the table."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]


def task_columns(task: TaskSpec) -> tuple[str, ...]:
    """The columns that a table needs for `task`. Raises InputError RSD-2306."""
    return (*parse_template(task.template).columns, task.label_column)


def load_records(task: TaskSpec, source: DataSource) -> Records:
    """Texts and classes of all rows. Raises InputError RSD-2300 to RSD-2306; no error holds a value of the table."""
    table = source.table(task_columns(task))
    template = parse_template(task.template)
    return Records(
        texts=tuple(template.render({str(k): v for k, v in row.items()}) for row in table.to_dict("records")),
        labels=_labels(task, table[task.label_column]),
    )


def _labels(task: TaskSpec, column: pd.Series) -> npt.NDArray[np.int64]:
    index = {label: i for i, label in enumerate(task.labels)}
    values = [canonical_text(v) for v in column.tolist()]
    # A missing class is never the "other" class: nobody said what it is.
    names = [None if v is None else task.label_values.get(v, task.label_other) for v in values]
    if None in names:
        raise InputError(
            "RSD-2304", f"column {task.label_column} holds classes that the study does not know",
            rule="every class is in task.label_values, or task.label_other is set; a missing class is an error",
            found="classes unknown or missing", limit=f"{len(task.label_values)} known",
            next="correct the export, or ask the operator to change the study",
        )  # fmt: skip
    if len(Counter(names)) < 2:
        raise InputError(
            "RSD-2305", f"column {task.label_column} holds one class only", rule="a classifier needs two classes",
            found=1, limit=2, next="check task.label_values, and that the export is complete",
        )  # fmt: skip
    return np.array([index[name] for name in names if name is not None], dtype=np.int64)
