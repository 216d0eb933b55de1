"""What is decided about: one artifact that leaves one exporter for its recipients. And what comes out: a Decision."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from compliance.canonical import Json
from compliance.clock import parse_time
from compliance.law.vocabulary import Artifact, Category, CounterName, Effect, Purpose, Unit, Via
from compliance.training_spec import Frozen

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
CODE = r"^[A-Z]{2}$"
SHA256 = r"^[0-9a-f]{64}$"
MOST_KEYS = 16  # jurisdictions in which keys may live, in one transfer
Code = Annotated[str, Field(pattern=CODE)]


class Party(Frozen):
    """A legal entity and the jurisdiction (ISO 3166-1 alpha-2) in which it holds what it receives.

    `access`: other jurisdictions from which its people, owners or processors can reach that. `covered_person`: one in
    the sense of 28 CFR 202.211, as the study declares.
    """

    name: str = Field(pattern=NAME)
    jurisdiction: Code
    access: tuple[Code, ...] = Field(default=(), max_length=250)
    covered_person: bool = False


class Document(Frozen):
    """A paper on file, by hash. It counts before `expires` (a date means 00:00 UTC of that day) and never after.

    `*` means any jurisdiction or recipient; kinds in NAMES_ITS_RECIPIENT count only where `covers` is the recipient's
    name, those in NAMES_ITS_DESTINATION only where `to_jurisdiction` is its jurisdiction. A kind that no rule knows
    satisfies no rule. `id`: the name under which the study lists it.
    """

    kind: str = Field(pattern=r"^[a-z0-9_]{2,40}$")
    sha256: str = Field(pattern=SHA256)
    expires: str
    from_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    to_jurisdiction: str = Field(default="*", pattern=r"^([A-Z]{2}|\*)$")
    covers: str = Field(default="*", pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$")
    id: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")

    @field_validator("expires")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        parse_time(value, "a document's expiry")
        return value


class Guarantees(Frozen):
    """What the exporter's own software guarantees about the artifact; None and False promise nothing.

    epsilon in thousandths, delta as 1 / inverse_delta, both per `unit` and for the whole study. `group_sum`: it leaves
    the exporter's region group only summed with the group's others. `keys_in`: where the private keys, and any key
    that decrypts it, live; none named promises nothing.
    """

    unit: Unit = "none"
    epsilon_milli: int | None = Field(default=None, ge=0, le=2**53 - 1)
    inverse_delta: int | None = Field(default=None, ge=1, le=2**53 - 1)
    min_sites: int = Field(default=0, ge=0, le=100_000)
    min_patients: int = Field(default=0, ge=0, le=2**53 - 1)
    secure_aggregation: bool = False
    secure_aggregation_threshold: int = Field(default=0, ge=0, le=100_000, description="0: none")
    group_sum: bool = False
    keys_in: tuple[Code, ...] = Field(default=(), max_length=MOST_KEYS)


class Count(Frozen):
    """How many persons a counter would hold after this transfer: at most the upper edge of a bucket, never exactly.

    `recipient`: a party's name, or `*` for all. `categories`: all that stand in the counter's window, this transfer's
    included.
    """

    counter: CounterName
    recipient: str = Field(pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$")
    at_most: int = Field(ge=0, le=2**53 - 1)
    categories: tuple[Category, ...]


class Transfer(Frozen):
    """One thing that would leave `exporter` for `recipient`, who passes it on to `onward`, at `at` (RFC 3339, UTC).

    `group`: the region group that the study names for the exporter; `group_members`: the parties inside it.
    """

    artifact: Artifact
    exporter: Party
    recipient: Party
    onward: tuple[Party, ...] = Field(default=(), max_length=1000)
    purpose: Purpose
    study: str = Field(pattern=r"^([0-9a-f]{64})?$", description="empty for what belongs to no study")
    documents: tuple[Document, ...] = Field(default=(), max_length=1000)
    guarantees: Guarantees = Guarantees()
    controllers: tuple[str, ...] = Field(default=(), max_length=1000)
    categories: tuple[Category, ...] = Field(default=("health",), min_length=1)
    counts: tuple[Count, ...] = Field(default=(), max_length=2000)
    group: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    group_members: tuple[str, ...] = Field(default=(), max_length=1000)
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
    """The outcome for one recipient: `rules` are those that determined it, over all packs that bind the exporter.

    `via`: the recipient itself, a later one (`onward`), or a place from which one of them can be reached (`access`).
    """

    recipient: Party
    via: Via
    effect: Effect
    rules: tuple[str, ...]


class Decision(Frozen):
    """ALLOW or DENY for a transfer. ALLOW: no adopted rule objects and the required documents are on file.

    It is no finding of lawfulness. `rule` is the rule that decided; `plain`, `law`, `house` are that rule's; `missing`
    and `would_allow` say what would change a denial; `packs` and `regions` are the digests of the data used,
    `not_binding` the regimes that the site's signatory declared not to bind it, `law_set` the digest of that adoption
    (empty: none was given); `draft` is True when any pack used has no named reviewer.
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
    not_binding: tuple[str, ...]
    regions: str
    law_set: str
    evaluators: Votes
    draft: bool
    transfer: Transfer

    def as_entry(self) -> dict[str, Json]:
        """JSON for the log, without floats: `canonical` accepts it."""
        return {"schema": "residency.decision/1", **self.model_dump(mode="json")}
