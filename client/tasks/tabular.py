"""Tabular classification: rows of numbers and categories, scaled by the study's public constants alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from client.data.text import canonical_text, value_of
from client.tasks.base import Task
from client.tasks.classes import classes_of
from client.tasks.metrics import class_metrics
from client.training.examples import Inputs
from client.training.tabular_top import CELLS, TabularTop
from client.training.top import Top
from client.training.trunk import read_trunk
from compliance.canonical import canonical
from compliance.errors import InputError
from compliance.files import write_durably
from compliance.task_spec import Categorical, Numeric, Tabular
from compliance.training_spec import BuiltIn, ModelSpec

if TYPE_CHECKING:
    import pandas as pd

    from client.data.table import DataSource

Cells = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Records:
    """`cells` float32 (n, width) in the order of the task's `cells`, and `labels` int64 (n,)."""

    cells: Cells
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def load_records(task: Tabular, source: DataSource) -> Records:
    """All rows. A row's cells depend on that row and the study alone.

    A site whose rows have one class only is taken as it is: a federation can learn from it, and a refusal would tell
    its counts. Raises InputError RSD-2300 to RSD-2304, RSD-2350; no error holds a value of the table.
    """
    table = source.table(task_columns(task))
    columns = {n.column: _numbers(n.column, table[n.column]) for n in task.numeric}
    cells: list[npt.NDArray[np.float64]] = []
    seen: set[str] = set()
    for n in task.numeric:
        scaled, missing = _scaled(n, columns[n.column])
        cells += [scaled] if n.column in seen else [scaled, missing]
        seen.add(n.column)
    for c in task.categorical:
        cells += _one_hot(c, table[c.column])
    labels = classes_of(task, table[task.label_column])
    return Records(np.stack(cells, axis=1).astype(np.float32), labels)


def task_columns(task: Tabular) -> tuple[str, ...]:
    """The columns that a table needs for `task`, each once."""
    names = (*(n.column for n in task.numeric), *(c.column for c in task.categorical), task.label_column)
    return tuple(dict.fromkeys(names))


def _numbers(name: str, column: pd.Series) -> npt.NDArray[np.float64]:
    """Each cell as float64: NaN if missing, 1 and 0 for truth values. Raises InputError RSD-2350 for other things."""
    values = [value_of(cell) for cell in column.tolist()]
    if any(isinstance(v, str) for v in values):
        raise _no_numbers(name)
    try:
        numbers = np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)
    except OverflowError:
        raise _no_numbers(name) from None
    if np.isinf(numbers).any():
        raise _no_numbers(name)
    return numbers


def _no_numbers(name: str) -> InputError:
    return InputError(
        "RSD-2350", f"column {name} holds something else than numbers", rule="task.numeric lists columns of finite "
        "numbers; an empty cell is a missing value", found="text, a date or an infinite value", limit="numbers",
        next="correct the export, or have the study name the column under task.categorical",
    )  # fmt: skip


def _scaled(spec: Numeric, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """The scaled value, 0 where missing, and the cell that says so."""
    missing = np.isnan(values) | np.isin(values, np.array(spec.missing_micro, dtype=np.float64) / 1e6)
    scaled = (values - spec.centre_micro / 1e6) / (spec.half_width_micro / 1e6)
    return np.where(missing, 0.0, np.clip(scaled, -1.0, 1.0)), missing.astype(np.float64)


def _one_hot(spec: Categorical, column: pd.Series) -> list[npt.NDArray[np.float64]]:
    place = {canonical_text(name): i for i, name in enumerate(spec.categories)}
    other = place[None] = len(spec.categories)
    found = np.array([place.get(canonical_text(v), other) for v in column.tolist()])
    return [(found == i).astype(np.float64) for i in range(other + 1)]


def _network(model: ModelSpec) -> BuiltIn:
    if model.built_in is None:
        raise InputError(
            "RSD-2351", "a table needs a built-in model", rule="model.built_in describes it", found="a model folder",
            limit="logistic_regression or mlp", next="set model.built_in in the study",
        )  # fmt: skip
    return model.built_in


class TabularClassification:
    """See `client.tasks.base.Task`. The model has no folder and no frozen part: the cells go into the top."""

    def columns(self, spec: Tabular) -> tuple[str, ...]:
        """See `task_columns`."""
        return task_columns(spec)

    def records(self, spec: Tabular, source: DataSource) -> Records:
        """See `load_records`."""
        return load_records(spec, source)

    def inputs_file(self, model: ModelSpec, spec: Tabular, records: Records, cache: Path) -> Path:
        """Named after the model, the task and the cells."""
        del spec  # the cells are all that it makes
        digest = hashlib.sha256(canonical({"v": 1, "kind": "tabular", "model": model.sha256}))
        digest.update(repr(records.cells.shape).encode() + np.ascontiguousarray(records.cells).tobytes())
        return cache / f"trunk-{digest.hexdigest()}.safetensors"

    def inputs(
        self, model: ModelSpec, spec: Tabular, folder: Path | None, records: Records, cache: Path, device: str
    ) -> Inputs:
        """The cells, (n, width)."""
        del folder, device
        path = self.inputs_file(model, spec, records, cache)
        if (hit := read_trunk(path)) is not None:
            return hit
        out = {CELLS: torch.from_numpy(records.cells)}
        write_durably(path, save(out), private=True)
        return read_trunk(path) or out

    def targets(self, model: ModelSpec, spec: Tabular, folder: Path | None, records: Records) -> torch.Tensor:
        """The classes, int64 (n,)."""
        del model, spec, folder
        return torch.from_numpy(records.labels)

    def top(self, model: ModelSpec, spec: Tabular, folder: Path | None) -> Top:
        """The network as the study describes it. Raises InputError RSD-2351."""
        del folder
        norm = None if model.feature_norm_milli is None else model.feature_norm_milli / 1000
        return TabularTop(_network(model), len(spec.cells), len(spec.labels), norm)

    def saved_top(self, model: ModelSpec, spec: Tabular, folder: Path, tensors: dict[str, torch.Tensor]) -> Top:
        """As `top`: where it begins follows from the study. RuntimeError if `tensors` are another top's."""
        top = self.top(model, spec, folder)
        top.load_state_dict(tensors, strict=True)
        return top

    def metrics(
        self, spec: Tabular, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """See `class_metrics`."""
        del spec
        return class_metrics(targets, scores)


TASK: Task[Tabular, Records] = TabularClassification()
