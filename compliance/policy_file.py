"""The policy file of a site: written as YAML, advised on by the DPO, signed by the signatory."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import parse_time, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import read_bytes
from compliance.identity import media_type, parse_envelope
from compliance.policy import SCHEMA, SitePolicy
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME, Anchor
from compliance.validation import Mistake, load_model, read_yaml, try_model

DECISION = "residency.policy-decision/1"


class PolicyDecision(Frozen):
    """Why the signatory signed a policy: on which advice, or with which reason without or against it."""

    schema_: Literal["residency.policy-decision/1"] = Field(alias="schema")
    policy: str = Field(pattern=SHA256)
    site: str = Field(pattern=NAME)
    at: str
    advice: str = Field(pattern=r"^([0-9a-f]{64})?$", description="digest of the advice, empty if there was none")
    favourable: bool
    reason: str = Field(max_length=4000)

    @model_validator(mode="after")
    def _explained(self) -> PolicyDecision:
        if not self.reason and not (self.advice and self.favourable):
            raise ValueError("a policy without favourable advice needs a reason")
        return self

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


def check_policy_file(path: Path) -> tuple[list[Mistake], SitePolicy | None]:
    """Every mistake of a policy file (YAML, or `.json`: signed) with field and line; the policy if there is none.

    The signature of a signed file is not judged here. Raises InputError RSD-2002, RSD-2005, RSD-2006 or RSD-2007.
    """
    if path.suffix == ".json":
        return try_model(SitePolicy, _payload(read_bytes(path, "policy"), str(path)))
    file = read_yaml(path, "policy")
    mistakes, policy = try_model(SitePolicy, file.value)
    return file.located(mistakes), policy


def policy_digest(policy: SitePolicy) -> str:
    """SHA-256 of the canonical policy: what advice and approvals name."""
    return sha256_hex(canonical(policy.as_json()))


def open_policy(anchor: Anchor, data: bytes, what: str, site: str, at: datetime) -> tuple[SitePolicy, str]:
    """The signed policy of `site` with its digest: signed by its signatory, judged at its issue, not expired `at`.

    Raises CheckFailed (signature), InputError RSD-2007 (malformed) or Refused RSD-2103 (expired).
    """
    policy = signed_policy(data, what)
    issued = parse_time(policy.issued)
    found = anchor.statement(data, SCHEMA, what, role="signatory", holder=site, at=issued, seen_at=at)
    if at > parse_time(policy.expires):
        raise Refused(
            "RSD-2103",
            f"the policy of site {site} has expired",
            rule="policy.expires",
            found=rfc3339(at),
            limit=policy.expires,
            next="have the signatory sign a new policy",
        )
    return policy, found.digest


def signed_policy(data: bytes, what: str) -> SitePolicy:
    """What a signed policy file says; nothing is judged. Raises InputError RSD-2007 (malformed)."""
    return load_model(SitePolicy, _payload(data, what), "RSD-2007", what)


def _payload(data: bytes, what: str) -> Json:
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(SCHEMA):
        raise InputError(
            "RSD-2007",
            f"{what} is no policy",
            rule=SCHEMA,
            found=envelope.payload_type,
            limit=media_type(SCHEMA),
            next="give the file that residency policy sign wrote",
        )
    return parse_canonical(envelope.payload, what)
