"""The evaluation as the operator signs it: every site with its outcome, and the figures of the sites' sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.evaluation.derive import Figure, figures
from compliance.evaluation.histogram import Histogram, scale_of, shape_of
from compliance.roster import EntryRef, Reason
from compliance.study import SHA256, Study
from compliance.task_spec import labels_of
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA: Final = "residency.evaluation/1"
FILE: Final = "evaluation.json"
FOLDER: Final = "histograms"


class EvaluationRow(Frozen):
    """One site. A contribution names its signed histogram and the entries that cover it, in log order."""

    site: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    outcome: Literal["contributed", "refused", "failed", "late"]
    reason: Reason | None = None
    histogram_sha256: str | None = Field(default=None, pattern=SHA256)
    charge: EntryRef | None = None
    evaluation: EntryRef | None = None
    decision: EntryRef | None = None
    transfer: EntryRef | None = None

    @model_validator(mode="after")
    def _complete(self) -> EvaluationRow:
        given = (self.histogram_sha256, self.charge, self.evaluation, self.decision, self.transfer)
        if self.outcome == "contributed" and (None in given or self.reason is not None):
            raise ValueError(f"the contribution of {self.site} is incomplete")
        if self.outcome != "contributed" and self.reason is None:
            raise ValueError(f"{self.site} is {self.outcome} without a reason")
        return self


class EvaluationRecord(Frozen):
    """One evaluation. `recipients` were sent the model; `figures` is null below the quorum: nothing is published."""

    schema_: Literal["residency.evaluation/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    run: str = Field(pattern=NAME)
    at: str
    model_sha256: str = Field(pattern=SHA256)
    recipients: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    figures: tuple[Figure, ...] | None

    @model_validator(mode="after")
    def _each_once(self) -> EvaluationRecord:
        names = [r.site for r in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("a site stands twice in the evaluation")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def contributed(self) -> tuple[str, ...]:
        """The sites whose counts are in the sum."""
        return tuple(r.site for r in self.rows if r.outcome == "contributed")


def derived(study: Study, histograms: Sequence[Histogram]) -> tuple[Figure, ...] | None:
    """The figures of the sites' sum; None below the study's quorum. The order of the histograms does not matter."""
    if study.evaluation is None or len(histograms) < study.quorum.sites:
        return None
    noise, shape = study.evaluation.noise_multiplier_micro, shape_of(study)
    summed = np.sum([np.array(h.cells, dtype=np.int64) for h in histograms], axis=0).reshape(shape)
    deviation = noise / 1e6 * math.sqrt(len(histograms))
    return figures(summed, scale_of(noise), deviation, labels_of(study.task))
