"""Published vectors: the Certificate Transparency tree, signed notes, a cosignature made by another implementation."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.errors import CheckFailed
from compliance.log import checkpoint, cosign, merkle, note

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "log_vectors.json").read_text(encoding="utf-8"))


def vkey(text: str) -> tuple[str, str, int, Ed25519PublicKey]:
    name, key_id, material = text.split("+", 2)
    raw = base64.b64decode(material)
    return name, key_id, raw[0], Ed25519PublicKey.from_public_bytes(raw[1:])


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_reference_tree(size: int) -> None:
    leaves = [merkle.leaf_hash(bytes.fromhex(h)) for h in VECTORS["leaves_hex"]][:size]
    expected = VECTORS["roots_hex"][size]
    assert merkle.root(leaves).hex() == expected
    assert merkle.root_from(merkle.subtrees_of(leaves), size).hex() == expected


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda v: v["vkey"][:12])
def test_published_notes_verify(vector: dict[str, str]) -> None:
    name, key_id, kind, key = vkey(vector["vkey"])
    assert note.key_id(name, kind, key).hex() == key_id
    parsed = note.parse(vector["note"])
    note.verify(parsed, name, key)
    assert parsed.encode() == vector["note"]
    with pytest.raises(CheckFailed, match="does not verify"):
        note.verify(note.Note(parsed.text.replace("i", "j", 1), parsed.signatures), name, key)


def test_signing_gives_the_published_bytes() -> None:
    vector = VECTORS["notes"][1]
    name = vkey(vector["vkey"])[0]
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(vector["seed_b64"])[1:])
    assert note.sign(note.parse(vector["note"]).text, name, key) == vector["note"]


def test_a_cosignature_of_another_implementation_verifies() -> None:
    vector = VECTORS["cosignature"]
    name, key_id, kind, key = vkey(vector["vkey"])
    assert (kind, note.key_id(name, kind, key).hex()) == (note.TYPE_COSIGNATURE, key_id)
    parsed = note.parse(base64.b64decode(vector["note_b64"]).decode())
    assert checkpoint.parse_text(parsed.text).size == 42
    (at,) = cosign.cosigners(parsed, {name: key}).values()
    assert 1_600_000_000 < at < 2_000_000_000
    with pytest.raises(CheckFailed, match="does not verify"):
        cosign.verify(parsed.text.replace("42", "43"), parsed.signatures[0], key)


def test_the_checkpoint_of_the_specification_parses() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    parsed = checkpoint.parse_text(text)
    assert (parsed.origin, parsed.size) == ("example.com/behind-the-sofa", 20852163)
    assert parsed.text() == text
