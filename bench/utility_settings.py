"""What `residency bench utility` trains and how: fixed here, before any of its figures was measured.

How it was chosen. Ranges and variables: the usual clinical ones (blood pressure, cholesterol and exercise heart rate of
adults; for intensive care the variables of the OASIS score, Johnson, Kramer and Clifford 2013), in round numbers and
not fitted to rows. Rounds, rates, clips and vector lengths: from a coarse grid, by the score on an inner third of the
TRAINING parts of other splits (seeds from 1000 on; the benchmark's are 43 and up), in the middle of a flat region
rather than at its best point. No choice rests on the test part of a benchmark split. The same people's records are in
both ranges of splits, in other roles: a small optimism remains, alike for all arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compliance.task_spec import Categorical, Numeric, Tabular
from compliance.training_spec import BuiltIn, ModelSpec

EPSILONS: Final = (None, 8.0, 3.0, 1.0)  # None: without privacy
FIRST_SPLIT_SEED: Final = 43  # FLamby's own split of heart/
MICRO: Final = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """Full batches (q = 1), plain SGD, federated averaging after every round of one step; the last model counts.

    `clip` None: neither clipping nor noise, for the arm without privacy.
    """

    rounds: int
    rate: float
    clip: float | None


@dataclass(frozen=True)
class Setting:
    """One data set: task, model, unit, delta, and the recipe with and without privacy. `primary`: what is compared."""

    name: str
    primary: str
    task: Tabular
    model: ModelSpec
    group_column: str | None
    records_per_unit: int
    inverse_delta: int
    private: Recipe
    plain: Recipe
    published: dict[str, dict[str, float]]

    def recipe(self, epsilon: float | None) -> Recipe:
        """What is done at this eps."""
        return self.plain if epsilon is None else self.private


def _numeric(column: str, centre: float, half_width: float, *missing: float) -> Numeric:
    return Numeric(
        column=column,
        centre_micro=round(centre * MICRO),
        half_width_micro=round(half_width * MICRO),
        missing_micro=tuple(round(m * MICRO) for m in missing),
    )


def _logistic(norm_milli: int | None, *start_bias: float) -> ModelSpec:
    built_in = BuiltIn(
        kind="logistic_regression",
        start_bias_micro=tuple(round(b * MICRO) for b in start_bias) if start_bias else None,
    )
    return ModelSpec(
        name="logistic regression", sha256=built_in.sha256, pooling="none", adapters=None, features=None,
        feature_norm_milli=norm_milli, built_in=built_in,
    )  # fmt: skip


HEART: Final = Setting(
    name="heart",
    primary="accuracy",
    task=Tabular(
        kind="tabular",
        labels=("no disease", "disease"),
        label_column="num",
        label_values={"0": "no disease", "1": "disease", "2": "disease", "3": "disease", "4": "disease"},
        ranges_source="usual ranges of adults who are examined for chest pain; a cholesterol or pressure of 0 is none",
        numeric=(
            _numeric("age", 55, 25),
            _numeric("trestbps", 130, 40, 0),
            _numeric("chol", 220, 100, 0),
            _numeric("thalach", 140, 50),
            _numeric("oldpeak", 1.5, 2.5),
            _numeric("sex", 0, 1),
            _numeric("fbs", 0, 1),
            _numeric("exang", 0, 1),
        ),
        categorical=(
            Categorical(column="cp", categories=("1", "2", "3", "4")),
            Categorical(column="restecg", categories=("0", "1", "2")),
        ),
    ),
    model=_logistic(None),
    group_column=None,
    records_per_unit=1,
    inverse_delta=5_000,  # at most 1 / (10 x 490 public records of all sites together)
    private=Recipe(rounds=8, rate=1.0, clip=1.0),
    plain=Recipe(rounds=16, rate=2.0, clip=None),
    published={
        "inf": {"flamby_fedavg": 0.748, "flamby_best_federated": 0.785, "flamby_pooled": 0.795},
        "1": {"flamby_dp_fedavg": 0.70},
    },
)

EICU: Final = Setting(
    name="eicu_demo",
    primary="auroc",
    task=Tabular(
        kind="tabular",
        labels=("alive", "died"),
        label_column="died_hosp",
        label_values={"0": "alive", "1": "died"},
        ranges_source="variables of the OASIS score with the ranges in which it gives points",
        numeric=(
            _numeric("age_num", 65, 25),
            _numeric("eyes", 2.5, 1.5),
            _numeric("motor", 3.5, 2.5),
            _numeric("verbal", 3, 2),
            _numeric("heartrate", 90, 50),
            _numeric("meanbp", 85, 45),
            _numeric("respiratoryrate", 22, 16),
            _numeric("temperature", 37, 2),
            _numeric("urine", 1750, 1750),
            _numeric("vent", 0, 1),
            _numeric("electivesurgery", 0, 1),
        ),
        categorical=(
            Categorical(
                column="unitadmitsource",
                categories=(
                    "Emergency Department",
                    "Floor",
                    "Operating Room",
                    "Direct Admit",
                    "ICU to SDU",
                    "Recovery Room",
                    "Step-Down Unit (SDU)",
                    "Acute Care/Floor",
                ),
            ),
        ),
    ),
    model=_logistic(3_000, 1.2, -1.2),  # a hospital mortality of 8 % in intensive care is public knowledge
    group_column="uniquepid",
    records_per_unit=2,
    inverse_delta=10_000,
    private=Recipe(rounds=8, rate=0.75, clip=3.0),
    plain=Recipe(rounds=32, rate=0.75, clip=None),
    published={},
)
