"""What is trained and how: the parts of a study that the training code at a site reads. Integers only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compliance.canonical import canonical, sha256_hex


class Frozen(BaseModel):
    """Base of every signed object: immutable, unknown fields are errors, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class BuiltIn(Frozen):
    """A small network that comes with the software, for tables: every layer is trained, and no folder is needed.

    Logistic regression is one linear layer, an MLP has `hidden` layers before it. `start_bias_micro`: the head's bias
    to begin with, one a label in millionths, from public knowledge such as a disease's known share; zero unless set.
    The head's weights begin at zero, those of hidden layers at random signs from `init_seed`, which is public.
    """

    kind: Literal["logistic_regression", "mlp"]
    hidden: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(default=(), max_length=4)
    activation: Literal["tanh", "relu"] | None = None
    init_seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    start_bias_micro: tuple[Annotated[int, Field(ge=-(10**8), le=10**8)], ...] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("hidden", "activation", "init_seed"):
            there = getattr(self, name) not in ((), None)
            if there != (self.kind == "mlp"):
                raise ValueError(f"{self.kind} {'needs' if self.kind == 'mlp' else 'has no'} {name}")
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of its canonical JSON: what a study and a policy name it by."""
        return sha256_hex(canonical(self.model_dump(mode="json")))


class ModelSpec(Frozen):
    """The frozen base model, pinned by the digest of its folder, and what is trained on top of it.

    With `built_in` there is no folder: `sha256` is that of the network's description. Otherwise at most one of
    `adapters` and `whole_layers`: the last blocks, trained in all their parameters. With neither the head alone is
    trained. Vectors are pooled to one a record for classification, and not for tokens.
    """

    name: str = Field(min_length=1, max_length=128)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    pooling: Literal["mean", "none"]
    adapters: Adapters | None
    whole_layers: int = Field(default=0, ge=0, le=48)
    features: FeatureConstants | None
    feature_norm_milli: int | None = Field(ge=100, le=100_000, description="vectors are scaled to this length")
    built_in: BuiltIn | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.built_in and self.sha256 != self.built_in.sha256:
            raise ValueError(f"sha256 is not that of built_in, which is {self.built_in.sha256}")
        if self.built_in and (self.adapters or self.whole_layers or self.features or self.pooling != "none"):
            raise ValueError("a built_in model is trained whole: adapters and features null, pooling none")
        if self.adapters and self.whole_layers:
            raise ValueError("adapters and whole_layers are two ways to train the last layers: choose one")
        return self

    @property
    def trained_layers(self) -> int:
        """How many of the last blocks are trained; those before run once a record."""
        return self.adapters.layers if self.adapters else self.whole_layers


class TrainingSpec(Frozen):
    """Rounds, steps and plain SGD at the site. Rates in thousandths. `proximal_micro`: FedProx's mu (arXiv 1812.06127),
    the pull towards the round's global model, added after the noise; 0: FedAvg."""

    rounds: int = Field(ge=1, le=1000)
    steps: int = Field(ge=1, le=10_000, description="noisy steps a round, a public constant")
    head_rate_milli: int = Field(ge=1, le=1_000_000)
    adapter_rate_milli: int = Field(ge=0, le=1_000_000)
    physical_batch: int = Field(ge=1, le=4096)
    proximal_micro: int = Field(default=0, ge=0, le=1_000_000_000)
