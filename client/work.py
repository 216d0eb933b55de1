"""What the agent asks of its training worker, and what it gets back: frozen, integers only, no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from compliance.messages import LayoutEntry
from compliance.privacy.events import LEAST_NOISE_MICRO, MOST_NOISE_MICRO, MOST_RECORDS_PER_UNIT, Unit
from compliance.study import SHA256
from compliance.task_spec import TaskSpec
from compliance.training_spec import Frozen, ModelSpec


class RoundSpec(Frozen):
    """One attempt at one round, all from the signed study. Nothing here, and nothing else, can seed noise or sampling.

    q = sample_numerator / sample_denominator exactly; `expected_batch` is the public denominator of the mean. Sampling,
    clipping and `expected_batch` count units: records, or patients, of whom at most `records_per_unit` records take
    part in a step. `proximal_micro`: FedProx's mu, added after the noise.
    """

    round: int = Field(ge=1, le=1000)
    attempt: int = Field(ge=1, le=1000)
    steps: int = Field(ge=1, le=10_000)
    sample_numerator: int = Field(ge=1)
    sample_denominator: int = Field(ge=1, lt=2**53)
    expected_batch: int = Field(ge=1, le=10**7)
    clip_micro: int = Field(ge=1, le=10**9)
    noise_multiplier_micro: int = Field(ge=LEAST_NOISE_MICRO, le=MOST_NOISE_MICRO)
    physical_batch: int = Field(ge=1, le=4096)
    head_rate_milli: int = Field(ge=1, le=1_000_000)
    adapter_rate_milli: int = Field(ge=0, le=1_000_000)
    unit: Unit = "record"
    records_per_unit: int = Field(default=1, ge=1, le=MOST_RECORDS_PER_UNIT)
    proximal_micro: int = Field(default=0, ge=0, le=1_000_000_000)

    @model_validator(mode="after")
    def _consistent(self) -> RoundSpec:
        if self.unit == "record" and self.records_per_unit != 1:
            raise ValueError("records_per_unit bounds the records of a patient; a record is one record")
        if self.sample_numerator > self.sample_denominator:
            raise ValueError("sample_numerator is greater than sample_denominator: the sampling rate exceeds 1")
        return self


class WorkSpec(Frozen):
    """One study at one site: what to load. Paths are local; `threads` bounds the CPU threads of a task.

    `table_sha256` is the digest of the table's bytes. `excluded` are positions of rows whose subjects were withdrawn:
    they are not loaded. Rows with the same value in `group_column` are one privacy unit; without it each row is one.
    No batch is drawn once the content of `stop_file` (if any) has another digest than `stop_mark`, which was taken
    before `excluded` was read; without it, than when the task began. `first_round` says how large the passes will be.
    """

    task: TaskSpec
    model: ModelSpec
    model_dir: str | None = Field(min_length=1, description="None for a model that comes with the software")
    table: str = Field(min_length=1)
    table_sha256: str = Field(pattern=SHA256)
    cache_dir: str = Field(min_length=1)
    threads: int = Field(ge=1, le=256)
    excluded: tuple[int, ...] = ()
    group_column: str | None = None
    first_round: RoundSpec
    stop_file: str = ""
    stop_mark: str | None = None


class EvaluationSpec(Frozen):
    """The evaluation, from the signed study: `rows` classes, `columns` bins or classes, `scale` lattice steps each."""

    noise_multiplier_micro: int = Field(ge=LEAST_NOISE_MICRO, le=MOST_NOISE_MICRO)
    scale: int = Field(ge=1, le=2**40)
    rows: int = Field(ge=2, le=64)
    columns: int = Field(ge=2, le=100)


class Evaluated(Frozen):
    """A task's answer to `evaluate`. `cells`: noised counts, row by row; `marks` as of `Trained`."""

    cells: tuple[int, ...]
    conformance: dict[str, bool]
    marks: dict[str, tuple[str, ...]]


class Prepared(Frozen):
    """A task's answer to `prepare`. `layout` lists name and shape of the trained parameters, d their total size."""

    layout: tuple[LayoutEntry, ...]
    layout_sha256: str
    d: int
    device: str


class Trained(Frozen):
    """A task's answer to `train`, beside the update itself.

    `marks`: fingerprints of what was drawn (its keystream, its noise, its batches), by the check that compares them
    with those of earlier rounds. `non_finite` (records without a finite gradient) is a statistic on patient data. Both
    stay at the site.
    """

    conformance: dict[str, bool]
    marks: dict[str, tuple[str, ...]]
    tv_error_femto: int
    non_finite: int
