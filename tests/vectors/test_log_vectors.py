"""Published vectors: the Certificate Transparency tree, signed notes, a cosignature made by another implementation."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.errors import CheckFailed
from compliance.log import checkpoint, cosign, merkle, note, tiles

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


def test_a_signature_by_an_unknown_key_is_carried_and_ignored() -> None:
    vector = VECTORS["two_signers"]
    name, _, _, key = vkey(vector["vkey"])
    both = VECTORS["notes"][1]["note"] + vector["line"]
    parsed = note.parse(both)
    assert [s.name for s in parsed.signatures] == [name, vector["unknown"]]
    assert note.verify(parsed, name, key) == parsed.signatures[0]
    assert parsed.encode() == both
    assert cosign.cosigners(parsed, {name: key}) == {}  # nor does a signature count as a cosignature
    with pytest.raises(CheckFailed, match="has not signed"):
        note.verify(note.Note(parsed.text, parsed.signatures[1:]), name, key)


def test_an_unknown_line_is_no_part_of_what_is_signed() -> None:
    vector = VECTORS["cosignature"]
    name, _, _, key = vkey(vector["vkey"])
    published = base64.b64decode(vector["note_b64"]).decode()
    more = note.parse(published + VECTORS["two_signers"]["line"])
    assert cosign.cosigners(more, {name: key}) == cosign.cosigners(note.parse(published), {name: key})


def test_a_cosignature_is_of_its_key_id_its_time_and_its_length() -> None:
    """Each of these is published bytes with one change, and counts no more."""
    vector = VECTORS["cosignature"]
    name, _, _, key = vkey(vector["vkey"])
    parsed = note.parse(base64.b64decode(vector["note_b64"]).decode())
    (line,) = parsed.signatures
    later = line.value[:7] + bytes([line.value[7] ^ 1]) + line.value[8:]
    for changed in (
        note.Signature(line.name, line.key_id, later),
        note.Signature(line.name, line.key_id, line.value[8:]),
        note.Signature(line.name, line.key_id, line.value + b"\0"),
        note.Signature(line.name, note.key_id(name, note.TYPE_ED25519, key), line.value),
        note.Signature("other.example", line.key_id, line.value),
    ):
        with pytest.raises(CheckFailed, match="RSD-5002"):
            cosign.verify(parsed.text, changed, key)


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


def test_the_tile_names_of_the_specification() -> None:
    """c2sp.org/tlog-tiles: index 1234067, and all tiles of a tree of 70,000."""
    assert tiles.Tile(0, 1234067).path == "tile/0/x001/x234/067"
    names = [t.path for t in tiles.hash_tiles(70_000)]
    assert len(names) == 273 + 1 + 1 + 1 + 1
    assert {"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(names)


def test_the_checkpoint_of_the_specification_parses() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    parsed = checkpoint.parse_text(text)
    assert (parsed.origin, parsed.size) == ("example.com/behind-the-sofa", 20852163)
    assert parsed.text() == text
