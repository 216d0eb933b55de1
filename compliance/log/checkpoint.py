"""Checkpoints: origin, size and root of a log, signed by the log (c2sp.org/tlog-checkpoint).

The log's key name is its origin. Extension lines are refused: nobody could audit them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.canonical import b64decode, b64encode
from compliance.errors import CheckFailed, InputError
from compliance.log import note
from compliance.log.merkle import EMPTY_ROOT, HASH_SIZE

MAX_SIZE = (1 << 53) - 1  # entries; what canonical JSON can carry as an index
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_RULE = "c2sp.org/tlog-checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log looks like at `size` entries; `root` is 32 bytes."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text: three lines."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root)}\n"


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint, the log's verified signature of it, and the note that it stands in."""

    checkpoint: Checkpoint
    signature: note.Signature
    note: note.Note


def parse_text(text: str) -> Checkpoint:
    """Parse a checkpoint's note text, strictly. Raises InputError RSD-5004 and RSD-5003 (origin)."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise _malformed("it has not three lines", len(lines) - 1, 3)
    origin, size, encoded = lines[:3]
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise _malformed("its size is no plain number", repr(size[:24]), f"0 to {MAX_SIZE}")
    root = b64decode(encoded, "the root of a checkpoint")
    if len(root) != HASH_SIZE:
        raise _malformed("its root has the wrong length", f"{len(root)} bytes", f"{HASH_SIZE} bytes")
    if size == "0" and root != EMPTY_ROOT:
        raise _malformed("an empty log has another root", root.hex(), EMPTY_ROOT.hex())
    return Checkpoint(note.check_name(origin), int(size), root)


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The signed note of `checkpoint`. Ed25519 is deterministic: the same checkpoint gives the same text."""
    return note.sign(checkpoint.text(), checkpoint.origin, key)


def open_signed(encoded: str, public_key: Ed25519PublicKey, origin: str | None = None) -> SignedCheckpoint:
    """Parse a checkpoint note and verify the log's signature; cosignatures are left to `cosign.cosigners`.

    `origin`, if given, must be the checkpoint's. Raises InputError RSD-5001, -5003, -5004 and CheckFailed RSD-5002,
    RSD-5005 (another log).
    """
    parsed = note.parse(encoded)
    checkpoint = parse_text(parsed.text)
    if origin is not None and checkpoint.origin != origin:
        raise CheckFailed(
            "RSD-5005",
            f"this checkpoint is of another log than {origin}",
            rule=_RULE,
            found=checkpoint.origin,
            limit=origin,
            next="send the checkpoint of the log that was asked for",
        )
    signature = note.verify(parsed, checkpoint.origin, public_key)
    return SignedCheckpoint(checkpoint, signature, parsed)


def _malformed(why: str, found: object, limit: object) -> InputError:
    return InputError(
        "RSD-5004",
        f"the checkpoint is malformed: {why}",
        rule=_RULE,
        found=found,
        limit=limit,
        next="obtain the checkpoint again, byte for byte",
    )
