"""Signing identities (Ed25519) and signed statements (DSSE v1 over RFC 8785 JSON).

An envelope is the DSSE JSON envelope (github.com/secure-systems-lab/dsse, protocol.md v1.0.2), itself in canonical
form, so that a signed file has one sequence of bytes and every changed byte is caught.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from compliance.canonical import Json, b64decode, b64encode, canonical, parse_canonical, sha256_hex
from compliance.clock import parse_time, time_or_none
from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.files import must_be_private, quoted, read_bytes, write_durably
from compliance.training_spec import Frozen
from compliance.validation import load_model

Role = Literal["operator", "agent", "signatory", "dpo", "witness"]
ROLES: tuple[Role, ...] = ("operator", "agent", "signatory", "dpo", "witness")


class PublicIdentity(Frozen):
    """What others may know of a key: who holds it, in which role, and in which period it may sign."""

    schema_: Literal["residency.key/1"] = Field(alias="schema")
    role: Role
    holder: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    public: str = Field(description="raw Ed25519 public key, base64")
    not_before: str
    not_after: str
    revoked_at: str | None = None

    @model_validator(mode="after")
    def _has_a_period(self) -> PublicIdentity:
        start, end = time_or_none(self.not_before), time_or_none(self.not_after)
        if start is None or end is None or end <= start:
            raise ValueError(f"not_after {self.not_after} is not after not_before {self.not_before}")
        if self.revoked_at is not None and time_or_none(self.revoked_at) is None:
            raise ValueError(f"revoked_at {self.revoked_at} is not a UTC time")
        return self

    @property
    def keyid(self) -> str:
        """SHA-256 of the raw public key, 64 hex digits."""
        return sha256_hex(b64decode(self.public, "public key"))

    def key(self) -> Ed25519PublicKey:
        """The public key. Raises InputError RSD-6003 when the bytes are no Ed25519 key."""
        try:
            return Ed25519PublicKey.from_public_bytes(b64decode(self.public, "public key"))
        except ValueError as e:
            raise InputError(
                "RSD-6003",
                f"the public key of {self.holder} is malformed",
                rule="RFC 8032",
                found=f"{len(b64decode(self.public, 'public key'))} bytes that are no Ed25519 key",
                limit="the 32 bytes of an Ed25519 key",
                next="have the key exported again on its own machine",
            ) from e

    def may_sign_at(self, at: datetime) -> bool:
        """Whether `at` lies in the key's period and before a revocation."""
        inside = parse_time(self.not_before) <= at <= parse_time(self.not_after)
        return inside and not self.ended_by(at)

    def ended_by(self, at: datetime) -> bool:
        """Whether the key signs nothing any more from `at` on."""
        return at > parse_time(self.not_after) or (self.revoked_at is not None and at >= parse_time(self.revoked_at))

    def as_json(self) -> dict[str, Json]:
        """JSON form, with `schema` under its public name."""
        return self.model_dump(by_alias=True)


@dataclass(frozen=True)
class Signer:
    """A private key with its public identity. The private key never leaves this process."""

    private: Ed25519PrivateKey
    identity: PublicIdentity


def new_signer(role: Role, holder: str, not_before: str, not_after: str) -> Signer:
    """A fresh key from the operating system's generator."""
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    record = {
        "schema": "residency.key/1",
        "role": role,
        "holder": holder,
        "public": b64encode(raw),
        "not_before": not_before,
        "not_after": not_after,
    }
    return Signer(private, load_model(PublicIdentity, record, "RSD-6003", "key"))


def save_signer(signer: Signer, folder: Path) -> tuple[Path, Path]:
    """Write `<role>.key` (PKCS 8 PEM, mode 0600) and `<role>.pub.json`; never overwrites.

    Raises InputError RSD-6004.
    """
    private, public = folder / f"{signer.identity.role}.key", folder / f"{signer.identity.role}.pub.json"
    for path in (private, public):
        if path.exists():
            raise InputError(
                "RSD-6004",
                f"{path} exists already",
                rule="a key is never overwritten",
                next="choose another folder, or move the old key away if it is to be replaced",
            )
    pem = signer.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_durably(private, pem, private=True)
    try:
        write_durably(public, canonical(signer.identity.as_json()) + b"\n")
    except EnvironmentFault:
        private.unlink(missing_ok=True)  # a private key without its public record is of no use to anybody
        raise
    return private, public


def load_public(path: Path) -> PublicIdentity:
    """Read a `.pub.json`. Raises InputError: RSD-6005 for a private key, of which nothing is shown."""
    data = read_bytes(path, "public key").rstrip(b"\n")
    if b"PRIVATE KEY-----" in data:
        raise InputError(
            "RSD-6005",
            f"{path} is the private key; a public key file is asked for here",
            rule="a private key stays with its holder",
            found="a private key",
            limit="the .pub.json that was made with it",
            next=f"give {quoted(path.with_suffix('.pub.json'))}",
        )
    return load_model(PublicIdentity, parse_canonical(data, str(path)), "RSD-6003", str(path))


def load_signer(path: Path) -> Signer:
    """Read `<role>.key` and the `.pub.json` beside it, to sign.

    Raises InputError RSD-6022 when others may read the key, and as `read_signer`.
    """
    signer = read_signer(path)
    must_be_private(path)
    return signer


def read_signer(path: Path) -> Signer:
    """As `load_signer`, whoever else may read the key: for a doctor, who tells that apart.

    Raises InputError RSD-6005 when the files do not belong together.
    """
    pem = read_bytes(path, "private key")
    try:
        private = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise InputError("RSD-6005", f"{path} is not an unencrypted PEM private key", next="give the .key file") from e
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError("RSD-6005", f"{path} is not an Ed25519 key", found=type(private).__name__, limit="Ed25519")
    identity = load_public(path.with_suffix(".pub.json"))
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if b64encode(raw) != identity.public:
        raise InputError(
            "RSD-6005",
            f"{path} does not belong to {path.with_suffix('.pub.json')}",
            found=sha256_hex(raw)[:12],
            limit=identity.keyid[:12],
            next="restore the pair that was made together",
        )
    return Signer(private, identity)


class _Signature(Frozen):
    keyid: str
    sig: str


class _RawEnvelope(Frozen):
    payload_type: str = Field(alias="payloadType")
    payload: str
    signatures: tuple[_Signature, ...]


@dataclass(frozen=True)
class Envelope:
    """A parsed DSSE envelope; nothing about it is verified yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the payload, 64 hex digits: the name of the statement, whoever signed it."""
        return sha256_hex(self.payload)

    def encode(self) -> bytes:
        """The one canonical encoding; signatures ordered by key id."""
        return canonical(
            {
                "payloadType": self.payload_type,
                "payload": b64encode(self.payload),
                "signatures": [{"keyid": k, "sig": b64encode(s)} for k, s in sorted(self.signatures)],
            }
        )

    def valid_keyids(self, keys: dict[str, Ed25519PublicKey]) -> set[str]:
        """Key ids among `keys` whose signature verifies. Raises CheckFailed RSD-6006 for a signature that does not."""
        good = set()
        for keyid, sig in self.signatures:
            if keyid not in keys:
                continue
            try:
                keys[keyid].verify(sig, pae(self.payload_type, self.payload))
            except InvalidSignature as e:
                raise CheckFailed(
                    "RSD-6006",
                    f"the signature of key {keyid[:12]} on this {self.payload_type} is wrong",
                    rule="DSSE v1",
                    found="bad signature",
                    limit="a valid Ed25519 signature",
                    next="obtain the file again; if it stays so, somebody changed it",
                ) from e
            good.add(keyid)
        return good


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over: the pre-authentication encoding of protocol.md v1.0.2."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def media_type(schema: str) -> str:
    """DSSE payload type of a schema such as `residency.study/1`."""
    return f"application/vnd.{schema.replace('/', '.v')}+json"


def seal(statement: Json, *signers: Signer) -> Envelope:
    """Sign `statement` (its `schema` names the payload type) with each signer."""
    envelope = Envelope(media_type(statement["schema"]), canonical(statement), ())
    for signer in signers:
        envelope = countersign(envelope, signer)
    return envelope


def countersign(envelope: Envelope, signer: Signer) -> Envelope:
    """The same statement with one more signature; signing twice with one key changes nothing."""
    sig = signer.private.sign(pae(envelope.payload_type, envelope.payload))
    kept = {k: s for k, s in envelope.signatures if k != signer.identity.keyid}
    kept[signer.identity.keyid] = sig
    return Envelope(envelope.payload_type, envelope.payload, tuple(sorted(kept.items())))


def parse_envelope(data: bytes, what: str) -> Envelope:
    """Parse the canonical form, strictly. Raises InputError naming `what`."""
    raw = load_model(_RawEnvelope, parse_canonical(data.removesuffix(b"\n"), what), "RSD-2002", what)
    signatures = tuple((s.keyid, b64decode(s.sig, f"signature in {what}")) for s in raw.signatures)
    if list(signatures) != sorted(set(signatures)) or len({k for k, _ in signatures}) != len(signatures):
        raise InputError("RSD-2002", f"{what}: signatures are not ordered by key id, or one stands twice")
    payload = b64decode(raw.payload, f"payload of {what}")
    parse_canonical(payload, f"payload of {what}")
    return Envelope(raw.payload_type, payload, signatures)
