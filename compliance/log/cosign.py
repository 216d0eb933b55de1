"""Cosignatures: a witness states when it saw which checkpoint (c2sp.org/tlog-cosignature, "cosignature/v1", Ed25519).

The signed message does not hold the witness's name, so one key must belong to one witness: `check_witness_keys`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.errors import CheckFailed, InputError
from compliance.log.note import TYPE_COSIGNATURE, Note, Signature, bad_signature, key_id

_PAYLOAD = struct.Struct(">Q64s")  # POSIX seconds, Ed25519 signature: 72 bytes
_NO_TIME = 253_402_300_800  # the year 10000: the first second that no date here has


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """One key of a witness, and from when on and until when it may cosign: POSIX seconds, `end` is too late."""

    key: Ed25519PublicKey
    start: int = 0
    end: int = _NO_TIME


WitnessKeys = Mapping[str, Ed25519PublicKey | tuple[WitnessKey, ...]]
"""The known witnesses: key name -> its keys; a bare key may cosign at any time."""


def cosign(text: str, name: str, key: Ed25519PrivateKey, at: int) -> Signature:
    """The cosignature of `name` over the checkpoint text `text` at POSIX second `at`."""
    value = _PAYLOAD.pack(at, key.sign(_message(text, at)))
    return Signature(name, key_id(name, TYPE_COSIGNATURE, key.public_key()), value)


def verify(text: str, signature: Signature, public_key: Ed25519PublicKey) -> int:
    """The POSIX second at which the witness cosigned `text`. Raises CheckFailed RSD-5002 for any other signature."""
    name = signature.name
    wanted = key_id(name, TYPE_COSIGNATURE, public_key)
    at, value = _PAYLOAD.unpack(signature.value) if len(signature.value) == _PAYLOAD.size else (_NO_TIME, b"")
    if signature.key_id != wanted or at >= _NO_TIME:
        found = f"key {signature.key_id.hex()}, {len(signature.value)} bytes"
        raise bad_signature(f"this is no cosignature of {name}", found, f"key {wanted.hex()}, {_PAYLOAD.size} bytes")
    try:
        public_key.verify(value, _message(text, at))
    except InvalidSignature as e:
        limit = f"{name} ({wanted.hex()})"
        raise bad_signature(f"the cosignature of {name} does not verify", "another text or key", limit) from e
    return int(at)


def stated_time(signature: Signature) -> int:
    """The POSIX second in a cosignature, unverified; for what was verified before. Raises CheckFailed RSD-5002."""
    if len(signature.value) != _PAYLOAD.size:
        found = f"{len(signature.value)} bytes"
        raise bad_signature(f"this is no cosignature of {signature.name}", found, f"{_PAYLOAD.size} bytes")
    return int(_PAYLOAD.unpack(signature.value)[0])


def key_of(signature: Signature, keys: WitnessKeys) -> WitnessKey | None:
    """The known key that this line names, by its id; None if it names none."""
    ids = ((known, key_id(signature.name, TYPE_COSIGNATURE, known.key)) for known in _held(keys, signature.name))
    return next((known for known, found in ids if found == signature.key_id), None)


def unknown(signature: Signature, keys: WitnessKeys) -> CheckFailed:
    """RSD-5002 for a line that names no known key."""
    found, known = f"{signature.name} ({signature.key_id.hex()})", ", ".join(sorted(keys))
    return bad_signature(f"{signature.name} is no known witness, or this is not its key", found, known)


def counted(note: Note, keys: WitnessKeys) -> dict[Signature, int]:
    """The lines by known keys that could cosign at the time in the line, each with its POSIX second.

    Lines of unknown keys are ignored, as the note format demands; a bad line of a known key raises CheckFailed
    RSD-5002.
    """
    seen: dict[Signature, int] = {}
    for signature in note.signatures:
        known = key_of(signature, keys)
        if known is not None and known.start <= (at := verify(note.text, signature, known.key)) < known.end:
            seen[signature] = at
    return seen


def cosigners(note: Note, keys: WitnessKeys) -> dict[str, int]:
    """The known witnesses that cosigned this note, each with the POSIX second of its last line; else as `counted`."""
    seen: dict[str, int] = {}
    for signature, at in counted(note, keys).items():
        seen[signature.name] = max(at, seen.get(signature.name, 0))
    return seen


def check_witness_keys(keys: WitnessKeys, log_key: Ed25519PublicKey) -> None:
    """Require that no key belongs to two witnesses, and none is the log's own. Raises InputError RSD-5055."""
    owners: dict[bytes, str] = {log_key.public_bytes_raw(): "the log itself"}
    for name, known in ((n, known) for n in keys for known in _held(keys, n)):
        raw = known.key.public_bytes_raw()
        if raw in owners:
            raise InputError(
                "RSD-5055",
                f"{name} and {owners[raw]} have the same key",
                rule="a witness is somebody else, with its own key",
                found=raw.hex()[:16],
                limit="another key for each",
                next="give each witness a key of its own in trust.json",
            )
        owners[raw] = name


def _held(keys: WitnessKeys, name: str) -> tuple[WitnessKey, ...]:
    held = keys.get(name, ())
    return held if isinstance(held, tuple) else (WitnessKey(held),)


def _message(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()
