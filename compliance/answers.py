"""A site's signed answers to one study digest: advice, approval, refusal, withdrawal.

The DPO advises; the signatory decides.

GDPR Art 38(6): the data-protection officer must not hold tasks that conflict with the office, so the DPO does not
decide; a decision against the advice needs a reason, which is logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from compliance.canonical import Json, parse_canonical
from compliance.clock import parse_time
from compliance.errors import InputError, Refused
from compliance.identity import media_type, parse_envelope
from compliance.policy import SitePolicy
from compliance.study import SHA256, Software, Study
from compliance.training_spec import Frozen
from compliance.trust.root import NAME, Anchor
from compliance.validation import load_model

A = TypeVar("A", bound="_Answer")
ADVICE, APPROVAL, REFUSAL = "residency.advice/1", "residency.approval/1", "residency.refusal/1"
WITHDRAWAL = "residency.withdrawal/1"
Subject = Literal["study", "policy", "law_set"]


class _Answer(Frozen):
    subject: Subject
    digest: str = Field(pattern=SHA256, description="SHA-256 of the canonical study, policy or law set")
    site: str = Field(pattern=NAME)
    at: str

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


class Advice(_Answer):
    """What the data-protection officer advises."""

    schema_: Literal["residency.advice/1"] = Field(alias="schema")
    favourable: bool
    text: str = Field(min_length=1, max_length=4000)


class Approval(_Answer):
    """The signatory lets the site take part, under this policy, with this software."""

    schema_: Literal["residency.approval/1"] = Field(alias="schema")
    advice: str = Field(pattern=SHA256, description="digest of the advice that was before the signatory")
    against_advice_reason: str = ""
    policy: str = Field(pattern=SHA256)
    software: Software

    @model_validator(mode="after")
    def _study_only(self) -> Approval:
        if self.subject != "study":
            raise ValueError("an approval is of a study; a policy and a law set are signed themselves")
        return self


class Refusal(_Answer):
    """The signatory declines, with a reason."""

    schema_: Literal["residency.refusal/1"] = Field(alias="schema")
    reason: str = Field(min_length=1, max_length=4000)


class Withdrawal(_Answer):
    """The signatory takes the site's approval back, with a reason: from then on the site takes no part in the study."""

    schema_: Literal["residency.withdrawal/1"] = Field(alias="schema")
    reason: str = Field(min_length=1, max_length=4000)


@dataclass(frozen=True)
class OpenedAdvice:
    """A verified advice with its digest."""

    advice: Advice
    digest: str


def open_advice(
    anchor: Anchor, data: bytes, what: str, subject: Subject, seen_at: datetime | None = None
) -> OpenedAdvice:
    """Verify that a DPO of the named site signed it, judged at its own time and, if given, at `seen_at` too.

    `seen_at` is for whoever acts on it now: `Anchor.statement`. Raises CheckFailed, InputError, Refused RSD-2205 (on
    something else) or RSD-2211 (dated in the future).
    """
    claimed = _peek(data, what, Advice)
    at = parse_time(claimed.at)
    found = anchor.statement(data, ADVICE, what, role="dpo", holder=claimed.site, at=at, seen_at=seen_at)
    if claimed.subject != subject:
        message = f"{what} advises on a {claimed.subject.replace('_', ' ')}"
        raise Refused("RSD-2205", message, found=claimed.subject, limit=subject)
    return OpenedAdvice(claimed, found.digest)


def read_advice(data: bytes, what: str) -> OpenedAdvice:
    """An advice whose signature is not judged, because there is no trust file yet. Raises InputError."""
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(ADVICE):
        raise InputError("RSD-2206", f"{what} is no advice", found=envelope.payload_type, limit=media_type(ADVICE))
    return OpenedAdvice(_peek(data, what, Advice), envelope.digest)


def open_approval(anchor: Anchor, data: bytes, what: str, seen_at: datetime | None = None) -> tuple[Approval, str]:
    """Verify that a signatory of the named site signed it, judged as in `open_advice`; with its digest."""
    claimed = _peek(data, what, Approval)
    at = parse_time(claimed.at)
    found = anchor.statement(data, APPROVAL, what, role="signatory", holder=claimed.site, at=at, seen_at=seen_at)
    return claimed, found.digest


def open_refusal(anchor: Anchor, data: bytes, what: str, seen_at: datetime | None = None) -> tuple[Refusal, str]:
    """Verify a refusal in the same way."""
    claimed = _peek(data, what, Refusal)
    at = parse_time(claimed.at)
    found = anchor.statement(data, REFUSAL, what, role="signatory", holder=claimed.site, at=at, seen_at=seen_at)
    return claimed, found.digest


def open_withdrawal(anchor: Anchor, data: bytes, what: str, seen_at: datetime | None = None) -> tuple[Withdrawal, str]:
    """Verify a withdrawal in the same way."""
    claimed = _peek(data, what, Withdrawal)
    at = parse_time(claimed.at)
    found = anchor.statement(data, WITHDRAWAL, what, role="signatory", holder=claimed.site, at=at, seen_at=seen_at)
    return claimed, found.digest


def answer_schema(data: bytes, what: str) -> str:
    """The `schema` field of a signed answer, unverified: to choose how to open it."""
    payload = parse_canonical(parse_envelope(data, what).payload, what)
    return str(payload.get("schema", "")) if isinstance(payload, dict) else ""


def _peek(data: bytes, what: str, model: type[A]) -> A:
    return load_model(model, parse_canonical(parse_envelope(data, what).payload, what), "RSD-2206", what)


def check_approval(
    approval: Approval, study_digest: str, study: Study, site: str, policy_digest: str, advice: OpenedAdvice | None
) -> None:
    """The approval is of exactly this study, policy and software, and the advice was before the signatory.

    Raises Refused RSD-2201 (another study, policy, site or software), RSD-2202 (no advice), RSD-2203 (against advice
    without a reason).
    """
    for what, found, limit in (
        ("study", approval.digest, study_digest),
        ("site", approval.site, site),
        ("policy", approval.policy, policy_digest),
        ("bundle", approval.software.bundle_sha256, study.software.bundle_sha256),
        ("version", approval.software.version, study.software.version),
    ):
        if found != limit:
            raise Refused(
                "RSD-2201",
                f"the approval of site {site} is for another {what}",
                rule="an approval holds for one study, policy and software",
                found=found[:12],
                limit=limit[:12],
                next="the signatory approves what is proposed now: residency study approve",
            )
    if advice is None:
        raise _without_advice(approval, "no advice", approval.advice[:12])
    _check_before_the_signatory(approval, study_digest, advice)
    if not advice.advice.favourable and not approval.against_advice_reason:
        raise Refused(
            "RSD-2203",
            f"the approval of site {site} goes against the DPO's advice without a reason",
            rule="a decision against advice needs a logged reason",
            found="no reason",
            limit="a reason",
            next="approve again with --against-advice REASON, or refuse",
        )


def _check_before_the_signatory(approval: Approval, study_digest: str, advice: OpenedAdvice) -> None:
    """The named advice, by this site's own DPO, on this study, not written after the decision. Raises RSD-2202."""
    told = advice.advice
    for what, found, limit in (
        ("study ", told.digest[:12], study_digest[:12]),
        ("site ", told.site, approval.site),
        ("advice ", advice.digest[:12], approval.advice[:12]),
    ):
        if found != limit:
            raise _without_advice(approval, what + found, what + limit)
    if parse_time(told.at) > parse_time(approval.at):
        raise _without_advice(approval, f"advice of {told.at}", f"{approval.at} at the latest")


def _without_advice(approval: Approval, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-2202",
        f"the approval of site {approval.site} comes without the DPO's advice on this study",
        rule="GDPR Art 38(1): the DPO is involved in time",
        found=found,
        limit=limit,
        next="residency study advise, then approve with --advice",
    )


def check_policy_owner(policy: SitePolicy, site: str, jurisdiction: str) -> None:
    """The policy is this site's own. Raises Refused RSD-2204."""
    if (policy.site, policy.jurisdiction) != (site, jurisdiction):
        raise Refused(
            "RSD-2204",
            f"this policy belongs to another {'site' if policy.site != site else 'jurisdiction'}",
            rule="a policy is of one site, where the trust file places it",
            found=f"{policy.site} ({policy.jurisdiction})",
            limit=f"{site} ({jurisdiction})",
            next="give the policy that this site's signatory signed for where it is, or make it: residency policy init",
        )
