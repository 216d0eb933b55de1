"""One rule of a law pack: what it is about, what it asks, and where that was read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from compliance.law.fields import Citation, Day, Reviewer
from compliance.law.regions import ANY
from compliance.law.vocabulary import (
    METADATA,
    NEVER_ALLOWED,
    Artifact,
    Category,
    Confidence,
    CounterName,
    DocumentKind,
    Effect,
    Purpose,
    RecordClass,
    SourceKind,
)
from compliance.training_spec import Frozen

RULE_ID = r"^[a-z][a-z0-9-]{1,19}(\.[a-z0-9-]{1,40}){1,3}$"


class Limits(Frozen):
    """What the exporter's software must guarantee. `keys_within`: every key lies in at least one of these sets."""

    unit: tuple[Literal["record", "patient"], ...] = ()
    epsilon_milli_at_most: int | None = Field(default=None, ge=1)
    inverse_delta_at_least: int | None = Field(default=None, ge=1)
    min_sites_at_least: int | None = Field(default=None, ge=2)
    min_patients_at_least: int | None = Field(default=None, ge=2)
    secure_aggregation: Literal[True] | None = None
    secure_aggregation_threshold_at_least: int | None = Field(default=None, ge=2)
    group_sum: Literal[True] | None = None
    keys_within: tuple[str, ...] = ()

    @property
    def limits_nothing(self) -> bool:
        """True if no guarantee is asked."""
        return not any(getattr(self, name) for name in Limits.model_fields)

    def limit_lines(self) -> tuple[str, ...]:
        """Each limit as plain text."""
        found = (
            self.unit and f"privacy unit {' or '.join(self.unit)}",
            self.epsilon_milli_at_most and f"epsilon_milli at most {self.epsilon_milli_at_most}",
            self.inverse_delta_at_least and f"inverse_delta at least {self.inverse_delta_at_least}",
            self.min_sites_at_least and f"at least {self.min_sites_at_least} sites",
            self.min_patients_at_least and f"at least {self.min_patients_at_least} patients",
            self.secure_aggregation and "secure aggregation",
            self.secure_aggregation_threshold_at_least
            and f"secure aggregation threshold at least {self.secure_aggregation_threshold_at_least}",
            self.group_sum and "only sums of the region group leave it",
            self.keys_within and f"keys only in {' or '.join(self.keys_within)}",
        )
        return tuple(str(line) for line in found if line)


class Requires(Frozen):
    """Documents on file, all of `documents` and all of one entry of `any_of` if there is one; and `guarantees` kept."""

    documents: tuple[DocumentKind, ...] = ()
    any_of: tuple[tuple[DocumentKind, ...], ...] = ()
    guarantees: Limits = Limits()

    @field_validator("any_of")
    @classmethod
    def _no_empty_way_out(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(not alternative for alternative in value):
            raise ValueError("an empty alternative would always be met")
        return value

    @property
    def empty(self) -> bool:
        """True if nothing is asked."""
        return not self.documents and not self.any_of and self.guarantees.limits_nothing


class House(Limits):
    """What this product asks on top; no statute says it."""

    note: str = ""
    documents: tuple[DocumentKind, ...] = ()

    @property
    def asks_nothing(self) -> bool:
        """True if there is at most a note."""
        return not self.documents and self.limits_nothing

    def lines(self) -> tuple[str, ...]:
        """Each requirement as plain text, the note last."""
        papers = (f"documents: {', '.join(self.documents)}",) if self.documents else ()
        return (*papers, *self.limit_lines(), *((self.note,) if self.note else ()))


class Over(Frozen):
    """A threshold: met when the leg's count of `counter` is above `above`, or unknown."""

    counter: CounterName
    above: int = Field(ge=0, le=10**9)


class Rule(Frozen):
    """One rule. `allow` permits what it names when `requires` and `house` are met; `deny` refuses it unless `unless`.

    A deny beats every allow; what no rule allows is denied. `*` (deny only) stands for every artifact or purpose.
    `category`: a deny speaks if one of them is in the transfer (or, with `over`, in the counter's window, which holds
    every category while it is unknown); an allow speaks only if the transfer has no other. Before `verified_on`, and on
    and after `expires_on`, an allow is silent, and a deny knows no `unless`.
    """

    id: str = Field(pattern=RULE_ID)
    effect: Effect
    plain: str = Field(min_length=10, max_length=300, pattern=r"^[A-Z][^\n]*\.$")
    law: tuple[Citation, ...]
    house: House = House()
    from_region: tuple[str, ...] = Field(min_length=1)
    to_region: tuple[str, ...] = Field(min_length=1)
    to_region_except: tuple[str, ...] = ()
    artifact: tuple[Literal[Artifact, "*"], ...] = Field(min_length=1)
    purpose: tuple[Literal[Purpose, "*"], ...] = Field(min_length=1)
    category: tuple[Category, ...] = ()
    over: Over | None = None
    requires: Requires = Requires()
    unless: Requires = Requires()
    retention: tuple[RecordClass, ...] = ("decision", "transfer")
    confidence: Confidence
    source_kind: SourceKind
    source: str = Field(min_length=10)
    url: str = ""
    verified_on: Day | None = None
    expires_on: Day | None = None
    reviewer: Reviewer | None = None

    @model_validator(mode="after")
    def _shape(self) -> Rule:
        if self.source_kind == "memory" and self.confidence != "low":
            raise ValueError("what nobody has read, source_kind memory, has confidence low")
        return self._allow_shape() if self.effect == "allow" else self._deny_shape()

    def _allow_shape(self) -> Rule:
        for wrong, problem in (
            (self.confidence == "low", "a rule with confidence low may deny, never allow"),
            (
                "*" in (*self.artifact, *self.purpose) or ANY in self.from_region,
                "an allow rule names its artifacts, purposes and origins one by one",
            ),
            (
                bool(NEVER_ALLOWED & set(self.artifact)),
                f"no rule may allow {sorted(NEVER_ALLOWED & set(self.artifact))}",
            ),
            (not self.unless.empty, "unless belongs to deny rules; an allow rule has requires"),
            (self.over is not None, "over belongs to deny rules"),
            (
                not self.law and not (set(self.artifact) <= METADATA and self.house.note),
                "a citation is missing in law; only metadata go without one, and house.note says why",
            ),
        ):
            if wrong:
                raise ValueError(problem)
        return self

    def _deny_shape(self) -> Rule:
        if not self.requires.empty or not self.house.asks_nothing:
            raise ValueError("requires and house limits belong to allow rules; a deny rule has unless")
        if not self.law and not self.house.note:
            raise ValueError("a citation is missing in law, or house.note says why the rule is ours")
        return self

    def concerns(self, artifact: str, purpose: str) -> bool:
        """True if both are in scope, `*` resolved."""
        return not {"*", artifact}.isdisjoint(self.artifact) and not {"*", purpose}.isdisjoint(self.purpose)

    def limits(self) -> Iterator[tuple[str, Limits]]:
        """Each set of limits of the rule, with the field in which it stands."""
        yield "house", self.house
        yield "requires.guarantees", self.requires.guarantees
        yield "unless.guarantees", self.unless.guarantees
