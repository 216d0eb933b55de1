"""How a site comes into the trust file: invitation, and request with proof of possession. No files.

An invitation's own key says only that the invitation is intact; who the operator is, the sites settle outside this
channel, and then each signatory signs the drafted trust file with the other sites' keys in view.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Literal, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, model_validator

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, InputError
from compliance.identity import Envelope, PublicIdentity, Role, Signer, media_type, parse_envelope, seal
from compliance.pki import MOST_CSR, csr_public_key, make_csr, public_pem
from compliance.study import SHA256, Organisation
from compliance.training_spec import Frozen
from compliance.trust.consortium import Consortium, Door
from compliance.trust.root import NAME
from compliance.validation import load_model

INVITATION, INVITED, ENROLMENT = "residency.invitation/1", "residency.invited/1", "residency.enrolment/1"
TOKEN = r"^[0-9a-f]{64}$"  # noqa: S105 - its form
TOKEN_DAYS = 14
SITE_ROLES: tuple[Role, ...] = ("agent", "signatory", "dpo")

M = TypeVar("M", bound="_Statement")


class _Statement(Frozen):
    site: str = Field(pattern=NAME)
    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$", description="16 random bytes: makes each invitation another one")
    at: str

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical statement: what the envelope calls `digest`."""
        return sha256_hex(canonical(self.as_json()))


class Invitation(_Statement):
    """What a site needs to enrol: where the server is, its CA, and the key that the operator says is its own.

    `token` lets one site enrol once, until `token_expires`: the file is a secret until then.
    """

    schema_: Literal["residency.invitation/1"] = Field(alias="schema")
    consortium: str = Field(pattern=NAME)
    operator: Organisation
    server: Door
    governance: Door
    enrolment: Door
    token: str = Field(pattern=TOKEN)
    token_expires: str
    ca_pem: str = Field(min_length=1, max_length=20_000)
    operator_key: PublicIdentity

    @model_validator(mode="after")
    def _operator_signs(self) -> Invitation:
        if (self.operator_key.role, self.operator_key.holder) != ("operator", self.operator.name):
            raise ValueError(f"operator_key is a {self.operator_key.role} key of {self.operator_key.holder}")
        return self


class Invited(_Statement):
    """What the operator keeps of an invitation: enough to know a request and a token again, and no secret."""

    schema_: Literal["residency.invited/1"] = Field(alias="schema")
    consortium: str = Field(pattern=NAME)
    invitation: str = Field(pattern=SHA256)
    token_sha256: str = Field(pattern=SHA256)
    token_expires: str


def invited(invitation: Invitation) -> Invited:
    """What to keep of an invitation."""
    record = {
        "schema": INVITED,
        "site": invitation.site,
        "jurisdiction": invitation.jurisdiction,
        "nonce": invitation.nonce,
        "at": invitation.at,
        "consortium": invitation.consortium,
        "invitation": invitation.digest,
        "token_sha256": sha256_hex(invitation.token.encode("ascii")),
        "token_expires": invitation.token_expires,
    }
    return load_model(Invited, record, "RSD-6016", "invitation")


class EnrolmentRequest(_Statement):
    """A site's public keys (agent, signatory, dpo), its node key (P-384, PEM) and a certificate request for it."""

    schema_: Literal["residency.enrolment/1"] = Field(alias="schema")
    invitation: str = Field(pattern=SHA256)
    keys: tuple[PublicIdentity, PublicIdentity, PublicIdentity]
    node_key: str = Field(min_length=1, max_length=2000)
    csr: str = Field(min_length=1, max_length=MOST_CSR)

    @property
    def agent(self) -> PublicIdentity:
        """The key that the request is signed with."""
        return self.keys[0]


def make_invitation(
    config: Consortium, operator: Signer, site: str, jurisdiction: str, ca_pem: str, *, days: int = TOKEN_DAYS
) -> Envelope:
    """An invitation of `site`, signed by the operator, with a fresh token of 32 random bytes that holds for `days`.

    Raises InputError RSD-6016 for a malformed name.
    """
    record = {
        "schema": INVITATION,
        "consortium": config.name,
        "site": site,
        "jurisdiction": jurisdiction,
        "operator": config.operator.model_dump(mode="json"),
        "server": config.server,
        "governance": config.governance,
        "enrolment": config.enrolment,
        "token": secrets.token_hex(32),
        "token_expires": rfc3339(now() + timedelta(days=days)),
        "ca_pem": ca_pem,
        "operator_key": operator.identity.as_json(),
        "nonce": secrets.token_hex(16),
        "at": rfc3339(now()),
    }
    return seal(load_model(Invitation, record, "RSD-6016", "invitation").as_json(), operator)


def open_invitation(data: bytes, what: str = "invitation") -> Invitation:
    """Parse, and check the signature by the key inside: that says the file is intact, not who wrote it.

    Raises InputError RSD-6016 (malformed), CheckFailed RSD-6006 or RSD-6016 (badly or not signed).
    """
    invitation, envelope = _open(Invitation, INVITATION, "RSD-6016", data, what)
    _need_signature(envelope, invitation.operator_key, "RSD-6016", what)
    return invitation


def make_request(
    invitation: Invitation,
    agent: Signer,
    signatory: PublicIdentity,
    dpo: PublicIdentity,
    node_key: ec.EllipticCurvePrivateKey,
) -> Envelope:
    """A request to be admitted, signed by the agent key. Raises CheckFailed RSD-6009 for keys that cannot be admitted.

    It also proves possession of the node key, by a certificate request. The signatory and the DPO prove that they hold
    their keys when they sign: the trust file and advice.
    """
    record = {
        "schema": ENROLMENT,
        "invitation": invitation.digest,
        "nonce": invitation.nonce,
        "site": invitation.site,
        "jurisdiction": invitation.jurisdiction,
        "keys": [k.as_json() for k in (agent.identity, signatory, dpo)],
        "node_key": public_pem(node_key),
        "csr": make_csr(node_key, invitation.site, invitation.consortium).decode("ascii"),
        "at": rfc3339(now()),
    }
    request = load_model(EnrolmentRequest, record, "RSD-6009", "enrolment request")
    _check_against(request, invitation, "enrolment request")
    return seal(request.as_json(), agent)


def check_request(data: bytes, invitation: Invitation | Invited, what: str = "enrolment request") -> EnrolmentRequest:
    """The request answers this invitation, and who wrote it holds its agent key and its node key.

    Raises CheckFailed RSD-6009 or RSD-6006, InputError RSD-6009 (malformed).
    """
    request, envelope = _open(EnrolmentRequest, ENROLMENT, "RSD-6009", data, what)
    _check_against(request, invitation, what)
    _need_signature(envelope, request.agent, "RSD-6009", what)
    return request


def certified_key(request: EnrolmentRequest, consortium: str) -> bytes:
    """The key (PEM) that the certificate request proves possession of. Raises RSD-6201, RSD-6202."""
    return csr_public_key(request.csr.encode("ascii", errors="replace"), request.site, consortium)


def claimed_invitation(data: bytes, what: str) -> str:
    """Digest of the invitation that a request answers, unverified: to find it. Raises InputError RSD-6009."""
    return _open(EnrolmentRequest, ENROLMENT, "RSD-6009", data, what)[0].invitation


def _open(model: type[M], schema: str, code: str, data: bytes, what: str) -> tuple[M, Envelope]:
    envelope = parse_envelope(data, what)
    if envelope.payload_type != media_type(schema):
        raise InputError(
            code,
            f"{what} is another kind of statement",
            rule=schema,
            found=envelope.payload_type,
            limit=media_type(schema),
            next="give the file that the other side sent for this step",
        )
    loaded = load_model(model, parse_canonical(envelope.payload, what), code, what)
    if loaded.digest != envelope.digest:
        raise InputError(
            code, f"{what} leaves out a field", rule=schema, found=envelope.digest[:12], limit=loaded.digest[:12]
        )
    return loaded, envelope


def _need_signature(envelope: Envelope, key: PublicIdentity, code: str, what: str) -> None:
    if key.keyid not in envelope.valid_keyids({key.keyid: key.key()}):
        raise CheckFailed(
            code,
            f"{what} is not signed by the {key.role} key that it names",
            rule="proof of possession",
            found=", ".join(k[:12] for k, _ in envelope.signatures) or "no signature",
            limit=key.keyid[:12],
            next="obtain the file again from its author",
        )


def _check_against(request: EnrolmentRequest, invitation: Invitation | Invited, what: str) -> None:
    digest = invitation.invitation if isinstance(invitation, Invited) else invitation.digest
    node_key = _normal_or_none(request.node_key)
    roles, holders = tuple(k.role for k in request.keys), {k.holder for k in request.keys}
    different = len({k.keyid for k in request.keys})
    unable = [k.role for k in request.keys if not k.may_sign_at(parse_time(request.at))]
    for wrong, field, found, limit in (
        (request.invitation != digest, "invitation", request.invitation[:12], digest[:12]),
        (request.nonce != invitation.nonce, "nonce", request.nonce, invitation.nonce),
        (request.site != invitation.site, "site", request.site, invitation.site),
        (
            request.jurisdiction != invitation.jurisdiction,
            "jurisdiction",
            request.jurisdiction,
            invitation.jurisdiction,
        ),
        (roles != SITE_ROLES, "roles of the keys", ", ".join(roles), ", ".join(SITE_ROLES)),
        (holders != {request.site}, "holders of the keys", ", ".join(sorted(holders)), request.site),
        (different != len(request.keys), "different keys", different, len(request.keys)),
        (bool(unable), "keys valid when it was made", ", ".join(unable) + " not valid", request.at),
        (node_key is None, "node_key", "another kind of key", "a P-384 public key in PEM"),
    ):
        if wrong:
            raise _contradiction(request, what, field, found, limit)
    if node_key != certified_key(request, invitation.consortium):
        raise _contradiction(request, what, "csr", "a certificate request for another key", "one for the node key")


def _contradiction(request: EnrolmentRequest, what: str, field: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed(
        "RSD-6009",
        f"{what} of {request.site} contradicts its invitation or itself: {field}",
        rule="enrolment",
        found=found,
        limit=limit,
        next="the site enrols again: residency agent enroll",
    )


def _normal_or_none(pem: str) -> bytes | None:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return None
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
