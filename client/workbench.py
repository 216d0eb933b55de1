"""Between a study and the training process: what to load, what to run, and what came out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.admission import Case
from client.work import RoundSpec, WorkSpec
from client.worker import TrainingWorker
from compliance.errors import RunFailed
from compliance.messages import LayoutEntry
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Ready:
    """A worker that has loaded the study's data and model."""

    layout: tuple[LayoutEntry, ...]
    device: str


class Workbench:
    """Holds the one training process of a site; a study that is not the last one gets a new process.

    `threads`: how many CPU threads it may use; all of this machine's processors unless set.
    """

    def __init__(self) -> None:
        self.threads = len(os.sched_getaffinity(0))
        self._worker: TrainingWorker | None = None
        self._spec: WorkSpec | None = None

    def prepare(self, case: Case, cache: Path) -> Ready:
        """Load the study's data and model; frozen layers run here, once a study. Raises InputError RSD-23xx."""
        worker = self._worker_for(case, cache)
        prepared = worker.prepare()
        return Ready(prepared.layout, prepared.device)

    def train(self, case: Case, cache: Path, round_: int, attempt: int, base: Vector) -> tuple[Vector, dict[str, bool]]:
        """One charged attempt: the update, float32 (d,), and the conformance checks by name.

        Raises RunFailed RSD-4500 (a check failed), RSD-1221 (sampler error above what was charged),
        EnvironmentFault RSD-4510 (the process died).
        """
        delta, trained = self._worker_for(case, cache).train(round_spec(case, round_, attempt), base)
        if trained.tv_error_femto > TV_ERROR_FEMTO_PER_ROUND:
            raise RunFailed(
                "RSD-1221",
                "the noise sampler's error is above what was charged",
                rule="delta includes the sampler's error",
                found=trained.tv_error_femto,
                limit=TV_ERROR_FEMTO_PER_ROUND,
                next="propose a study with fewer steps a round",
            )
        return delta, trained.conformance

    def close(self) -> None:
        """End the training process."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._spec = None

    def _worker_for(self, case: Case, cache: Path) -> TrainingWorker:
        spec = WorkSpec(
            task=case.study.task,
            model=case.study.model,
            model_dir=case.model.path,
            table=case.dataset.path,
            cache_dir=str(cache),
            threads=self.threads,
        )
        if self._worker is None or spec != self._spec:
            self.close()
            self._worker, self._spec = TrainingWorker(spec), spec
        return self._worker


def round_spec(case: Case, round_: int, attempt: int) -> RoundSpec:
    """One attempt, every number of it from the signed study."""
    study, terms = case.study, case.terms
    return RoundSpec(
        round=round_,
        attempt=attempt,
        steps=study.training.steps,
        sample_numerator=terms.batch,
        sample_denominator=terms.records_public,
        expected_batch=terms.batch,
        clip_micro=study.privacy.clip_micro,
        noise_multiplier_micro=terms.noise_multiplier_micro,
        physical_batch=study.training.physical_batch,
        head_rate_milli=study.training.head_rate_milli,
        adapter_rate_milli=study.training.adapter_rate_milli,
    )
