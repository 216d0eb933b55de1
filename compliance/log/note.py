"""Signed notes: a text with signature lines, in the form of c2sp.org/signed-note.

<text, ends with a newline>
<blank line>
— <key name> <base64 of key id (4 bytes) and signature>
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.canonical import b64decode, b64encode
from compliance.errors import CheckFailed, InputError

TYPE_ED25519 = 0x01
TYPE_COSIGNATURE = 0x04
KEY_ID_SIZE = 4  # bytes
MAX_SIGNATURES = 100
MAX_NOTE_SIZE = 65536  # bytes
_LINE_START = "\u2014 "
_RULE = "c2sp.org/signed-note"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its id (4 bytes) and what it signed with; parsed, not verified."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_LINE_START}{self.name} {b64encode(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. `text` ends with a newline and must not be believed before a signature is verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> str:
        """The note as one text."""
        return self.text + "\n" + "".join(s.line() for s in self.signatures)

    def signature(self, name: str, key_id: bytes) -> Signature | None:
        """The signature by this key, None if there is none."""
        return next((s for s in self.signatures if (s.name, s.key_id) == (name, key_id)), None)


def key_id(name: str, signature_type: int, public_key: Ed25519PublicKey) -> bytes:
    """SHA-256(name || 0x0A || type || public key)[:4]; a hint to find the key, no proof of it."""
    material = check_name(name).encode() + b"\n" + bytes([signature_type]) + public_key.public_bytes_raw()
    return hashlib.sha256(material).digest()[:KEY_ID_SIZE]


def check_name(name: str) -> str:
    """`name`, if it may name a key: not empty, no Unicode space, no plus, no control character. Else RSD-5003."""
    if not name or any(c.isspace() or c == "+" or not c.isprintable() for c in name):
        raise InputError(
            "RSD-5003",
            f"{name!r} cannot name a key",
            rule=_RULE,
            found=repr(name),
            limit="printable characters without spaces and without +",
            next="use a name such as st-anna.example/log",
        )
    return name


def sign(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The note of `text` (ends with a newline) with one Ed25519 signature under `name`."""
    _check_text(text)
    signature = Signature(name, key_id(name, TYPE_ED25519, key.public_key()), key.sign(text.encode()))
    return Note(text, (signature,)).encode()


def with_signature(note: Note, signature: Signature) -> Note:
    """`note` with one more signature; a signature by the same key is replaced."""
    others = tuple(s for s in note.signatures if (s.name, s.key_id) != (signature.name, signature.key_id))
    return Note(note.text, (*others, signature))


def parse(encoded: str) -> Note:
    """Parse a signed note, strictly. Raises InputError RSD-5001; nothing is verified yet.

    At most 65536 bytes and 100 signature lines; a key signs at most once.
    """
    _check_characters(encoded)
    text, blank, lines = encoded.rpartition("\n\n")
    if not blank or not encoded.endswith("\n") or not lines:
        raise _malformed("there is no blank line between text and signatures, or no newline at the end")
    signatures = tuple(parse_line(line + "\n") for line in lines[:-1].split("\n"))
    if len(signatures) > MAX_SIGNATURES:
        raise _malformed("there are too many signatures", len(signatures), MAX_SIGNATURES)
    if len({(s.name, s.key_id) for s in signatures}) != len(signatures):
        raise _malformed("one key signs twice")
    return Note(text + "\n", signatures)


def parse_line(line: str) -> Signature:
    """Parse one signature line with its newline. Raises InputError RSD-5001."""
    parts = line.removesuffix("\n").split(" ")
    if not line.endswith("\n") or "\n" in line[:-1] or len(parts) != 3 or parts[0] + " " != _LINE_START:
        raise _malformed("a signature line has another form", repr(line[:80]), "em dash, name, base64")
    blob = b64decode(parts[2], f"the signature of {parts[1]!r}")
    if len(blob) <= KEY_ID_SIZE:
        raise _malformed("a signature is too short", len(blob), KEY_ID_SIZE + 1)
    return Signature(check_name(parts[1]), blob[:KEY_ID_SIZE], blob[KEY_ID_SIZE:])


def verify(note: Note, name: str, public_key: Ed25519PublicKey) -> Signature:
    """Require a good Ed25519 signature (type 0x01) by this key and return it. Raises CheckFailed RSD-5002."""
    wanted = key_id(name, TYPE_ED25519, public_key)
    signature = note.signature(name, wanted)
    if signature is None:
        held = ", ".join(f"{s.name} ({s.key_id.hex()})" for s in note.signatures[:8])
        raise bad_signature(f"{name} has not signed this note", held, f"{name} ({wanted.hex()})")
    try:
        public_key.verify(signature.value, note.text.encode())
    except InvalidSignature as e:
        raise bad_signature(
            f"the signature of {name} does not verify", "another text or key", f"{name} ({wanted.hex()})"
        ) from e
    return signature


def bad_signature(message: str, found: str, limit: str) -> CheckFailed:
    """CheckFailed RSD-5002."""
    return CheckFailed(
        "RSD-5002",
        message,
        rule=_RULE,
        found=found,
        limit=limit,
        next="compare the key with the one in your trust.json; obtain the note again from its source",
    )


def _check_characters(encoded: str) -> None:
    try:
        size = len(encoded.encode())
    except UnicodeEncodeError as e:
        raise _malformed("it is not valid UTF-8") from e
    if size > MAX_NOTE_SIZE:
        raise _malformed("it is too long", f"{size} bytes", f"{MAX_NOTE_SIZE} bytes")
    if any(c < " " and c != "\n" for c in encoded):
        raise _malformed("it holds a control character")


def _check_text(text: str) -> None:
    _check_characters(text)
    if not text.endswith("\n"):
        raise _malformed("its text does not end with a newline")


def _malformed(why: str, found: object = "", limit: object = "") -> InputError:
    return InputError(
        "RSD-5001",
        f"the signed note is malformed: {why}",
        rule=_RULE,
        found=found,
        limit=limit,
        next="obtain the note again, byte for byte",
    )
