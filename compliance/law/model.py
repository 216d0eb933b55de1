"""What is decided about: one artifact that leaves one exporter for its recipients. And what comes out: a Decision."""

from __future__ import annotations

from pydantic import Field, field_validator

from compliance.canonical import Json
from compliance.clock import parse_time
from compliance.law.vocabulary import Artifact, Effect, Purpose, Unit
from compliance.training_spec import Frozen

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
CODE = r"^[A-Z]{2}$"
SHA256 = r"^[0-9a-f]{64}$"


class Party(Frozen):
    """A legal entity and the jurisdiction (ISO 3166-1 alpha-2) in which it holds what it receives."""

    name: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=CODE)


class Document(Frozen):
    """A paper on file, by hash. It counts before `expires` (a date means 00:00 UTC of that day) and never after.

    `*` means any jurisdiction or recipient; kinds in NAMES_ITS_RECIPIENT count only where `covers` is the recipient's
    name. A kind that no rule knows satisfies no rule.
    """

    kind: str = Field(pattern=r"^[a-z0-9_]{2,40}$")
    sha256: str = Field(pattern=SHA256)
    expires: str
    from_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    to_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    covers: str = Field(default="*", pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$")

    @field_validator("expires")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        parse_time(value, "a document's expiry")
        return value


class Guarantees(Frozen):
    """What the exporter's own software guarantees about the artifact; None and False promise nothing.

    epsilon in thousandths, delta as 1 / inverse_delta, both per `unit` and for the whole study.
    """

    unit: Unit = "none"
    epsilon_milli: int | None = Field(default=None, ge=0, le=2**53 - 1)
    inverse_delta: int | None = Field(default=None, ge=1, le=2**53 - 1)
    min_sites: int = Field(default=0, ge=0, le=100_000)
    secure_aggregation: bool = False


class Transfer(Frozen):
    """One thing that would leave `exporter` for `recipient`, who passes it on to `onward`, at `at` (RFC 3339, UTC)."""

    artifact: Artifact
    exporter: Party
    recipient: Party
    onward: tuple[Party, ...] = Field(default=(), max_length=1000)
    purpose: Purpose
    study: str = Field(pattern=r"^([0-9a-f]{64})?$", description="empty for what belongs to no study")
    documents: tuple[Document, ...] = Field(default=(), max_length=1000)
    guarantees: Guarantees = Guarantees()
    at: str

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        parse_time(value, "the time of a transfer")
        return value


class Votes(Frozen):
    """What each evaluator said on its own."""

    python: Effect
    cedar: Effect


class Leg(Frozen):
    """The outcome for one recipient: `rules` are those that determined it, over all packs that bind the exporter."""

    recipient: Party
    onward: bool
    effect: Effect
    rules: tuple[str, ...]


class Decision(Frozen):
    """ALLOW or DENY for a transfer. ALLOW: no adopted rule objects and the required documents are on file.

    It is no finding of lawfulness. `rule` is the rule that decided; `plain`, `law`, `house` are that rule's; `missing`
    and `would_allow` say what would change a denial; `packs` and `regions` are the digests of the data used;
    `draft` is True when any pack used has no named reviewer.
    """

    allow: bool
    effect: Effect
    rule: str
    plain: str
    law: tuple[str, ...]
    house: tuple[str, ...]
    missing: tuple[str, ...]
    would_allow: str
    recipient: Party
    legs: tuple[Leg, ...]
    packs: dict[str, str]
    regions: str
    evaluators: Votes
    draft: bool
    transfer: Transfer

    def as_entry(self) -> dict[str, Json]:
        """JSON for the log, without floats: `canonical` accepts it."""
        return {"schema": "residency.decision/1", **self.model_dump(mode="json")}
