"""Between a study and its tasks: what to load, what to run, within which bounds, and what came out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.admission import Case
from client.fingerprints import Fingerprints
from client.limits import default_memory_mib
from client.warm import Warm
from client.work import EvaluationSpec, RoundSpec, WorkSpec
from client.worker import TrainingWorker
from compliance.errors import RunFailed
from compliance.evaluation.histogram import scale_of, shape_of
from compliance.messages import LayoutEntry
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND, also_done

Vector = npt.NDArray[np.float32]
_PREPARE_S: Final = 3600.0  # once a study: the frozen layers over the whole table; never less than a round's deadline


@dataclass(frozen=True)
class Ready:
    """A study whose data and model were prepared at this site."""

    layout: tuple[LayoutEntry, ...]
    device: str


class Workbench:
    """Holds the one warm process of a site; each task is a child of it.

    `threads`: how many CPU threads a task may use; all of this machine's processors unless set. `memory_mib`: the
    private memory of a task; four fifths of this machine's unless set. `drawn`: see client/worker.py.
    """

    def __init__(self, drawn: Fingerprints) -> None:
        self.threads = len(os.sched_getaffinity(0))
        self.memory_mib = default_memory_mib()
        self._warm = Warm()
        self._drawn = drawn

    def start(self) -> None:
        """Start the warm process, so that the first task finds it ready. Returns at once."""
        self._warm.start()

    def prepare(self, case: Case, cache: Path) -> Ready:
        """Load the study's data and model; frozen layers run here, once a study. Raises InputError RSD-23xx."""
        prepared = self._worker(case, cache).prepare()
        return Ready(prepared.layout, prepared.device)

    def train(self, case: Case, cache: Path, round_: int, attempt: int, base: Vector) -> tuple[Vector, dict[str, bool]]:
        """One charged attempt: the update, float32 (d,), and the conformance checks by name.

        Raises RunFailed RSD-4500 (a check failed), RSD-1221 (sampler error above what was charged), RSD-4620 (a subject
        was withdrawn), EnvironmentFault RSD-4510 (the process died), RSD-4513 (no memory), RSD-4515 (the study's
        deadline of a round).
        """
        delta, trained = self._worker(case, cache).train(round_spec(case, round_, attempt), base)
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

    def evaluate(self, case: Case, cache: Path, flat: Vector) -> tuple[tuple[int, ...], dict[str, bool]]:
        """The charged evaluation of the model `flat`: noised counts row by row, and the checks. Raises as `train`."""
        found = self._worker(case, cache).evaluate(evaluation_spec(case), flat)
        return found.cells, found.conformance

    def close(self) -> None:
        """End the warm process and the task at hand. May come from another thread."""
        self._warm.close()

    def _worker(self, case: Case, cache: Path) -> TrainingWorker:
        spec = WorkSpec(
            task=case.study.task,
            model=case.study.model,
            model_dir=case.model.path if case.model else None,
            table=case.dataset.path,
            table_sha256=case.dataset.sha256,
            cache_dir=str(cache),
            threads=self.threads,
            excluded=case.excluded,
            group_column=case.study.privacy.group_column,
            first_round=round_spec(case, 1, 1),
            stop_file=case.stop_file,
            stop_mark=case.stop_mark,
        )
        deadline = float(case.study.round_deadline_s)
        return TrainingWorker(
            spec, self._warm, self.memory_mib, prepare_s=max(_PREPARE_S, deadline), train_s=deadline, drawn=self._drawn
        )


def evaluation_spec(case: Case) -> EvaluationSpec:
    """The study's evaluation, every number of it from the signed study. Only for a study that has one."""
    rows, columns = shape_of(case.study)
    noise = also_done(case.study)[0].noise_multiplier_micro
    return EvaluationSpec(noise_multiplier_micro=noise, scale=scale_of(noise), rows=rows, columns=columns)


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
        unit=study.privacy.unit,
        records_per_unit=study.privacy.records_per_unit,
        proximal_micro=study.training.proximal_micro,
    )
