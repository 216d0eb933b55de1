"""Set up the training of one study at one site from local files."""

from __future__ import annotations

from pathlib import Path

import torch

from client.data.table import TableFile
from client.tasks.classification import load_records
from client.training.device import pick_device
from client.training.dpsgd import Engine, Examples
from client.training.model_folder import check_model
from client.training.top import build_top, layout_sha256
from client.training.trunk import cached_trunk
from client.work import Prepared, WorkSpec


def prepare(spec: WorkSpec) -> tuple[Engine, Prepared]:
    """Check the model against the study, read the table, run the frozen layers (or find them cached), build the top.

    Raises InputError RSD-2300 to RSD-2319.
    """
    torch.set_num_threads(spec.threads)
    folder = Path(spec.model_dir)
    check_model(folder, spec.model.sha256)
    records = load_records(spec.task, TableFile(Path(spec.table)))
    device = pick_device()
    inputs = cached_trunk(spec.model, spec.task, folder, records.texts, Path(spec.cache_dir), device.type)
    top = build_top(spec.model, folder, len(spec.task.labels))
    engine = Engine(top, Examples(inputs, torch.from_numpy(records.labels)), device)
    layout = top.layout()
    size = int(top.get_flat().size)
    return engine, Prepared(layout=layout, layout_sha256=layout_sha256(layout), d=size, device=engine.device)
