"""A study at one site: prepared once by a task of its own, and taken up again by each task that trains."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from client.prepared import find_prepared, forget, keep
from client.stop_file import StopFile
from client.training.device import pick_device
from client.training.dpsgd import Engine
from client.training.encoder_top import build_top, saved_top
from client.training.examples import Examples
from client.training.model_folder import check_model
from client.training.top import Top, layout_sha256, top_tensors
from client.training.trunk import cached_trunk, read_trunk, trunk_file
from client.work import Prepared, WorkSpec
from compliance.errors import EnvironmentFault, InputError, InternalBug, RunFailed
from compliance.files import write_durably

if TYPE_CHECKING:
    import pandas as pd

    from client.data.table import DataSource

_TOP, _CONFIG, _LABELS = "top.safetensors", "config.json", "labels"


@dataclass(frozen=True)
class Without:
    """A `DataSource` without the rows at positions `excluded`. Raises InputError RSD-4622 for one that it lacks."""

    source: DataSource
    excluded: Collection[int]

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

    The rows that `spec` excludes are left out; what was kept for any other spec is removed. Raises InputError RSD-2300
    to RSD-2319, RSD-4621, RSD-4622, RunFailed RSD-4620 (then nothing is kept), EnvironmentFault RSD-7001.
    """
    torch.set_num_threads(spec.threads)
    stop, cache = StopFile(spec.stop_file, spec.stop_mark), Path(spec.cache_dir)
    stop.check()
    check_model(Path(spec.model_dir), spec.model.sha256)
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
    from client.tasks.classification import load_records  # noqa: PLC0415

    folder, device = Path(spec.model_dir), pick_device()
    records = load_records(spec.task, Without(TableFile(Path(spec.table)), frozenset(spec.excluded)))
    trunk = trunk_file(spec.model, spec.task, records.texts, cache)
    forget(cache, but=trunk.name)
    cached_trunk(spec.model, spec.task, folder, records.texts, cache, device.type)
    top = build_top(spec.model, folder, len(spec.task.labels))
    tensors = {**top_tensors(top), _LABELS: torch.from_numpy(records.labels)}
    write_durably(cache / _TOP, save(tensors), private=True)
    write_durably(cache / _CONFIG, (folder / _CONFIG).read_bytes(), private=True)
    layout, size = top.layout(), int(top.get_flat().size)
    prepared = Prepared(layout=layout, layout_sha256=layout_sha256(layout), d=size, device=device.type)
    keep(spec, trunk.name, (_TOP, _CONFIG), prepared)
    return prepared


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


def resume(spec: WorkSpec, earlier: Collection[str] = ()) -> Engine:
    """The engine on what `prepare` kept for exactly this `spec`, mapped from its files.

    `earlier`: marks of streams that served before. Raises InternalBug RSD-4512 if nothing whole was kept,
    EnvironmentFault RSD-4623 if what was kept is damaged (it is removed).
    """
    torch.set_num_threads(spec.threads)
    cache, kept = Path(spec.cache_dir), find_prepared(spec)
    if kept is None:
        raise InternalBug("RSD-4512", "the worker was told to train before it was told what")
    try:
        top, examples = _kept(spec, cache, kept.trunk)
    except (SafetensorError, RuntimeError, KeyError, OSError) as e:
        forget(cache)
        raise EnvironmentFault(
            "RSD-4623", "what was prepared for this study is damaged", rule="nothing is trained from damaged files",
            found=type(e).__name__, limit="the files as they were written",
            next="check the disk; the next round prepares the study again",
        ) from e  # fmt: skip
    return Engine(top, examples, earlier=earlier)


def _kept(spec: WorkSpec, cache: Path, trunk: str) -> tuple[Top, Examples]:
    tensors = load_file(cache / _TOP)
    labels = tensors.pop(_LABELS)
    inputs = read_trunk(cache / trunk)
    if inputs is None or len(inputs["hidden"]) != len(labels):
        raise KeyError(trunk)
    return saved_top(spec.model, cache, len(spec.task.labels), tensors), Examples(inputs, labels)
