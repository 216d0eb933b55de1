"""One site's part of an evaluation: noised counts, signed by its agent."""

from __future__ import annotations

import math
from typing import Final, Literal

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.study import DATE, SHA256, Study
from compliance.task_spec import labels_of
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

SCHEMA: Final = "residency.histogram/1"
LEAST_DEVIATION: Final = 1 << 15  # lattice steps: what the noise sampler's error is proved for, and more
MOST_CELLS: Final = 64 * 64
_MOST: Final = 2**50  # of one cell: the sum over 1000 sites stays exact


def scale_of(noise_multiplier_micro: int) -> int:
    """Lattice steps of one count: the power of two at which the noise has 32,768 to 65,535 steps of deviation."""
    return int(2 ** math.ceil(math.log2(LEAST_DEVIATION * 1_000_000 / noise_multiplier_micro)))


def shape_of(study: Study) -> tuple[int, int]:
    """Rows and columns: (2, bins) for two classes, else true x predicted class. For a study with an evaluation."""
    if study.evaluation is None:
        raise ValueError("the study has no evaluation")
    classes = len(labels_of(study.task))
    return classes, study.evaluation.bins or classes


class Histogram(Frozen):
    """What a site signed: cells row by row, each a count times `scale` plus noise of `noise_multiplier_micro` counts.

    `model_sha256` is of the flat model whose scores were counted.
    """

    schema_: Literal["residency.histogram/1"] = Field(alias="schema")
    study: str = Field(pattern=SHA256)
    site: str = Field(pattern=NAME)
    at: str = Field(pattern=DATE)
    model_sha256: str = Field(pattern=SHA256)
    noise_multiplier_micro: int = Field(ge=1)
    scale: int = Field(ge=1, le=2**40)
    rows: int = Field(ge=2, le=64)
    columns: int = Field(ge=2, le=100)
    cells: tuple[int, ...] = Field(min_length=4, max_length=MOST_CELLS)

    @model_validator(mode="after")
    def _whole(self) -> Histogram:
        if len(self.cells) != self.rows * self.columns:
            raise ValueError("the cells are not rows times columns")
        if max(map(abs, self.cells)) > _MOST:
            raise ValueError("a cell is beyond what any site counts")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    def differences(self, study: Study, digest: str, site: str, model_sha256: str) -> list[tuple[str, object, object]]:
        """(what, found, limit) of all that is not as the study and the request say; empty if it is theirs.

        Whole digests are compared, and their beginnings shown.
        """
        rows, columns = shape_of(study)
        noise = study.evaluation.noise_multiplier_micro if study.evaluation else 0
        wanted = (
            ("study", self.study, digest),
            ("site", self.site, site),
            ("model", self.model_sha256, model_sha256),
            ("noise", self.noise_multiplier_micro, noise),
            ("scale", self.scale, scale_of(noise)),
            ("shape", (self.rows, self.columns), (rows, columns)),
        )
        return [(what, _shown(found), _shown(limit)) for what, found, limit in wanted if found != limit]


def _shown(value: object) -> object:
    return value[:16] if isinstance(value, str) and len(value) == 64 else value
