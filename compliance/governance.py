"""The messages of the governance service, and its methods with their bounds. Bodies are canonical JSON, strict.

The service is `residency.Governance` over gRPC; the bodies are encoded by `compliance.messages.encode`, and an error
travels as `compliance.error_reply` in the status's details.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from compliance.messages import CheckpointOffer, CosignedLine
from compliance.study import SHA256
from compliance.training_spec import Frozen

SERVICE: Final = "residency.Governance"
MOST_REQUEST: Final = 1 << 20  # bytes: no method takes more
MOST_REPLY: Final = 4 << 20
MOST_STATEMENT: Final = 64 << 10  # bytes of one signed answer
MOST_MEMBERS: Final = 1001  # sites of a consortium, and its operator
MOST_PROPOSALS: Final = 1000  # studies that one site is offered at a time
RENEW_DAYS: Final = 30  # a certificate is renewed from so many days before its end, a shorter one at half its life


Digest = Annotated[str, Field(pattern=SHA256)]
Origin = Annotated[str, Field(min_length=1, max_length=200)]


class StatusRequest(Frozen):
    """What the site runs."""

    version: str = Field(max_length=100)


class StatusReply(Frozen):
    """The server's time and versions, its trust file by digest, and the studies proposed to this site.

    `at` is UTC, RFC 3339. A suspended or removed site gets no status but the refusal that says so.
    """

    at: str
    version: str = Field(max_length=100)
    bundle_sha256: str = Field(pattern=SHA256)
    trust: str = Field(pattern=SHA256)
    trust_version: int = Field(ge=1)
    studies: tuple[Digest, ...] = Field(max_length=MOST_PROPOSALS)


class TrustRequest(Frozen):
    """Asks for the trust file that the operator installed."""


class TrustReply(Frozen):
    """The signed trust file as it stands at the operator: judged by its signatures alone."""

    trust: str = Field(max_length=MOST_REPLY)


class StudyRequest(Frozen):
    """Asks for a study that was proposed to this site."""

    digest: str = Field(pattern=SHA256)


class StudyReply(Frozen):
    """The signed study."""

    study: str = Field(max_length=MOST_REPLY)


class AnswerRequest(Frozen):
    """A statement that a person of the site signed: approval, refusal, advice, withdrawal, or leave."""

    statement: str = Field(min_length=1, max_length=MOST_STATEMENT)


class AnswerReply(Frozen):
    """The statement is on the operator's disk and in the operator's log. `fresh`: it was not there before."""

    digest: str = Field(pattern=SHA256)
    fresh: bool


class ExchangeRequest(Frozen):
    """This site's newest checkpoint (None: nothing new), what it has cosigned of the others, and those cosignatures.

    `held`: origin -> size of the last checkpoint cosigned here, so that the reply can prove exactly from there.
    """

    offer: CheckpointOffer | None
    held: dict[Origin, Annotated[int, Field(ge=0, lt=1 << 53)]] = Field(max_length=MOST_MEMBERS)
    given: tuple[CosignedLine, ...] = Field(max_length=MOST_MEMBERS)


class ExchangeReply(Frozen):
    """The others' newest checkpoints, each with the proof from `held`, and the cosignatures on this site's log.

    `wanted` are the sizes of this site's log from which others need a proof; `known` is the last checkpoint of it that
    the operator cosigned (a note, or empty); `refused` says why this offer is not shown to others (or empty). While a
    run with this site goes on, the run itself carries the checkpoints: then `shown` is false and `offers` is empty.
    """

    offers: tuple[CheckpointOffer, ...] = Field(max_length=MOST_MEMBERS)
    cosigned: tuple[CosignedLine, ...] = Field(max_length=MOST_MEMBERS)
    wanted: tuple[Annotated[int, Field(ge=0, lt=1 << 53)], ...] = Field(max_length=MOST_MEMBERS)
    known: str = Field(max_length=20_000)
    shown: bool
    refused: str = Field(max_length=1000)


class RenewRequest(Frozen):
    """A certificate request (PEM) by the same node key."""

    csr: str = Field(min_length=1, max_length=10_000)


class CertificateReply(Frozen):
    """The site's certificate (PEM)."""

    certificate: str = Field(min_length=1, max_length=20_000)


class EnrolRequest(Frozen):
    """The invitation's one-time token and the site's signed enrolment request, which holds its certificate request."""

    token: str = Field(min_length=1, max_length=200)
    request: str = Field(min_length=1, max_length=MOST_STATEMENT)


@dataclass(frozen=True)
class Method:
    """Bounds of one method: bytes of a request, seconds that a call may take, calls a minute of one caller."""

    request: type[Frozen]
    reply: type[Frozen]
    most_bytes: int
    deadline_s: float
    per_minute: int


METHODS: Final[dict[str, Method]] = {
    "Status": Method(StatusRequest, StatusReply, 1 << 10, 10, 60),
    "Trust": Method(TrustRequest, TrustReply, 1 << 10, 20, 12),
    "Study": Method(StudyRequest, StudyReply, 1 << 10, 20, 60),
    "Answer": Method(AnswerRequest, AnswerReply, 2 * MOST_STATEMENT, 20, 60),
    "Exchange": Method(ExchangeRequest, ExchangeReply, MOST_REQUEST, 30, 30),
    "Renew": Method(RenewRequest, CertificateReply, 16 << 10, 20, 6),
}
ENROL: Final = {"Enrol": Method(EnrolRequest, CertificateReply, 2 * MOST_STATEMENT, 20, 30)}
