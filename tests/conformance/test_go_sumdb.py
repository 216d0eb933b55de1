"""Trees, proofs, checkpoints and tiles against golang.org/x/mod/sumdb, both ways round; changed ones fail at both."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.errors import ResidencyError
from compliance.log import checkpoint, merkle, note, tiles
from compliance.log.checkpoint import Checkpoint
from compliance.log.view import LogView
from compliance.release.bundle_folder import read_folder, write_folder
from tests.conformance.oracle import Oracle, signer_key, verifier_key

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "residency/nordic/anna"
MOST = 300
RECORDS = [random.Random(i).randbytes(i % 61) for i in range(MOST)]  # noqa: S311 - records, no secrets
LEAVES = [merkle.leaf_hash(r) for r in RECORDS]
SUBTREES = merkle.subtrees_of(LEAVES)

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def roots(oracle: Oracle) -> list[bytes]:
    """The roots of all prefixes of RECORDS, by Go, which keeps the tree."""
    return oracle.hashes("grow", records=RECORDS)


def refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except ResidencyError:
        return True
    return False


def flipped(data: bytes, bit: int) -> bytes:
    at = bit // 8 % len(data)
    return bytes(b ^ (1 << bit % 8) if i == at else b for i, b in enumerate(data))


def test_the_same_roots(roots: list[bytes]) -> None:
    assert roots[1:] == [merkle.root_from(SUBTREES, n) for n in range(1, MOST + 1)]
    assert merkle.prefix_roots(LEAVES, range(1, MOST + 1)) == dict(enumerate(roots[1:], start=1))


@shared
@given(size=st.integers(1, MOST), where=st.integers(0, MOST), which=st.integers(0, 20), bit=st.integers(0, 255))
def test_the_same_inclusion_proofs(
    oracle: Oracle, roots: list[bytes], size: int, where: int, which: int, bit: int
) -> None:
    index, root = where % size, roots[size]
    proof = list(merkle.inclusion_proof(SUBTREES, index, size))
    assert oracle.hashes("prove record", size=size, index=index) == proof
    i = which % (len(proof) + 1)
    cases = [
        (proof, root, index, LEAVES[index]),
        ([*proof[:i], *(flipped(h, bit) for h in proof[i : i + 1]), *proof[i + 1 :]], root, index, LEAVES[index]),
        ([*proof[:i], LEAVES[0], *proof[i:]], root, index, LEAVES[index]),
        (proof[:i] + proof[i + 1 :], root, index, LEAVES[index]),
        (proof, flipped(root, bit), index, LEAVES[index]),
        (proof, root, index, flipped(LEAVES[index], bit)),
        (proof, root, (index + which) % size, LEAVES[index]),
        (proof, root, size, LEAVES[index]),
    ]
    cases += [  # an inner node with the rest of its path is no entry
        (proof[level:], root, index, SUBTREES(level, index >> level))
        for level in range(1, (size - 1).bit_length() + 1)
        if (index >> level) + 1 << level <= size
    ]
    for hashes, at_root, at, leaf in cases:
        here = not refused(lambda: merkle.verify_inclusion(leaf, at, size, hashes, at_root))  # noqa: B023 - called now
        there = oracle.accepts("check record", proof=hashes, size=size, root=at_root, index=at, leaf=leaf)
        assert here == there == ((hashes, at_root, at, leaf) == cases[0])


@shared
@given(size=st.integers(1, MOST), part=st.integers(0, MOST), which=st.integers(0, 20), bit=st.integers(0, 255))
def test_the_same_consistency_proofs(
    oracle: Oracle, roots: list[bytes], size: int, part: int, which: int, bit: int
) -> None:
    old = 1 + part % size  # a tree of nothing is no tree to Go
    proof = list(merkle.consistency_proof(SUBTREES, old, size))
    assert oracle.hashes("prove tree", size=size, old=old) == proof
    i = which % (len(proof) + 1)
    cases = [
        (proof, old, roots[old], roots[size]),
        ([*proof[:i], *(flipped(h, bit) for h in proof[i : i + 1]), *proof[i + 1 :]], old, roots[old], roots[size]),
        ([*proof[:i], LEAVES[0], *proof[i:]], old, roots[old], roots[size]),
        (proof[:i] + proof[i + 1 :], old, roots[old], roots[size]),
        (proof, old, flipped(roots[old], bit), roots[size]),
        (proof, old, roots[old], flipped(roots[size], bit)),
        (proof, 1 + (old + which) % size, roots[old], roots[size]),
        (proof, size + 1, roots[old], roots[size]),
    ]
    for hashes, at, old_root, root in cases:
        here = not refused(lambda: merkle.verify_consistency(at, size, old_root, root, hashes))  # noqa: B023
        there = oracle.accepts("check tree", proof=hashes, size=size, root=root, old=at, oldRoot=old_root)
        assert here == there == ((hashes, at, old_root, root) == cases[0])


def test_checkpoints_open_there_and_notes_made_there_verify_here(oracle: Oracle) -> None:
    public = verifier_key(ORIGIN, KEY.public_key())
    text = Checkpoint(ORIGIN, MOST, merkle.root(LEAVES)).text()
    ours = checkpoint.sign(checkpoint.parse_text(text), KEY)
    assert oracle.text("open", text=ours, key=public) == text
    assert oracle.text("sign", text=text, key=signer_key(ORIGIN, KEY)) == ours
    cosigned = ours + "— witness.example/w AAECAwQFBgc=\n"  # by a key that nobody here knows: ignored
    assert oracle.text("open", text=cosigned, key=public) == text
    assert checkpoint.open_signed(cosigned, KEY.public_key(), ORIGIN).checkpoint.text() == text


@pytest.mark.parametrize("by", [1, 0x20])
def test_no_changed_checkpoint_opens_here_or_there(oracle: Oracle, by: int) -> None:
    public = verifier_key(ORIGIN, KEY.public_key())
    signed = checkpoint.sign(Checkpoint(ORIGIN, MOST, merkle.root(LEAVES)), KEY)
    bytes_of = signed.encode()
    loose = 0
    for i in range(len(bytes_of)):
        changed = bytes_of[:i] + bytes([bytes_of[i] ^ by]) + bytes_of[i + 1 :]
        text = changed.decode(errors="replace")
        assert refused(lambda: checkpoint.open_signed(text, KEY.public_key(), ORIGIN)), i  # noqa: B023 - called now
        if oracle.accepts("open", text=text, key=public):
            loose += 1  # unused bits at the end of base64, which Go does not look at
            assert decoded(text) == decoded(signed)
    assert loose <= 1


def decoded(signed: str) -> bytes:
    return base64.b64decode(signed.rsplit(" ", 1)[1])


def view(size: int, *, seed: int = 0) -> LogView:
    """A log of random leaf hashes with a signed checkpoint; nobody knows its entries."""
    drawn = random.Random(seed).randbytes(size * 32)  # noqa: S311 - hashes, no secrets
    leaves = [drawn[i : i + 32] for i in range(0, len(drawn), 32)]
    signed = checkpoint.sign(Checkpoint(ORIGIN, size, merkle.root(leaves)), KEY)
    return LogView(ORIGIN, leaves, (signed,), {}, whole=False)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 70_000])
def test_tiles_are_read_there(oracle: Oracle, tmp_path: Path, size: int) -> None:
    log, public = view(size), verifier_key(ORIGIN, KEY.public_key())
    write_folder(tmp_path / "tiles", tiles.files_of(log, entries=False), check=tiles.read_files)
    assert oracle.hashes("tiles", folder=str(tmp_path / "tiles"), key=public) == log.leaf_hashes
    last = [tile.path for tile in tiles.hash_tiles(size) if tile.width < tiles.WIDTH]
    for path in {*last, "tile/0/000", "tile/0/077", "tile/1/000"} & {t.path for t in tiles.hash_tiles(size)}:
        file = tmp_path / "tiles" / path
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, size))
        assert not oracle.accepts("tiles", folder=str(tmp_path / "tiles"), key=public), path
        assert refused(lambda: tiles.read_files(read_folder(tmp_path / "tiles"))), path
        file.write_bytes(whole)


@pytest.mark.parametrize("size", [1, 255, 256, MOST])
def test_tiles_made_there_are_read_here(oracle: Oracle, roots: list[bytes], tmp_path: Path, size: int) -> None:
    assert oracle.accepts("write tiles", folder=str(tmp_path), size=size)
    (tmp_path / "checkpoint").write_text(checkpoint.sign(Checkpoint(ORIGIN, size, roots[size]), KEY), encoding="utf-8")
    assert tiles.read_files(read_folder(tmp_path)).leaf_hashes == LEAVES[:size]
    assert note.parse((tmp_path / "checkpoint").read_text(encoding="utf-8")).text.split("\n")[1] == str(size)
