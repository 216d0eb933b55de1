"""The kinds of task of a site's study: prepare it, train one attempt, evaluate. The agent's side; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from client.fingerprints import Fingerprints
from client.framing import Array
from client.limits import Limits
from client.prepared import find_prepared
from client.verdict import passed
from client.warm import Warm
from client.work import Evaluated, EvaluationSpec, Prepared, RoundSpec, Trained, WorkSpec
from compliance.errors import EnvironmentFault
from compliance.validation import load_model


@dataclass
class TrainingWorker:
    """The tasks of one study on `warm`; one at a time.

    `prepare_s` and `train_s` bound one task, `memory_mib` its private memory. The caller charges the ledger before it
    calls `train`, and calls `train` once per charged attempt. `drawn`: what rounds and evaluations of this site drew
    before; a task that draws it again has failed.
    """

    spec: WorkSpec
    warm: Warm
    memory_mib: int
    prepare_s: float
    train_s: float
    drawn: Fingerprints = field(default_factory=Fingerprints)

    def prepare(self) -> Prepared:
        """Load data and model, keep what training takes. Raises what the task raised, and as `Warm.run`."""
        header = {"do": "prepare", "work": self.spec.model_dump(mode="json")}
        answer, _ = self.warm.run(header, None, self._limits(self.prepare_s), self.prepare_s)
        return load_model(Prepared, answer, "RSD-4511", "the worker's answer")

    def train(self, spec: RoundSpec, start: Array) -> tuple[Array, Trained]:
        """Run one charged attempt from the global vector `start`; returns the delta, float32 (d,), and its checks.

        Prepares first if nothing whole is kept for exactly this work. Raises RunFailed RSD-4500 (a conformance check is
        false), RSD-4620 (a subject was withdrawn), InputError RSD-4501 (the vector does not fit), and as `prepare`.
        After any of these the attempt is spent.
        """
        kept = find_prepared(self.spec)
        d = kept.prepared.d if kept else self.prepare().d
        work, round_ = self.spec.model_dump(mode="json"), spec.model_dump(mode="json")
        header = {"do": "train", "work": work, "spec": round_}
        answer, delta = self.warm.run(header, start, self._limits(self.train_s), self.train_s)
        trained = load_model(Trained, answer, "RSD-4511", "the worker's answer")
        checks = passed({**trained.conformance, **self.drawn.judge(trained.marks)}, "round")
        if delta.shape != (d,) or not np.isfinite(delta).all():
            raise EnvironmentFault(
                "RSD-4511", "the worker's update is not a finite vector of the layout's size", found=list(delta.shape),
                limit=[d], next="do not send it; report the software version",
            )  # fmt: skip
        return delta, trained.model_copy(update={"conformance": checks})

    def evaluate(self, spec: EvaluationSpec, flat: Array) -> Evaluated:
        """Count the records' scores under the model `flat`, with noise; once, after the charge. Raises as `train`."""
        work = self.spec.model_dump(mode="json")
        header = {"do": "evaluate", "work": work, "spec": spec.model_dump(mode="json")}
        answer, _ = self.warm.run(header, flat, self._limits(self.train_s), self.train_s)
        found = load_model(Evaluated, answer, "RSD-4511", "the worker's answer")
        checks = passed({**found.conformance, **self.drawn.judge(found.marks)}, "evaluation")
        if len(found.cells) != spec.rows * spec.columns:
            raise EnvironmentFault(
                "RSD-4511", "the worker's counts are not those of the study's cells", found=len(found.cells),
                limit=spec.rows * spec.columns, next="do not send them; report the software version",
            )  # fmt: skip
        return found.model_copy(update={"conformance": checks})

    def _limits(self, wall_s: float) -> Limits:
        """No thread may use more processor time than the wall time of the task."""
        return Limits(memory_mib=self.memory_mib, cpu_s=int(wall_s * self.spec.threads) + 1)
