"""Every kind of entry: the shapes of its body and their version, how long it is kept, and what it records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from pydantic import BaseModel, ValidationError

from compliance.errors import InputError
from compliance.law.vocabulary import RecordClass
from compliance.log import bodies as b
from compliance.log.entry import Kind
from compliance.release import bodies as r

Needed = Literal["ever", "study", "newest", "free"]


@dataclass(frozen=True)
class KindSpec:
    """One kind. `bodies`: the shapes that its bodies have, all of `version`; `about`: what an entry records.

    needed: whether this software reads such an entry again, so that its text may go never ("ever"), only once the study
    of the entry is closed ("study"), only while it is not the newest of its kind ("newest"), or at any time ("free").
    """

    kind: Kind
    version: int
    bodies: tuple[type[BaseModel], ...]
    record_class: RecordClass
    needed: Needed
    about: str


_KINDS: Final = (
    KindSpec(
        "consortium",
        1,
        (
            *(b.TrustBody, b.OperatorTrustBody, b.RenewedBody, b.CertificateBody, b.InviteBody, b.EnrolmentBody),
            *(b.DraftBody, b.RenewalBody, b.RenewAllBody, b.SuspendBody, b.LiftBody),
        ),
        "access",
        "free",
        "members, certificates and trust files: who was let in, renewed, suspended",
    ),
    KindSpec("policy", 1, (b.PolicyBody,), "decision", "ever", "the site installed its signatory's policy"),
    KindSpec("law", 1, (b.LawSetBody, r.AdoptionBody), "decision", "ever", "a signatory's law set came into force"),
    KindSpec("study", 1, (b.StudyBody, b.ProposedBody), "answer", "ever", "a study was proposed, or joined"),
    KindSpec(
        "answer",
        1,
        (r.AnswerBody, b.QueuedBody, b.ReceivedBody),
        "answer",
        "study",
        "a signed advice, approval, refusal or withdrawal, by its digest",
    ),
    KindSpec("join", 1, (r.JoinBody,), "answer", "study", "the site takes part in a run, under which law set"),
    KindSpec("reservation", 1, (r.ReservationBody,), "charge", "ever", "budget held on a data source for a study"),
    KindSpec("charge", 1, (r.ChargeBody,), "charge", "ever", "budget spent on one attempt, before data were read"),
    KindSpec("commit", 1, (r.CommitBody,), "transfer", "study", "a finished update is on disk, with its noise checks"),
    KindSpec(
        "decision", 1, (r.DecisionBody,), "decision", "study", "ALLOW or DENY for one transfer, with rule and citations"
    ),
    KindSpec("count", 1, (b.CountBody,), "transfer", "newest", "the counters of persons, by the head of their chain"),
    KindSpec("transfer", 1, (r.TransferBody,), "transfer", "study", "these bytes were let go, by which decision"),
    KindSpec("roster", 1, (r.RosterBody,), "roster", "study", "the roster of a round, made or countersigned"),
    KindSpec("cosign", 1, (r.CosignBody,), "checkpoint", "free", "this member cosigned another log's checkpoint"),
    KindSpec("release", 1, (b.ReleaseBody,), "release", "ever", "a bundle was built, by its digests"),
    KindSpec("refusal", 1, (b.RefusalBody,), "decision", "study", "a message was refused, with the rule"),
    KindSpec("failure", 1, (b.FailureBody,), "roster", "study", "an attempt of a round ended without an update"),
    KindSpec("close", 1, (r.CloseBody,), "roster", "ever", "a study is over in this log: how many entries it has"),
    KindSpec("calls", 1, (b.CallsBody,), "access", "free", "calls at the server's doors"),
    KindSpec("dataset", 1, (b.RegisterBody, b.RetireBody), "charge", "ever", "an extract was registered, or retired"),
    KindSpec(
        "withdrawal", 1, (b.WithdrawalBody,), "withdrawal", "ever", "subjects left the data: a bucket, no identity"
    ),
    KindSpec("cancel", 1, (b.CancelBody,), "roster", "study", "the operator ended a run"),
    KindSpec(
        "evaluation",
        1,
        (r.EvaluationBody, r.EvaluationRecordBody),
        "transfer",
        "study",
        "a noised histogram of the finished model is on disk, or the record of all of them",
    ),
    KindSpec("alarm", 1, (b.AlarmBody,), "incident", "ever", "something that a person must look at"),
    KindSpec("export", 1, (b.ExportBody,), "access", "free", "entries of this log were written to files, for whom"),
    KindSpec("compaction", 1, (b.CompactionBody,), "checkpoint", "ever", "entries lost their text by retention"),
)
KIND_OF: Final[Mapping[str, KindSpec]] = {spec.kind: spec for spec in _KINDS}
assert set(KIND_OF) == set(get_args(Kind))  # noqa: S101 - no kind without a shape


def record_class(kind: str) -> RecordClass:
    """The class of record whose retention governs entries of `kind`."""
    return KIND_OF[kind].record_class


def version_of(kind: str) -> int:
    """The version of the shapes in which `kind` is written. Raises InputError RSD-5020 for an unknown kind."""
    return _known(kind).version


def check_body(kind: str, body: bytes) -> None:
    """Returns if `body`, JSON, has a shape of `kind`. Raises InputError RSD-5020, also for an unknown kind."""
    spec = _known(kind)
    wrong: list[str] = []
    for shape in spec.bodies:
        try:
            shape.model_validate_json(body)
        except ValidationError as e:
            fields = {".".join(map(str, error["loc"])) or "(top)" for error in e.errors(include_url=False)}
            wrong.append(f"{shape.__name__}: {', '.join(sorted(fields)[:5])}")  # no value: nobody knows what it is
        else:
            return
    raise _malformed(f"the body of a {kind} entry has not the shape of its kind", " | ".join(wrong), spec.version)


def _known(kind: str) -> KindSpec:
    spec = KIND_OF.get(kind)
    if spec is None:
        raise _malformed(f"kind {kind} is unknown", kind, ", ".join(KIND_OF))
    return spec


def _malformed(message: str, found: str, limit: object) -> InputError:
    return InputError(
        "RSD-5020",
        message,
        rule="every kind of entry has its shapes",
        found=found,
        limit=limit,
        next="correct the value; the log was not changed",
    )
