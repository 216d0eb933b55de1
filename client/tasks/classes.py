"""The class of each record, from one column: for every task with one class a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from client.data.text import canonical_text
from compliance.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Classes(Protocol):
    """The part of a task that says what a column's values mean (compliance/task_spec.py)."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def label_column(self) -> str: ...
    @property
    def label_values(self) -> Mapping[str, str]: ...
    @property
    def label_other(self) -> str | None: ...


def classes_of(task: Classes, column: pd.Series) -> npt.NDArray[np.int64]:
    """Index into `labels` of each row's class, int64 (n,).

    One class only is as good as several: a refusal would tell the operator a site's class counts, and, after a
    withdrawal, when the last record of a class left. Raises InputError RSD-2304 (unknown or missing class), which
    holds no value.
    """
    index = {label: i for i, label in enumerate(task.labels)}
    known = _known(task)
    values = [canonical_text(v) for v in column.tolist()]
    # A missing class is never the "other" class: nobody said what it is.
    names = [None if v is None else known.get(v, task.label_other) for v in values]
    if None in names:
        raise unknown_class(task.label_column, "every class is in task.label_values, or task.label_other is set; a "
                            "missing class is an error", len(task.label_values))  # fmt: skip
    return np.array([index[name] for name in names if name is not None], dtype=np.int64)


def _known(task: Classes) -> dict[str | None, str]:
    """The study's values as cells are read: "01" and "1" are one. InputError RSD-2304 if they have two classes."""
    known: dict[str | None, str] = {}
    for value, label in task.label_values.items():
        if known.setdefault(canonical_text(value), label) != label:
            raise unknown_class(task.label_column, "each value of task.label_values, read as a cell is, has one class",
                                len(task.label_values))  # fmt: skip
    return known


def unknown_class(column: str, rule: str, known: int) -> InputError:
    """RSD-2304."""
    return InputError(
        "RSD-2304", f"column {column} holds classes that the study does not know", rule=rule,
        found="classes unknown or missing", limit=f"{known} known",
        next="correct the export, or ask the operator to change the study",
    )  # fmt: skip
