"""Every proof verifies; no other proof, leaf, index, size or root does. The oracle is the recursion of RFC 6962."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.errors import CheckFailed, InputError
from compliance.log import merkle

LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(140)]
SUBTREES = merkle.subtrees_of(LEAVES)
sizes = st.integers(1, len(LEAVES))


def mth(leaves: list[bytes]) -> bytes:
    """Merkle Tree Hash as RFC 6962 section 2.1 writes it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


ROOTS = [mth(LEAVES[:n]) for n in range(len(LEAVES) + 1)]


def refused_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    with pytest.raises(CheckFailed) as e:
        merkle.verify_inclusion(leaf, index, size, proof, root)
    assert e.value.code == "RSD-5010"
    assert e.value.found != e.value.limit == root.hex()


def refused_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> None:
    with pytest.raises(CheckFailed) as e:
        merkle.verify_consistency(old, new, old_root, new_root, proof)
    assert e.value.code == "RSD-5011"
    assert old_root.hex() in e.value.limit
    assert new_root.hex() in e.value.limit


def flip(value: bytes, bit: int) -> bytes:
    return bytes(b ^ (1 << bit % 8) if i == bit // 8 else b for i, b in enumerate(value))


def mutations(proof: list[bytes], which: int, bit: int) -> list[list[bytes]]:
    """A proof with an extra hash at either end, and, if it has any, one changed, dropped or cut short."""
    extra = [[*proof, LEAVES[0]], [LEAVES[0], *proof]]
    if not proof:
        return extra
    i = which % len(proof)
    return [
        *extra,
        [*proof[:i], flip(proof[i], bit), *proof[i + 1 :]],
        [*proof[:i], *proof[i + 1 :]],
        [*proof[:i], proof[i][:31], *proof[i + 1 :]],
    ]


def test_all_small_trees() -> None:
    for new in range(40):
        assert merkle.root(LEAVES[:new]) == merkle.root_from(SUBTREES, new) == ROOTS[new]
        for old in range(new + 1):
            proof = merkle.consistency_proof(SUBTREES, old, new)
            merkle.verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
        for index in range(new):
            merkle.verify_inclusion(LEAVES[index], index, new, merkle.inclusion_proof(SUBTREES, index, new), ROOTS[new])
    assert merkle.prefix_roots(LEAVES, [0, 3, 140, 999]) == {0: ROOTS[0], 3: ROOTS[3], 140: ROOTS[140]}


@given(size=sizes, where=st.integers(0, 10**6), which=st.integers(0, 20), bit=st.integers(0, 255))
def test_inclusion(size: int, where: int, which: int, bit: int) -> None:
    index, root = where % size, ROOTS[size]
    proof = list(merkle.inclusion_proof(SUBTREES, index, size))
    merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
    for changed in mutations(proof, which, bit):
        refused_inclusion(LEAVES[index], index, size, changed, root)
    refused_inclusion(flip(LEAVES[index], bit), index, size, proof, root)
    refused_inclusion(LEAVES[index], index, size, proof, flip(root, bit))
    for other in {index - 1, index + 1, index ^ 1, size, -1} - {index}:
        refused_inclusion(LEAVES[index], other, size, proof, root)


@given(new=sizes, part=st.integers(0, 10**6), which=st.integers(0, 20), bit=st.integers(0, 255))
def test_consistency(new: int, part: int, which: int, bit: int) -> None:
    old = part % (new + 1)
    proof = list(merkle.consistency_proof(SUBTREES, old, new))
    merkle.verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
    for changed in mutations(proof, which, bit):
        refused_consistency(old, new, ROOTS[old], ROOTS[new], changed)
    refused_consistency(old, new, flip(ROOTS[old], bit), ROOTS[new], proof)
    if old:  # nothing is promised about the tree that follows an empty one
        refused_consistency(old, new, ROOTS[old], flip(ROOTS[new], bit), proof)
    for other in {old - 1, old + 1} - {0}:
        refused_consistency(other, new, ROOTS[old], ROOTS[new], proof)


@given(new=st.integers(2, len(LEAVES)), part=st.integers(0, 10**6), bit=st.integers(0, 255))
def test_a_changed_old_entry_breaks_consistency(new: int, part: int, bit: int) -> None:
    old = 1 + part % (new - 1)
    forged = LEAVES.copy()
    forged[part % old] = flip(forged[part % old], bit)
    proof = list(merkle.consistency_proof(merkle.subtrees_of(forged), old, new))
    refused_consistency(old, new, ROOTS[old], merkle.root(forged[:new]), proof)


def test_a_proof_outside_the_tree_is_refused() -> None:
    for index, size in [(5, 5), (-1, 5), (0, 0)]:
        with pytest.raises(InputError, match="RSD-5012"):
            merkle.inclusion_proof(SUBTREES, index, size)
    for old, new in [(6, 5), (-1, 5)]:
        with pytest.raises(InputError, match="RSD-5012"):
            merkle.consistency_proof(SUBTREES, old, new)


@given(level=st.integers(1, 6), which=st.integers(0, 10**6))
def test_an_inner_node_does_not_pass_for_an_entry(level: int, which: int) -> None:
    """Its path to the root is real, only shorter than an entry's; in a tree of fewer leaves it would do."""
    i = which % (128 >> level)
    proof = list(merkle.inclusion_proof(SUBTREES, i << level, 128))[level:]
    for index in range(i << level, (i + 1) << level):
        refused_inclusion(SUBTREES(level, i), index, 128, proof, ROOTS[128])
