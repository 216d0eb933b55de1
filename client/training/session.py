"""A study at one site: prepared once by a task of its own, and taken up again by each task that trains."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from client.prepared import find_prepared, forget, keep
from client.stop_file import StopFile
from client.tasks.base import needed, task_of
from client.training.device import pick_device
from client.training.dpsgd import Engine
from client.training.evaluation import ROWS
from client.training.examples import Examples
from client.training.model_folder import check_model
from client.training.per_sample.attach import PROBE_ROWS, BookKeeping
from client.training.per_sample.probe import records_independent
from client.training.place_check import check_top_places
from client.training.sampling import input_rows
from client.training.top import Top, layout_sha256, top_tensors
from client.training.trunk import read_trunk
from client.training.trunk_check import mixes
from client.work import Prepared, RoundSpec, WorkSpec
from compliance.errors import EnvironmentFault, InputError, InternalBug, ResidencyError, RunFailed
from compliance.files import write_durably

if TYPE_CHECKING:
    import pandas as pd

    from client.data.table import DataSource

_TOP, _CONFIG, _TARGETS, _UNITS = "top.safetensors", "config.json", "targets", "units"


@dataclass(frozen=True)
class Without:
    """A `DataSource` without the rows at positions `excluded`. Raises InputError RSD-4622 for one that it lacks."""

    source: DataSource
    excluded: Collection[int]

    @property
    def folder(self) -> Path:
        """Where the table lies; AttributeError for a source that lies nowhere."""
        folder: Path = self.source.folder  # type: ignore[attr-defined]
        return folder

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `DataSource.table`."""
        table = self.source.table(columns)
        if self.excluded and not 0 <= min(self.excluded) <= max(self.excluded) < len(table):
            raise InputError(
                "RSD-4622", "the rows to leave out are not rows of this table", rule="positions of withdrawn subjects",
                found="a position beyond the table", limit="the registered extract",
                next="restore the registered extract",
            )  # fmt: skip
        return table.drop(index=table.index[sorted(self.excluded)])


def prepare(spec: WorkSpec) -> Prepared:
    """Check model and table against the study, run the frozen layers (or find them cached), keep what training takes.

    The rows that `spec` excludes are left out; what was kept for any other spec is removed. Nothing is charged yet, and
    what a round could not train is refused here. Raises InputError RSD-2300 to RSD-2341, RSD-4520 to RSD-4529,
    RSD-4621, RSD-4622, RunFailed RSD-4620 (then nothing is kept), EnvironmentFault RSD-7001.
    """
    torch.set_num_threads(spec.threads)
    stop, cache = StopFile(spec.stop_file, spec.stop_mark), Path(spec.cache_dir)
    stop.check()
    if folder := _folder(spec):
        check_model(folder, spec.model.sha256)
    _check_table(spec)
    if kept := find_prepared(spec):
        return kept.prepared.model_copy(update={"device": pick_device().type})
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o700)
    prepared = _prepare(spec, cache)
    try:
        stop.check()
    except RunFailed:
        forget(cache)
        raise
    return prepared


def _prepare(spec: WorkSpec, cache: Path) -> Prepared:
    from client.data.table import TableFile  # noqa: PLC0415 - pandas: only here, not in every task

    task, folder, device = task_of(spec.task.kind), _folder(spec), pick_device()
    records = task.records(spec.task, Without(TableFile(Path(spec.table)), frozenset(spec.excluded)))
    trunk = task.inputs_file(spec.model, spec.task, records, cache)
    forget(cache, but=trunk.name)
    top = task.top(spec.model, spec.task, folder)  # first: what is refused here leaves nothing behind
    targets = task.targets(spec.model, spec.task, folder, records)
    inputs = task.inputs(spec.model, spec.task, folder, records, cache, device.type)
    try:
        _try_out(top, Examples(inputs, targets), device, spec.first_round)
    except ResidencyError:
        forget(cache)
        raise
    tensors = {**top_tensors(top), **_units(spec), _TARGETS: targets.contiguous()}
    write_durably(cache / _TOP, save(tensors), private=True)
    config = (folder / _CONFIG).read_bytes() if folder else b"{}"
    write_durably(cache / _CONFIG, config, private=True)
    layout, size = top.layout(), int(top.get_flat().size)
    prepared = Prepared(layout=layout, layout_sha256=layout_sha256(layout), d=size, device=device.type)
    keep(spec, trunk.name, (_TOP, _CONFIG), prepared)
    return prepared


def _try_out(top: Top, examples: Examples, device: torch.device, spec: RoundSpec) -> None:
    """Every trained layer has a per-sample rule, and a record's gradient is its own, at every bit in the passes of
    `spec`: told before anything is charged.

    On public records of the site's shapes; leaves the top as it was. Raises InputError RSD-2340, RSD-2343, RSD-4520 to
    RSD-4529.
    """
    top.to(device)
    with BookKeeping(top, top.trained(), PROBE_ROWS) as source:
        independent = bool(records_independent(top, source, examples, device))
    if not independent:
        raise mixes("the trained part's gradient for a record")
    check_top_places(top, examples, device, input_rows(spec, examples), spec.records_per_unit, ROWS)
    top.set_flat(np.zeros(sum(p.numel() for _, p in top.trained()), np.float32))


def _folder(spec: WorkSpec) -> Path | None:
    """The model's folder; None for a built-in model. Raises InputError RSD-2310."""
    return None if spec.model.built_in else needed(None if spec.model_dir is None else Path(spec.model_dir))


def _units(spec: WorkSpec) -> dict[str, torch.Tensor]:
    """Whose each record is, where the study protects patients. Raises InputError RSD-2414."""
    if spec.group_column is None:
        return {}
    from client.data.table import TableFile  # noqa: PLC0415 - pandas
    from client.data.units import patient_units  # noqa: PLC0415

    column = Without(TableFile(Path(spec.table)), frozenset(spec.excluded)).table([spec.group_column])
    return {_UNITS: torch.from_numpy(patient_units(column[spec.group_column].tolist()))}


def _check_table(spec: WorkSpec) -> None:
    """The file of the table is the registered one, or not there at all: that has an error of its own."""
    path = Path(spec.table)
    if not path.is_file():
        return
    with path.open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != spec.table_sha256:
        raise InputError(
            "RSD-4621", "the dataset's file is not the registered one", rule="rows are bound to a ledger",
            found=found[:12], limit=spec.table_sha256[:12], next="restore the file, or register the new extract",
        )  # fmt: skip


def resume(spec: WorkSpec) -> Engine:
    """The engine on what `prepare` kept for exactly this `spec`, mapped from its files. Raises as `held`."""
    return Engine(*held(spec))


def held(spec: WorkSpec) -> tuple[Top, Examples]:
    """The top and the records that `prepare` kept for exactly this `spec`.

    Raises InternalBug RSD-4512 if nothing whole was kept, EnvironmentFault RSD-4623 if what was kept is damaged (it is
    removed).
    """
    torch.set_num_threads(spec.threads)
    cache, kept = Path(spec.cache_dir), find_prepared(spec)
    if kept is None:
        raise InternalBug("RSD-4512", "the worker was told to train before it was told what")
    try:
        return _kept(spec, cache, kept.trunk)
    except (SafetensorError, RuntimeError, KeyError, OSError, InputError) as e:
        forget(cache)
        raise EnvironmentFault(
            "RSD-4623", "what was prepared for this study is damaged", rule="nothing is trained from damaged files",
            found=type(e).__name__, limit="the files as they were written",
            next="check the disk; the next round prepares the study again",
        ) from e  # fmt: skip


def _kept(spec: WorkSpec, cache: Path, trunk: str) -> tuple[Top, Examples]:
    tensors = load_file(cache / _TOP)
    targets, units = tensors.pop(_TARGETS), tensors.pop(_UNITS, None)
    inputs = read_trunk(cache / trunk)
    if inputs is None or any(len(t) != len(targets) for t in inputs.values()):
        raise KeyError(trunk)
    top = task_of(spec.task.kind).saved_top(spec.model, spec.task, cache, tensors)
    if (spec.group_column is None) != (units is None) or (units is not None and len(units) != len(targets)):
        raise KeyError(_UNITS)
    return top, Examples(inputs, targets, units)
