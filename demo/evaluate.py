"""Scores every round's global model and the released one. Outside the product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from client.training.top import Flat
from compliance.canonical import parse_json
from compliance.files import read_bytes
from demo.measuring import average, fresh_top, load_holdout, read_study
from demo.results import write_json


class EvaluationSpec(BaseModel):
    """Files: the signed study, the run's snapshots (round-NNN.f32), the holdout."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    study: Path
    snapshots: Path
    holdout: Path
    model_dir: Path
    cache: Path
    threads: int


def read_flat(path: Path) -> Flat:
    """A snapshot: little-endian float32."""
    flat: Flat = np.frombuffer(read_bytes(path, "snapshot"), dtype="<f4").astype(np.float32)
    return flat


def evaluate(spec: EvaluationSpec) -> dict[str, Any]:
    """{"rounds": [{round, accuracy, auc}], "released": score, "trained_parameters": {head, adapters}}."""
    torch.set_num_threads(spec.threads)
    study = read_study(spec.study)
    holdout = load_holdout(study, spec.holdout, spec.model_dir, spec.cache)
    top = fresh_top(study, spec.model_dir)
    flats = [read_flat(p) for p in sorted(spec.snapshots.glob("round-*.f32"))]
    scores = [holdout.score_flat(top, flat) for flat in flats]
    last = study.aggregation.average_last_rounds  # one: what was scored as the last round's is released
    released = scores[-1] if last == 1 else holdout.score_flat(top, average(flats[-last:]))
    sizes = {e.name: int(np.prod(e.shape)) for e in top.layout()}
    head = sum(n for name, n in sizes.items() if name.startswith("head."))
    return {
        "rounds": [{"round": i, **score.as_json()} for i, score in enumerate(scores)],
        "released": released.as_json(),
        "majority": round(holdout.majority, 4),
        "trained_parameters": {"head": head, "adapters": sum(sizes.values()) - head},
    }


def main(source: Path, target: Path) -> None:
    """Read the specification in `source`, evaluate, write `target`."""
    spec = EvaluationSpec.model_validate(parse_json(read_bytes(source, "specification"), str(source)))
    write_json(target, evaluate(spec))
