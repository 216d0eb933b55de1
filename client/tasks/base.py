"""What a task is: how rows become records, records the inputs of a top, and scores figures. A new task is one file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from compliance.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from client.data.table import DataSource
    from client.training.examples import Inputs
    from client.training.top import Top
    from compliance.training_spec import ModelSpec

Spec_contra = TypeVar("Spec_contra", contravariant=True)
R = TypeVar("R", bound="Records")


class Records(Protocol):
    """The raw rows of n records, in the order of the table: text and numbers, nothing that a model made of them."""

    def __len__(self) -> int:
        """n."""
        ...


class Task(Protocol[Spec_contra, R]):
    """One kind of task. `Spec_contra`: its part of the study (compliance/task_spec.py); `R`: its records.

    What a record becomes depends on the record, the study and the model alone, never on other records. No error holds
    a value of the table or a number of rows. A module of a task imports pandas and the model libraries when they are
    needed only: each task process of a site loads it.
    """

    def columns(self, spec: Spec_contra) -> tuple[str, ...]:
        """The columns that a table needs. Raises InputError RSD-2306."""
        ...

    def records(self, spec: Spec_contra, source: DataSource) -> R:
        """All rows. Raises InputError RSD-23xx."""
        ...

    def inputs_file(self, model: ModelSpec, spec: Spec_contra, records: R, cache: Path) -> Path:
        """Where `inputs` keeps its result: `trunk-<digest of all that it depends on>.safetensors` in `cache`."""
        ...

    def inputs(
        self, model: ModelSpec, spec: Spec_contra, folder: Path | None, records: R, cache: Path, device: str
    ) -> Inputs:
        """What the top takes in: the frozen part of the model, run once a record and kept in `inputs_file`.

        `folder`: the model's, None for a model without one. Raises InputError RSD-2315 to RSD-2319.
        """
        ...

    def targets(self, model: ModelSpec, spec: Spec_contra, folder: Path | None, records: R) -> torch.Tensor:
        """What each record is to say, (n, ...), as the top's `record_losses` takes it."""
        ...

    def top(self, model: ModelSpec, spec: Spec_contra, folder: Path | None) -> Top:
        """The part that is trained, its frozen weights from `folder`. Raises InputError RSD-2315 to RSD-2317."""
        ...

    def saved_top(self, model: ModelSpec, spec: Spec_contra, folder: Path, tensors: dict[str, torch.Tensor]) -> Top:
        """The top that `tensors` were taken from; `folder` holds the model's config.json, if it has one."""
        ...

    def metrics(
        self, spec: Spec_contra, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """Figures of the top's scores for records that may be counted: a public holdout, or under a charge."""
        ...


_KINDS: Final = {
    "sequence_classification": "client.tasks.classification",
    "token_classification": "client.tasks.token_classification",
    "causal_lm": "client.tasks.causal_lm",
    "image_classification": "client.tasks.image_classification",
    "tabular": "client.tasks.tabular",
}


def task_of(kind: str) -> Task[Any, Any]:
    """The task of this kind: the object TASK in its module. Raises InputError RSD-2320 for a kind without one."""
    if kind not in _KINDS:
        raise InputError(
            "RSD-2320", "this installation has no such task", rule="a task of the registry", found=kind,
            limit=", ".join(_KINDS), next="propose a study with one of these tasks",
        )  # fmt: skip
    task: Task[Any, Any] = import_module(_KINDS[kind]).TASK
    return task


def needed(folder: Path | None) -> Path:
    """The folder of a task that cannot do without one. Raises InputError RSD-2310."""
    if folder is None:
        raise InputError(
            "RSD-2310", "this task needs a model folder", rule="a model folder holds config.json", found="no folder",
            limit="config.json, tokenizer files, *.safetensors", next="name a model with a folder in the study",
        )  # fmt: skip
    return folder
