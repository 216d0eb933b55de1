"""Public feature constants, from rows declared public. Not part of the product.

The result appears as soon as the constants are known; then the holdout's frozen features are computed for what follows.

Specification and result are JSON files. The rows are disjoint from every site's and from the holdout; the constants
stand in the signed study, so that they cost no privacy and every site uses the same ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict

from client.data.table import TableFile
from client.tasks.classification import load_records
from client.training.model_folder import model_digest
from client.training.trunk import cached_trunk
from compliance.canonical import canonical, parse_json
from compliance.files import read_bytes, write_durably
from compliance.task_spec import SequenceClassification
from compliance.training_spec import Adapters, ModelSpec
from compliance.validation import load_model
from demo import recipe

# A feature that hardly varies would be blown up to noise: its deviation counts as at least this much.
MIN_DEVIATION: Final = 1e-3
_MICRO: Final = 1_000_000


class CalibrationSpec(BaseModel):
    """What to embed: `table` holds the public rows, `holdout` the test rows; `cache` takes the features."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: Path
    holdout: Path
    layers: int
    model_dir: Path
    cache: Path
    source: str
    threads: int


def constants(pooled: torch.Tensor, source: str) -> dict[str, Any]:
    """FeatureConstants as JSON from pooled features (n, width): mean and deviation in millionths, deviation clamped."""
    mean = pooled.double().mean(0)
    deviation = pooled.double().std(0).clamp_min(MIN_DEVIATION)
    return {
        "source": source,
        "mean_micro": [round(float(v) * _MICRO) for v in mean],
        "deviation_micro": [round(float(v) * _MICRO) for v in deviation],
    }


def frozen_model(model_dir: Path) -> ModelSpec:
    """The base model alone: no adapters, so the pooled output of all layers is what the trunk gives."""
    return ModelSpec(
        name=recipe.MODEL_NAME,
        sha256=model_digest(model_dir),
        pooling="mean",
        adapters=None,
        features=None,
        feature_norm_milli=1000,
    )


def calibrate(spec: CalibrationSpec) -> dict[str, Any]:
    """Embed the rows with the frozen model and return {"features": constants, "rows": n}."""
    torch.set_num_threads(spec.threads)
    task = load_model(SequenceClassification, recipe.task(), "RSD-2007", "task")
    records = load_records(task, TableFile(spec.table))
    out = cached_trunk(frozen_model(spec.model_dir), task, spec.model_dir, records.texts, spec.cache)
    return {"features": constants(out["hidden"][:, 0, :], spec.source), "rows": len(records.texts)}


def warm_holdout(spec: CalibrationSpec) -> None:
    """Compute the holdout's input to the last `layers` layers; the evaluations find it in the cache by its digest."""
    task = load_model(SequenceClassification, recipe.task(), "RSD-2007", "task")
    texts = load_records(task, TableFile(spec.holdout)).texts
    last = Adapters(layers=spec.layers, rank=1, scale_milli=1, targets=("any",), init_seed=0)
    adapted = frozen_model(spec.model_dir).model_copy(update={"adapters": last})
    cached_trunk(adapted, task, spec.model_dir, texts, spec.cache)


def main(source: Path, target: Path) -> None:
    """Read the specification in `source`, calibrate, write `target`, prepare the holdout."""
    spec = CalibrationSpec.model_validate(parse_json(read_bytes(source, "specification"), str(source)))
    write_durably(target, canonical(calibrate(spec)))
    warm_holdout(spec)
