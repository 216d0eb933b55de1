"""The Merkle tree of RFC 6962 / RFC 9162 section 2.1 over SHA-256: roots, proofs and their verification.

Every hash is 32 bytes. A proof is made from complete subtrees, which a `Subtrees` function looks up, so that a list in
memory and a database share the code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compliance.errors import CheckFailed, InputError

HASH_SIZE = 32  # bytes
EMPTY_ROOT = hashlib.sha256(b"").digest()

Subtrees = Callable[[int, int], bytes]
"""(level, i) -> hash of the complete subtree over the leaves [i << level, (i + 1) << level)."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def parents(hashes: Sequence[bytes]) -> list[bytes]:
    """The node hashes of each pair of neighbours; the last of an odd number is left alone."""
    sha256 = hashlib.sha256
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=False)]


@dataclass(frozen=True, slots=True)
class Frontier:
    """The complete subtrees of a tree, largest first: all that is needed to append and to know the root."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """The frontier with one more leaf hash."""
        peaks, node, rest = list(self.peaks), leaf, self.size
        while rest & 1:
            node = node_hash(peaks.pop(), node)
            rest >>= 1
        return Frontier(self.size + 1, (*peaks, node))

    def root(self) -> bytes:
        """The root; `EMPTY_ROOT` for size 0."""
        if not self.peaks:
            return EMPTY_ROOT
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = node_hash(peak, node)
        return node


def root(leaf_hashes: Iterable[bytes]) -> bytes:
    """The root over `leaf_hashes`; `EMPTY_ROOT` for none."""
    frontier = Frontier()
    for leaf in leaf_hashes:
        frontier = frontier.append(leaf)
    return frontier.root()


def prefix_roots(leaf_hashes: Sequence[bytes], sizes: Iterable[int]) -> dict[int, bytes]:
    """The roots of the first `size` leaves for every size asked for that is not beyond the tree, in one pass."""
    wanted = set(sizes)
    roots: dict[int, bytes] = {0: EMPTY_ROOT} if 0 in wanted else {}
    frontier = Frontier()
    for leaf in leaf_hashes:
        frontier = frontier.append(leaf)
        if frontier.size in wanted:
            roots[frontier.size] = frontier.root()
    return roots


def subtrees_of(leaf_hashes: Sequence[bytes]) -> Subtrees:
    """A lookup over leaf hashes in memory; every inner node is hashed at most once."""
    known: dict[tuple[int, int], bytes] = {}

    def lookup(level: int, i: int) -> bytes:
        if level == 0:
            return leaf_hashes[i]
        if (level, i) not in known:
            known[level, i] = node_hash(lookup(level - 1, 2 * i), lookup(level - 1, 2 * i + 1))
        return known[level, i]

    return lookup


def root_from(subtrees: Subtrees, size: int) -> bytes:
    """The root of the first `size` leaves, from about log2(size) lookups."""
    return _range_hash(subtrees, 0, size) if size else EMPTY_ROOT


def inclusion_proof(subtrees: Subtrees, index: int, size: int) -> tuple[bytes, ...]:
    """The proof that leaf `index` is in the tree of `size` leaves (RFC 9162 section 2.1.3.1).

    Raises InputError RSD-5012 unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise _out_of_range(f"entry {index} is not in a tree of {size}", index, f"0 to {size - 1}")
    path: list[bytes] = []
    lo, hi = 0, size
    while hi - lo > 1:
        middle = lo + _split(hi - lo)
        if index < middle:
            path.append(_range_hash(subtrees, middle, hi))
            hi = middle
        else:
            path.append(_range_hash(subtrees, lo, middle))
            lo = middle
    return tuple(reversed(path))


def consistency_proof(subtrees: Subtrees, old: int, new: int) -> tuple[bytes, ...]:
    """The proof that the tree of `old` leaves is a prefix of the tree of `new` (RFC 9162 section 2.1.4.1).

    Empty for old == 0 and for old == new. Raises InputError RSD-5012 unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise _out_of_range(f"a tree of {new} has no prefix of {old}", old, f"0 to {new}")
    if old in {0, new}:
        return ()
    path: list[bytes] = []
    lo, hi, old_is_whole = 0, new, True
    while old != hi:
        middle = lo + _split(hi - lo)
        if old <= middle:
            path.append(_range_hash(subtrees, middle, hi))
            hi = middle
        else:
            path.append(_range_hash(subtrees, lo, middle))
            lo, old_is_whole = middle, False
    if not old_is_whole:
        path.append(_range_hash(subtrees, lo, hi))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Check an inclusion proof (RFC 9162 section 2.1.3.2). Raises CheckFailed RSD-5010 that names both roots."""
    computed = _root_by_inclusion(leaf, index, size, proof)
    if computed != expected_root:
        raise CheckFailed(
            "RSD-5010",
            f"entry {index} is not proved to be in the tree of {size} entries",
            rule="RFC 9162 section 2.1.3.2",
            found=computed.hex() if computed else "a proof of the wrong shape",
            limit=expected_root.hex(),
            next="ask the log for a new proof; if that fails too, treat the log as rewritten",
        )


def _root_by_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that the proof leads to, None if its shape does not fit index and size."""
    if not 0 <= index < size or not _are_hashes((leaf, *proof)):
        return None
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return r if sn == 0 else None


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2). Raises CheckFailed RSD-5011 that names both roots.

    A tree of size 0 is a prefix of every tree: its root must be `EMPTY_ROOT` and the proof empty.
    """
    computed = _roots_by_consistency(old, new, old_root, new_root, proof)
    if computed != (old_root, new_root):
        shown = "a proof of the wrong shape" if computed is None else f"{computed[0].hex()} and {computed[1].hex()}"
        raise CheckFailed(
            "RSD-5011",
            f"the tree of {new} entries is not proved to continue the tree of {old}",
            rule="RFC 9162 section 2.1.4.2",
            found=shown,
            limit=f"{old_root.hex()} and {new_root.hex()}",
            next="ask the log for a new proof; if that fails too, treat the log as rewritten",
        )


def _roots_by_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """The two roots that the proof leads to, None if its shape does not fit the sizes."""
    if not 0 <= old <= new or not _are_hashes((old_root, new_root, *proof)):
        return None
    if old in {0, new}:
        start = EMPTY_ROOT if old == 0 else new_root
        end = EMPTY_ROOT if new == 0 else new_root
        return None if proof else (start, end)
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return None
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return (fr, sr) if sn == 0 else None


def _split(n: int) -> int:
    """The largest power of two smaller than n, for n >= 2."""
    return 1 << ((n - 1).bit_length() - 1)


def _range_hash(subtrees: Subtrees, lo: int, hi: int) -> bytes:
    """MTH of the leaves [lo, hi); lo is a multiple of the smallest power of two that is not below hi - lo."""
    n = hi - lo
    if n & (n - 1) == 0:
        level = n.bit_length() - 1
        return subtrees(level, lo >> level)
    middle = lo + _split(n)
    return node_hash(_range_hash(subtrees, lo, middle), _range_hash(subtrees, middle, hi))


def _are_hashes(values: Iterable[bytes]) -> bool:
    return all(len(v) == HASH_SIZE for v in values)


def _out_of_range(message: str, found: int, limit: str) -> InputError:
    return InputError("RSD-5012", message, rule="a proof is about a part of the tree", found=found, limit=limit)
