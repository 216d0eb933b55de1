"""model/model.sig: the OpenSSF model-signing form, so that other people's tools check a model's folder.

A Sigstore bundle v0.3 with a DSSE envelope, whose in-toto statement lists every file of the folder but itself by
SHA-256. That form wants an elliptic curve: the P-256 key is derived from the operator's Ed25519 key, so that no second
secret has to be kept, and signs with a deterministic nonce (RFC 6979). Its public half lies beside the folder; the
manifest, under the operator's own key, vouches for it, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import Field

from compliance.canonical import Json, b64decode, b64encode, canonical, parse_canonical, sha256_hex
from compliance.errors import CheckFailed, EnvironmentFault, ResidencyError
from compliance.identity import Signer, pae
from compliance.training_spec import Frozen
from compliance.validation import load_model

SIGNATURE_FILE: Final = "model/model.sig"
KEY_FILE: Final = "attestations/model-signing.pem"
_FOLDER: Final = "model/"
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-5
_INFO: Final = b"residency model signing P-256 v1"
_ECDSA_BYTES: Final = 48  # 128 bits beyond the order, so that the reduction favours no key


class _Key(Frozen):
    hint: str


class _Material(Frozen):
    public_key: _Key = Field(alias="publicKey")
    tlog: tuple[()] = Field(alias="tlogEntries")


class _Signature(Frozen):
    keyid: Literal[""]
    sig: str


class _Envelope(Frozen):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=1)


class _Bundle(Frozen):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


def signed_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of model/ by their names in the folder, sorted, but for the signature itself."""
    held = {p.removeprefix(_FOLDER): files[p] for p in sorted(files) if p.startswith(_FOLDER)}
    return {name: data for name, data in held.items() if _FOLDER + name != SIGNATURE_FILE}


def sign_model(files: Mapping[str, bytes], operator: Signer) -> dict[str, bytes]:
    """Path -> bytes of the signature over model/ in `files` and of the public key that checks it.

    Raises EnvironmentFault RSD-9143 where the installed OpenSSL cannot sign deterministically.
    """
    key, payload = _model_key(operator), _payload(files)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        signature = key.sign(pae(_PAYLOAD_TYPE, payload), ec.ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm as e:
        raise EnvironmentFault(
            "RSD-9143", "this machine's OpenSSL cannot sign with a deterministic nonce", rule="RFC 6979",
            found=e, limit="OpenSSL 3.2", next="install the cryptography wheel that constraints.txt names",
        ) from e  # fmt: skip
    return {SIGNATURE_FILE: canonical(_form(pem, payload, signature)) + b"\n", KEY_FILE: pem}


def check_model(files: Mapping[str, bytes]) -> str:
    """Require that model/model.sig is this folder's, by the key beside it; the key's digest, 64 hex digits.

    Whose key that is, the manifest says. Raises CheckFailed RSD-9017, InputError.
    """
    pem, data = files[KEY_FILE], files[SIGNATURE_FILE].removesuffix(b"\n")
    bundle = load_model(_Bundle, parse_canonical(data, SIGNATURE_FILE), "RSD-9041", SIGNATURE_FILE)
    if bundle.material.public_key.hint != sha256_hex(pem):
        raise _false("it names another key", bundle.material.public_key.hint, sha256_hex(pem))
    payload, wanted = b64decode(bundle.envelope.payload, SIGNATURE_FILE), _payload(files)
    if payload != wanted:
        raise _false("it is of other files than those of model/", sha256_hex(payload), sha256_hex(wanted))
    signature = b64decode(bundle.envelope.signatures[0].sig, SIGNATURE_FILE)
    try:
        _public(pem).verify(signature, pae(_PAYLOAD_TYPE, payload), ec.ECDSA(SHA256()))
    except InvalidSignature as e:
        raise _false("its signature is wrong", "bad signature", f"a signature by key {sha256_hex(pem)[:16]}") from e
    return sha256_hex(pem)


def _model_key(operator: Signer) -> ec.EllipticCurvePrivateKey:
    """HKDF-SHA256 (RFC 5869) of the Ed25519 seed, reduced as in FIPS 186-5 appendix A.2.1."""
    seed = operator.private.private_bytes_raw()
    drawn = HKDF(SHA256(), _ECDSA_BYTES, salt=None, info=_INFO).derive(seed)
    return ec.derive_private_key(int.from_bytes(drawn) % (_ORDER - 1) + 1, ec.SECP256R1())


def _public(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise _false(f"{KEY_FILE} is no public key", "other bytes", "a P-256 key") from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _false(f"{KEY_FILE} is another kind of key", type(key).__name__, "a P-256 key")
    return key


def _payload(files: Mapping[str, bytes]) -> bytes:
    digests = {name: sha256_hex(data) for name, data in signed_files(files).items()}
    whole = sha256_hex(b"".join(bytes.fromhex(d) for d in digests.values()))
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["model.sig"]}
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    return canonical(statement)


def _form(pem: bytes, payload: bytes, signature: bytes) -> dict[str, Json]:
    return {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": sha256_hex(pem)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": b64encode(payload),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"keyid": "", "sig": b64encode(signature)}],
        },
    }


def _false(why: str, found: str, limit: str) -> ResidencyError:
    return CheckFailed("RSD-9017", f"{SIGNATURE_FILE}: {why}", rule="OpenSSF model signing", found=found, limit=limit)
