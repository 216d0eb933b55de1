"""Leaving and being kept out: a site's signed leave, and the operator's suspension at its own door.

Neither changes the trust file: that the sites' signatures alone do. A suspension says no more than "this operator does
not serve this site now", and the roster of each round says so too.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, InputError, Refused
from compliance.identity import Envelope, PublicIdentity, Signer, media_type, parse_envelope, seal
from compliance.study import SHA256
from compliance.training_spec import Frozen
from compliance.trust.root import NAME, Anchor, Trust
from compliance.validation import load_model

SUSPENSION, LEAVE = "residency.suspension/1", "residency.leave/1"
_CODE = "RSD-6217"


class _Act(Frozen):
    consortium: str = Field(pattern=NAME)
    site: str = Field(pattern=NAME)
    reason: str = Field(min_length=1, max_length=500)
    at: str

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical statement."""
        return sha256_hex(canonical(self.as_json()))

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)


class Suspension(_Act):
    """The operator serves this site no more. `ground`: digest of the site's own leave statement, or empty."""

    schema_: Literal["residency.suspension/1"] = Field(alias="schema")
    ground: str = Field(default="", pattern=rf"^$|{SHA256}")


class Leave(_Act):
    """The site's signatory ends its membership under the trust file of digest `trust`."""

    schema_: Literal["residency.leave/1"] = Field(alias="schema")
    trust: str = Field(pattern=SHA256)


A = TypeVar("A", bound=_Act)


def make_suspension(operator: Signer, consortium: str, site: str, reason: str, ground: str = "") -> Envelope:
    """A suspension signed by the operator. Raises InputError RSD-6217 for a malformed name or reason."""
    record = {
        "schema": SUSPENSION, "consortium": consortium, "site": site, "reason": reason, "ground": ground,
        "at": rfc3339(now()),
    }  # fmt: skip
    return seal(load_model(Suspension, record, _CODE, "suspension").as_json(), operator)


def open_suspension(data: bytes, operator: PublicIdentity, what: str) -> Suspension:
    """A suspension that this operator signed. Raises InputError RSD-6217, CheckFailed RSD-6217 or RSD-6006."""
    suspension, envelope = _open(Suspension, SUSPENSION, data, what)
    if operator.keyid not in envelope.valid_keyids({operator.keyid: operator.key()}):
        raise _unsigned(what, operator)
    return suspension


def make_leave(signatory: Signer, trust: Trust, digest: str, reason: str) -> Envelope:
    """The site's leave, signed by its signatory. Raises InputError RSD-6010 (no member), RSD-6217."""
    record = {
        "schema": LEAVE, "consortium": trust.consortium, "site": trust.site(signatory.identity.holder).name,
        "reason": reason, "trust": digest, "at": rfc3339(now()),
    }  # fmt: skip
    return seal(load_model(Leave, record, _CODE, "leave statement").as_json(), signatory)


def open_leave(data: bytes, anchor: Anchor, what: str) -> Leave:
    """A leave from this consortium that the site's signatory signed while its key was valid.

    Raises InputError RSD-6217 (malformed), Refused RSD-6217 (another consortium), CheckFailed RSD-6217 or RSD-6006.
    """
    leave, envelope = _open(Leave, LEAVE, data, what)
    if leave.consortium != anchor.trust.consortium:
        raise Refused(
            _CODE, f"{what} is of another consortium", rule="a site leaves the consortium that it names",
            found=leave.consortium, limit=anchor.trust.consortium, next="give the statement that the site signed",
        )  # fmt: skip
    at = parse_time(leave.at)
    keys = [k for k in anchor.trust.keys_of("signatory", leave.site) if k.may_sign_at(at)]
    if not envelope.valid_keyids({k.keyid: k.key() for k in keys}):
        raise _unsigned(what, *keys)
    return leave


def _open(model: type[A], schema: str, data: bytes, what: str) -> tuple[A, Envelope]:
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(schema):
        raise InputError(
            _CODE, f"{what} is another kind of file", rule="statements name their kind",
            found=envelope.payload_type, limit=media_type(schema), next="give the statement itself",
        )  # fmt: skip
    act = load_model(model, parse_canonical(envelope.payload, what), _CODE, what)
    parse_time(act.at, "at")
    return act, envelope


def _unsigned(what: str, *keys: PublicIdentity) -> CheckFailed:
    return CheckFailed(
        _CODE, f"{what} is not signed by whom it concerns", rule="DSSE v1, keys from the trust file",
        found="no signature by such a key", limit=", ".join(k.keyid[:12] for k in keys) or "a key that is valid then",
        next="obtain the statement again from its author",
    )  # fmt: skip
