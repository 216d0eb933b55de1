"""The harness's own baselines. Outside the product's path.

Each site alone, with the same engine, noise, steps and rounds as in the federation, starting from the same zeros; all
sites' rows pooled without privacy; the majority class. All on the holdout. A site's cached frozen features are read
from `borrow` when they are there (they are a function of rows and model only), else computed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from client.data.table import TableFile
from client.tasks.base import task_of
from client.training.dpsgd import Engine
from client.training.examples import Examples, Inputs
from client.training.keystream import Keystream
from client.training.per_sample.products import FrozenSite
from client.training.top import Top
from client.work import RoundSpec
from compliance.canonical import parse_json
from compliance.files import read_bytes
from compliance.study import SiteTerms, Study
from demo.measuring import Holdout, Score, average, by_length, fresh_top, load_holdout, read_study, shortened
from demo.results import write_json

POOLED_EPOCHS: Final = 2
POOLED_HEAD_RATE: Final = 3e-2  # the head starts at zero on vectors of length 3: it needs the larger rate
POOLED_ADAPTER_RATE: Final = 3e-3
POOLED_BATCH: Final = 64
POOLED_SEED: Final = 1
_LIKE: Final = 8  # batches whose rows are sorted among each other, so that a batch holds rows of like length


class BaselineSpec(BaseModel):
    """Files: the signed study, the sites' tables, where caches are, the holdout; and which baselines to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    study: Path
    tables: dict[str, Path]
    holdout: Path
    model_dir: Path
    cache: Path
    borrow: dict[str, Path]
    threads: int
    alone: tuple[str, ...]
    pooled: bool
    head_only: bool = False


@dataclass(frozen=True)
class Bench:
    """What all baselines share."""

    spec: BaselineSpec
    study: Study
    holdout: Holdout

    def examples(self, site: str) -> Examples:
        """The site's records as the top takes them."""
        study, spec = self.study, self.spec
        task = task_of(study.task.kind)
        records = task.records(study.task, TableFile(spec.tables[site]))
        self._borrow(task.inputs_file(study.model, study.task, records, spec.cache).name, site)
        inputs = task.inputs(study.model, study.task, spec.model_dir, records, spec.cache, "cpu")
        return by_length(inputs, task.targets(study.model, study.task, spec.model_dir, records))

    def _borrow(self, name: str, site: str) -> None:
        theirs = next(iter(sorted(self.spec.borrow[site].rglob(name))), None) if site in self.spec.borrow else None
        if theirs is not None and not (self.spec.cache / name).exists():
            self.spec.cache.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(theirs, self.spec.cache / name)


def round_spec(study: Study, terms: SiteTerms, number: int) -> RoundSpec:
    """One round as the site would run it in the federation."""
    training = study.training
    return RoundSpec(
        round=number,
        attempt=1,
        steps=training.steps,
        sample_numerator=terms.batch,
        sample_denominator=terms.records_public,
        expected_batch=terms.batch,
        clip_micro=study.privacy.clip_micro,
        noise_multiplier_micro=terms.noise_multiplier_micro,
        physical_batch=training.physical_batch,
        head_rate_milli=training.head_rate_milli,
        adapter_rate_milli=training.adapter_rate_milli,
    )


def alone(bench: Bench, examples: Examples, terms: SiteTerms) -> Score:
    """The site by itself: the federation's rounds with nobody else, averaged over the same last rounds."""
    top = fresh_top(bench.study, bench.spec.model_dir)
    engine = Engine(top, examples)
    flat = top.get_flat()
    history = []
    for number in range(1, bench.study.training.rounds + 1):
        flat = flat + engine.train(round_spec(bench.study, terms, number), flat, Keystream.fresh()).delta
        history.append(flat)
    return bench.holdout.score_flat(top, average(history[-bench.study.aggregation.average_last_rounds :]))


def pooled(bench: Bench, parts: list[Examples]) -> Score:
    """All rows in one place, no clipping, no noise: Adam on the same trained parameters, a fixed seed."""
    torch.manual_seed(POOLED_SEED)
    top = fresh_top(bench.study, bench.spec.model_dir)
    _quicken(top)
    optimizer = torch.optim.Adam(
        [
            {"params": [p], "lr": POOLED_HEAD_RATE if name.startswith("head.") else POOLED_ADAPTER_RATE}
            for name, p in top.trained()
        ]
    )
    rows = [(k, i) for k, part in enumerate(parts) for i in range(len(part))]
    lengths = torch.cat([part.inputs["mask"].sum(1) for part in parts])
    for _ in range(POOLED_EPOCHS):
        for batch in _batches(lengths):
            inputs, labels = _gather(parts, [rows[i] for i in batch.tolist()])
            optimizer.zero_grad()
            torch.autograd.backward(top.record_losses(inputs, labels).mean())
            optimizer.step()
    return bench.holdout.score(top)


def _quicken(top: Top) -> None:
    """The layers that nothing trains compute as they do in the engine."""
    frozen: list[Any] = [m for m in top.modules() if type(m) is nn.Linear and not m.weight.requires_grad]
    for layer in frozen:
        layer.forward = FrozenSite(layer).forward


def _batches(lengths: torch.Tensor) -> list[torch.Tensor]:
    """An epoch: every row once, in a random order, as batches of rows of like length."""
    some = torch.split(torch.randperm(len(lengths)), _LIKE * POOLED_BATCH)
    batches = [batch for rows in some for batch in torch.split(rows[lengths[rows].argsort()], POOLED_BATCH)]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def _gather(parts: list[Examples], rows: list[tuple[int, int]]) -> tuple[Inputs, torch.Tensor]:
    names = parts[0].inputs
    inputs = {name: torch.stack([parts[k].inputs[name][i] for k, i in rows]) for name in names}
    return shortened(inputs), torch.stack([parts[k].targets[i] for k, i in rows])


def run(spec: BaselineSpec) -> dict[str, Any]:
    """The wanted baselines as JSON: majority, alone {site: score}, pooled, head_only (None if not wanted)."""
    torch.set_num_threads(spec.threads)
    study = read_study(spec.study)
    bench = Bench(spec, study, load_holdout(study, spec.holdout, spec.model_dir, spec.cache))
    terms = {t.name: t for t in study.sites}
    return {
        "majority": round(bench.holdout.majority, 4),
        "alone": {name: alone(bench, bench.examples(name), terms[name]).as_json() for name in spec.alone},
        "pooled": pooled(bench, [bench.examples(name) for name in spec.tables]).as_json() if spec.pooled else None,
        "head_only": head_only(spec).as_json() if spec.head_only else None,
    }


def head_only(spec: BaselineSpec) -> Score:
    """The same federation without adapters: the same noise, rounds, steps and weights, the head alone."""
    whole = read_study(spec.study)
    study = whole.model_copy(update={"model": whole.model.model_copy(update={"adapters": None})})
    bench = Bench(spec, study, load_holdout(study, spec.holdout, spec.model_dir, spec.cache))
    terms = [t for t in study.sites if t.name in spec.tables]
    engines = [Engine(fresh_top(study, spec.model_dir), bench.examples(t.name)) for t in terms]
    top = fresh_top(study, spec.model_dir)
    flat, history = top.get_flat(), []
    for number in range(1, study.training.rounds + 1):
        deltas = [
            e.train(round_spec(study, t, number), flat, Keystream.fresh()).delta
            for e, t in zip(engines, terms, strict=True)
        ]
        flat = flat + np.average(deltas, axis=0, weights=[t.weight for t in terms]).astype(np.float32)
        history.append(flat)
    return bench.holdout.score_flat(top, average(history[-study.aggregation.average_last_rounds :]))


def main(source: Path, target: Path) -> None:
    """Read the specification in `source`, run, write `target`."""
    spec = BaselineSpec.model_validate(parse_json(read_bytes(source, "specification"), str(source)))
    write_json(target, run(spec))
