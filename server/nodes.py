"""Node keys: their one form, and Flower's list of nodes kept in step with the trust file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from compliance.errors import InputError

if TYPE_CHECKING:
    from server.control import Control


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


def reconcile(control: Control, wanted: Iterable[bytes]) -> int:
    """Register the keys (PEM) that Flower does not have; take those back that nobody has any more. How many it has now.

    Flower's list decides who is asked to take part, not who may: that is judged at the door. A key that is only
    suspended stays in it, because Flower never takes a key back that was once removed; and a key that never was online
    stays too, because Flower fails to remove it. Raises what `Control` raises.
    """
    keys = set(wanted)
    nodes = control.nodes()
    for node in nodes:
        if node.online and node.public_key not in keys:
            control.unregister_node(node.node_id)
    for key in sorted(keys - {node.public_key for node in nodes}):
        control.register_node(key)
    return len(keys)
