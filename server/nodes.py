"""The node keys that this server admits, as files: its Flower state is in memory, and is filled from them at start."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from compliance.errors import InputError
from compliance.files import read_bytes, write_durably


def normal_public_key(data: bytes) -> bytes:
    """The one PEM form of an EC P-384 public key given as OpenSSH or PEM. Raises InputError RSD-1122."""
    try:
        load = load_ssh_public_key if data.startswith(b"ecdsa-") else load_pem_public_key
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise _bad_key(type(e).__name__) from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_key(type(key).__name__)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _bad_key(found: str) -> InputError:
    return InputError(
        "RSD-1122",
        "this is no public node key",
        rule="node keys are NIST P-384",
        found=found,
        limit="EC P-384, PEM or OpenSSH",
        next="ask the site for the .pub file of its node key",
    )


def remember_node(folder: Path, public_key: bytes) -> Path:
    """Keep the key in `folder`, so that a restarted server admits it again. Idempotent. Raises RSD-1122, RSD-7001."""
    pem = normal_public_key(public_key)
    path = folder / f"{hashlib.sha256(pem).hexdigest()}.pem"
    write_durably(path, pem)
    return path


def forget_node(folder: Path, public_key: bytes) -> None:
    """Remove the key; a restarted server no longer admits it. Idempotent. Raises InputError RSD-1122."""
    pem = normal_public_key(public_key)
    (folder / f"{hashlib.sha256(pem).hexdigest()}.pem").unlink(missing_ok=True)


def remembered_nodes(folder: Path) -> tuple[bytes, ...]:
    """The kept keys in their PEM form, in a fixed order. Raises InputError RSD-1122, RSD-2005."""
    return tuple(normal_public_key(read_bytes(path, "a node key")) for path in sorted(folder.glob("*.pem")))
