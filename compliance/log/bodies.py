"""The bodies of log entries that no release reads; those that one reads are in compliance/release/bodies.py.

Writers and readers share these shapes. An unknown field is an error: what nobody reads nobody checks. No field holds
anything about a person: numbers of persons are buckets, data are known by names that the site gave and by salted
commitments.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compliance.canonical import Json
from compliance.law.vocabulary import Purpose, RecordClass
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME

CODE = r"^RSD-[0-9]{4}$"
_STUDY = r"^(?:[0-9a-f]{64})?$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_MOST_CALLS = 150  # of one entry
_MOST_SITES = 1000
MOST_RANGES = 2000  # of one compaction entry, which then has at most 40 kB

Digest = Annotated[str, Field(pattern=SHA256)]
Named = Annotated[str, Field(pattern=NAME)]
Time = Annotated[str, Field(pattern=_TIME)]
Short = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=8192)]
Statement = Literal["advice", "approval", "refusal", "withdrawal", "leave"]


class Body(Frozen):
    """The body of one kind of entry."""

    def as_json(self) -> dict[str, Json]:
        """JSON form, as it goes into `LogStore.append`."""
        return self.model_dump(mode="json")


class TrustBody(Body):
    """`consortium` at a site: it installed this trust file."""

    act: Literal["trust"]
    digest: Digest
    version: int = Field(ge=1)


class OperatorTrustBody(Body):
    """`consortium` at the operator: this trust file, signed by enough sites, was published."""

    act: Literal["trust"]
    trust: Digest
    version: int = Field(ge=1)


class RenewedBody(Body):
    """`consortium` at a site: it was given a certificate that ends then."""

    act: Literal["certificate"]
    ends: Time


class CertificateBody(Body):
    """`consortium` at the operator: it made a certificate for `site`; `serial` in hex."""

    act: Literal["certificate"]
    site: Named
    serial: str = Field(pattern=r"^[0-9a-f]{1,40}$")
    until: Time


class InviteBody(Body):
    """`consortium`: the operator invited `site`."""

    act: Literal["invite"]
    site: Named
    jurisdiction: Short
    invitation: Digest


class EnrolmentBody(Body):
    """`consortium`: this request of an invited site arrived."""

    act: Literal["enrolment"]
    site: Named
    request: Digest


class DraftBody(Body):
    """`consortium`: the operator drew up a trust file for the sites to sign."""

    act: Literal["draft"]
    draft: Digest
    joining: tuple[Named, ...] = Field(max_length=_MOST_SITES)
    reason: Text = ""


class RenewalBody(Body):
    """`consortium`: `site` asked for a new certificate of the same key."""

    act: Literal["renewal"]
    site: Named


class RenewAllBody(Body):
    """`consortium`: the operator made new certificates of its server."""

    act: Literal["renew"]
    days: int = Field(ge=1)


class SuspendBody(Body):
    """`consortium`: the operator no longer answers `site`; `draft` is that of the trust file without it, or empty."""

    act: Literal["suspend"]
    site: Named
    reason: Text
    suspension: Digest
    draft: str = Field(pattern=_STUDY)


class LiftBody(Body):
    """`consortium`: a suspension ended."""

    act: Literal["lift"]
    site: Named
    reason: Text


class PolicyBody(Body):
    """`policy`: the site installed its signatory's policy."""

    policy: Digest
    at: Time


class LawSetBody(Body):
    """`law` at a site: it installed the law set that its signatory adopted."""

    law_set: Digest
    at: Time


class StudyBody(Body):
    """`study`: the study of the entry was proposed by the operator, or joined by the site."""

    name: Short


class ProposedBody(Body):
    """`study` at a site: the operator's proposal arrived."""

    act: Literal["proposed"]
    study: Digest
    name: Short


class QueuedBody(Body):
    """`answer` at a site: a statement of its people waits for delivery, or was delivered."""

    act: Literal["queued", "delivered"]
    statement: Statement
    digest: Digest
    study: str = Field(pattern=_STUDY)


class ReceivedBody(Body):
    """`answer` at the operator: a statement of `site` arrived."""

    statement: Statement
    digest: Digest
    site: Named
    study: str = Field(pattern=_STUDY)


class CountBody(Body):
    """`count`: the counters of persons held so many rows, with this head of their chain."""

    rows: int = Field(ge=1)
    head: Digest


class ReleaseBody(Body):
    """`release`: a bundle was built; digests of its manifest and of its model."""

    manifest: Digest
    model: Digest


class RefusalBody(Body):
    """`refusal`: an error was answered; at the operator `site` is whose message was refused."""

    code: str = Field(pattern=CODE)
    message: Text
    rule: Text
    found: Text
    limit: Text
    next: Text
    site: Named | None = None


class FailureBody(Body):
    """`failure`: an attempt of a round ended without an update (round 0: the evaluation)."""

    code: str = Field(pattern=CODE)
    message: Text
    rule: Text
    found: Text
    limit: Text
    next: Text
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)


class CallPart(Frozen):
    """One call at a door with its time, or how many alike there were."""

    surface: Short
    method: Short
    site: Short
    outcome: Short
    at: Time | None = None
    count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.at is None) == (self.count is None):
            raise ValueError("exactly one of at and count")
        return self


class CallsBody(Body):
    """`calls`: calls at the server's doors."""

    calls: tuple[CallPart, ...] = Field(min_length=1, max_length=_MOST_CALLS)


class RegisterBody(Body):
    """`dataset`: an extract was registered. Numbers are rounded; `commitment` is salted with what never leaves."""

    action: Literal["register"]
    dataset: Named
    source: Named
    inherited: bool
    declared: int = Field(ge=10)
    declared_patients: int = Field(ge=10)
    several_rows: bool
    commitment: Digest
    legal_basis: Short
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    expires: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")


class RetireBody(Body):
    """`dataset`: no new study may use the extract."""

    action: Literal["retire"]
    dataset: Named
    source: Named


class WithdrawalBody(Body):
    """`withdrawal`: so many subjects, in a bucket, left the data; `named` is a keyed hash of who, key never logged."""

    number: int = Field(ge=1)
    ground: Short
    subjects: Literal["fewer than 10", "10 to 99", "100 or more"]
    named: Digest


class CancelBody(Body):
    """`cancel`: the operator ended a run."""

    run: Named
    reason: Text


class AlarmBody(Body):
    """`alarm`: something that a person must look at; `about` is a log origin, a member or a store, `since` a time."""

    code: str = Field(pattern=CODE)
    about: Short
    found: Text
    limit: Text
    since: Time


class ExportBody(Body):
    """`export`: `entries` of the first `size` entries of this log were written to a file; digests of it and the filter.

    `to`: the party that it was made for, by the decision at index `decision`; empty and None if it stays in the house.
    """

    format: Literal["jsonl", "csv", "fhir"]
    filter_sha256: Digest
    size: int = Field(ge=0)
    entries: int = Field(ge=0)
    sha256: Digest
    to: str = Field(pattern=f"^$|{NAME}")
    decision: int | None = Field(ge=0)


class CompactionBody(Body):
    """`compaction`: the entries `ranges` (first and last index) of one class, all older than `before`, lost their text.

    `leaves_sha256` is of their leaf hashes one after the other; `policy` says what asked for it, and `law_set` which.
    """

    record_class: RecordClass
    before: Time
    ranges: tuple[tuple[int, int], ...] = Field(min_length=1, max_length=MOST_RANGES)
    leaves_sha256: Digest
    policy: Short
    law_set: Digest

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        last = -2
        for first, end in self.ranges:
            if not last + 1 < first <= end:
                raise ValueError("ranges must ascend, with gaps between them")
            last = end
        return self
