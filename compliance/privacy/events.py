"""What a mechanism did, recorded before anybody asks what it cost (the separation of dp_accounting's DpEvent)."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from compliance.training_spec import Frozen

# The one set of bounds: study, event, calibration and the worker's request take theirs from here.
LEAST_NOISE_MICRO: Final = 200_000
MOST_NOISE_MICRO: Final = 100_000_000  # the lattice of the noise covers sigma up to 100
MOST_EPSILON_MILLI: Final = 100_000  # beyond eps 100 a bound says nothing
MOST_STEPS: Final = 100_000  # of all rounds of a study together
MOST_RECORDS_PER_UNIT: Final = 1024  # of one patient in one step
Unit = Literal["record", "patient"]  # what neighbours differ in
UNITS: Final[tuple[Unit, ...]] = ("record", "patient")


class PrivacyEvent(Frozen):
    """`steps` runs of the Poisson-sampled Gaussian mechanism on one data source. Integers only, all public.

    Each step takes every unit into the batch independently with probability q = sample_numerator /
    sample_denominator, sums contributions of L2 norm at most C and adds Gaussian noise of standard deviation
    `noise_multiplier_micro` * 1e-6 * C. Neighbours differ by adding or removing one unit.

    `tv_error_femto` bounds, in 1e-15, the total-variation distance between what the sampler draws over ALL steps of
    this event and the ideal draws. A distance t costs (1 + e^eps) t of delta, not t: the neighbour's distribution is
    off by t as well, and e^eps multiplies it.
    """

    mechanism: Literal["poisson_gaussian"] = "poisson_gaussian"
    noise_multiplier_micro: int = Field(ge=LEAST_NOISE_MICRO, le=MOST_NOISE_MICRO)
    sample_numerator: int = Field(ge=1, le=2**40)
    sample_denominator: int = Field(ge=1, le=2**40)
    steps: int = Field(ge=1, le=MOST_STEPS)
    unit: Unit
    adjacency: Literal["add_remove"] = "add_remove"
    tv_error_femto: int = Field(default=0, ge=0, le=10**15)

    @model_validator(mode="after")
    def _a_probability(self) -> Self:
        if self.sample_numerator > self.sample_denominator:
            raise ValueError("sample_numerator must not exceed sample_denominator")
        return self

    @property
    def rate(self) -> Fraction:
        """q in lowest terms, in (0, 1]."""
        return Fraction(self.sample_numerator, self.sample_denominator)

    def same_mechanism(self, other: PrivacyEvent) -> bool:
        """True if one step of `self` is one step of `other`: equal noise, rate, unit and adjacency."""
        return (self.noise_multiplier_micro, self.rate, self.unit, self.adjacency, self.mechanism) == (
            other.noise_multiplier_micro,
            other.rate,
            other.unit,
            other.adjacency,
            other.mechanism,
        )
