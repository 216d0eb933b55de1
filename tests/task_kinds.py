"""Each kind of task with a model folder: a tiny model, a table that serves them all, and its records as examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from client.data.table import TableFile
from client.tasks.base import task_of
from client.tasks.image_classification import scaled
from client.training import trunk
from client.training.examples import Examples
from client.training.group_norm import convert
from client.training.model_folder import load_tokenizer
from client.work import WorkSpec
from compliance.canonical import sha256_hex
from compliance.training_spec import ModelSpec
from tests.tiny_bert import save_tiny_bert, tiny_model, tiny_round, tiny_task
from tests.tiny_models import (
    adapters,
    causal_task,
    image_task,
    model_of,
    save_tiny_gpt2,
    save_tiny_resnet,
    save_tiny_vit,
    token_task,
)

ROWS = 9
KINDS = (
    "texts", "texts-decoder", "words", "words-whole", "words-decoder", "next-token", "vit", "vit-head", "convolutions",
    "convolutions-head",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One study's task and model, with a table for it."""

    task: Any
    model: ModelSpec
    folder: Path
    table: Path


def write_kinds(root: Path) -> Path:
    """The model folders bert, gpt2, vit and gn, and table.csv."""
    save_tiny_bert(root / "bert")
    save_tiny_gpt2(root / "gpt2")
    save_tiny_vit(root / "vit")
    convert(save_tiny_resnet(root / "resnet"), root / "gn", 2)
    write_rows(root)
    return root


def write_rows(root: Path) -> None:
    """One table for all kinds, and its images."""
    rng = np.random.default_rng(4)
    (root / "images").mkdir()
    rows = []
    for i in range(ROWS):
        pixels = rng.integers(0, 255, (10, 9, 3), dtype=np.uint8)
        name = f"images/{i}.{'npy' if i == 1 else 'png'}"
        if i == 1:
            np.save(root / name, pixels)
        else:
            Image.fromarray(pixels).save(root / name)
        count = int(rng.integers(2, 7))
        rows.append(
            {
                "TSH": round(float(rng.uniform(0, 9)), 1),
                "age": int(rng.integers(20, 90)),
                "target": "-" if i % 3 else "K",
                "words": " ".join(rng.choice(["tsh", "age", "low", "high", "73"], count)),
                "tags": " ".join(rng.choice(["O", "B-lab", "I-lab"], count)),
                "image": name,
                "digest": sha256_hex((root / name).read_bytes()),
            }
        )
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)


def made(root: Path, kind: str) -> Made:
    """The study's parts of this kind."""
    bert, gpt2, vit, gn = (root / name for name in ("bert", "gpt2", "vit", "gn"))
    text = tiny_task(label_values={"-": "no", "K": "yes"}, label_other=None)
    lora = adapters("c_attn", "mlp.c_proj")
    found = {
        "texts": (text, tiny_model(bert)),
        "texts-decoder": (text, model_of(gpt2, adapters=lora)),
        "words": (token_task(), model_of(bert, pooling="none", adapters=adapters("query", "output.dense"))),
        "words-whole": (token_task(), model_of(bert, pooling="none", whole_layers=1)),
        "words-decoder": (token_task(), model_of(gpt2, pooling="none", adapters=lora)),
        "next-token": (causal_task(), model_of(gpt2, pooling="none", feature_norm_milli=None, adapters=lora)),
        "vit": (image_task(), model_of(vit, adapters=adapters("q_proj", "v_proj", "fc2"))),
        "vit-head": (image_task(sha256_column="digest"), model_of(vit)),
        "convolutions": (image_task(side=32), model_of(gn, whole_layers=1)),
        "convolutions-head": (image_task(side=32), model_of(gn)),
    }
    task, model = found[kind]
    folders = [f for f in (bert, gpt2, vit, gn) if model_of(f).sha256 == model.sha256]
    return Made(task, model, folders[0], root / "table.csv")


def examples_of(m: Made, cache: Path) -> Examples:
    """All records of the table."""
    task = task_of(m.task.kind)
    records = task.records(m.task, TableFile(m.table))
    inputs = task.inputs(m.model, m.task, m.folder, records, cache, "cpu")
    return Examples(inputs, task.targets(m.model, m.task, m.folder, records))


def work(m: Made, cache: Path, **changes: object) -> WorkSpec:
    """What a site is asked to load."""
    fields = {
        "task": m.task, "model": m.model, "model_dir": str(m.folder), "table": str(m.table), "cache_dir": str(cache),
        "table_sha256": sha256_hex(m.table.read_bytes()), "threads": 1,
        "first_round": tiny_round(physical_batch=16),
    }  # fmt: skip
    return WorkSpec(**{**fields, **changes})


def plain_inputs(m: Made) -> dict[str, torch.Tensor]:
    """The model's own inputs, all rows at once."""
    records = task_of(m.task.kind).records(m.task, TableFile(m.table))
    if m.task.kind == "image_classification":
        rows = [scaled(records.image(i, 3), m.task) for i in range(ROWS)]
        return {"pixel_values": torch.stack(rows)}
    words = m.task.kind == "token_classification"
    texts = list(records.words) if words else list(records.texts)
    read = trunk.read_texts(load_tokenizer(m.folder, words=words), texts, m.task.max_tokens, words=words)
    return read(0, ROWS)
