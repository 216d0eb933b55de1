"""What is trained and how: the parts of a study that the training code at a site reads. Integers only."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of every signed object: immutable, unknown fields are errors, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TaskSpec(Frozen):
    """How a row becomes text and a class.

    A row's text is `template` with `{column}` replaced by the value; a part in square brackets is dropped when one of
    its values is missing. The class is `label_values[value of label_column]`, else `label_other`; a value that
    neither names is an error (RSD-2304), never a silent class.
    """

    kind: Literal["sequence_classification"]
    labels: tuple[str, ...] = Field(min_length=2, max_length=64)
    label_column: str = Field(min_length=1, max_length=128)
    label_values: dict[str, str]
    label_other: str | None = None
    template: str = Field(min_length=1, max_length=4000)
    max_tokens: int = Field(ge=8, le=512)

    @model_validator(mode="after")
    def _labels_known(self) -> TaskSpec:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is listed twice")
        unknown = {*self.label_values.values(), *([self.label_other] if self.label_other else [])} - set(self.labels)
        if unknown:
            raise ValueError(f"label_values or label_other name {sorted(unknown)}, which labels does not list")
        return self


class Adapters(Frozen):
    """LoRA on the last `layers` transformer layers. A is frozen (FFA-LoRA, arXiv 2403.12313), so averaging is exact.

    A comes from the public seed `init_seed`; B starts at zero. `scale_milli` is alpha / r times 1000.
    """

    layers: int = Field(ge=1, le=48)
    rank: int = Field(ge=1, le=64)
    scale_milli: int = Field(ge=1, le=64_000)
    targets: tuple[str, ...] = Field(min_length=1, max_length=8)
    init_seed: int = Field(ge=0, le=2**32 - 1)


class FeatureConstants(Frozen):
    """Public constants that standardise the pooled features, from data declared public. Millionths."""

    source: str = Field(min_length=1, max_length=500)
    mean_micro: tuple[int, ...]
    deviation_micro: tuple[int, ...]

    @model_validator(mode="after")
    def _same_length(self) -> FeatureConstants:
        if len(self.mean_micro) != len(self.deviation_micro) or not self.mean_micro:
            raise ValueError("mean_micro and deviation_micro must have the same length, at least 1")
        if min(self.deviation_micro) <= 0:
            raise ValueError("deviation_micro must be positive")
        return self


class ModelSpec(Frozen):
    """The frozen base model, pinned by the digest of its folder, and what is trained on top of it."""

    name: str = Field(min_length=1, max_length=128)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    pooling: Literal["mean"]
    adapters: Adapters | None
    features: FeatureConstants | None
    feature_norm_milli: int = Field(ge=100, le=100_000, description="pooled vectors are scaled to this length")


class TrainingSpec(Frozen):
    """Rounds, steps and plain SGD at the site. Rates in thousandths."""

    rounds: int = Field(ge=1, le=1000)
    steps: int = Field(ge=1, le=10_000, description="noisy steps a round, a public constant")
    head_rate_milli: int = Field(ge=1, le=1_000_000)
    adapter_rate_milli: int = Field(ge=0, le=1_000_000)
    physical_batch: int = Field(ge=1, le=4096)
