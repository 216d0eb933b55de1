"""A salted commitment to the rows of an extract, and the proof that one row belongs to it, which shows no other row.

The tree is that of RFC 9162 section 2.1. A leaf is the hash of 32 salt bytes and the row's canonical JSON; the salts
derive from a key that stays at the site, so that a leaf of a guessable row reveals nothing. The tree is filled up with
leaves without a row to the next power of two, in an order that depends on the key: neither its size nor a place in it
tells how many rows there are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from client.data.text import canonical_text
from compliance.canonical import canonical
from compliance.errors import InputError
from compliance.log import merkle

_LEAST = 1024  # leaves


@dataclass(frozen=True)
class RowProof:
    """What is handed over to show one row: its canonical JSON, its salt, and its way to the root. No other row."""

    row: bytes
    salt: bytes
    index: int
    size: int
    path: tuple[bytes, ...]


def commitment_key(secret: bytes, nonce: bytes) -> bytes:
    """The key of one extract's salts. `nonce` is random, of this extract alone."""
    return hmac.digest(secret, b"residency.rows/1" + nonce, hashlib.sha256)


def commit_rows(key: bytes, table: pd.DataFrame) -> bytes:
    """The root over all rows of `table`, 32 bytes."""
    leaves, _ = _leaves(key, table)
    return merkle.root(leaves)


def prove_row(key: bytes, table: pd.DataFrame, position: int) -> RowProof:
    """The proof for the row at `position`. Raises InputError RSD-2416 without such a row."""
    if not 0 <= position < len(table):
        raise InputError(
            "RSD-2416", "the extract has no row at this place", rule="rows count from 0", limit="a row of the extract"
        )
    leaves, places = _leaves(key, table)
    index = places[position]
    path = merkle.inclusion_proof(merkle.subtrees_of(leaves), index, len(leaves))
    row = _encoded(table.iloc[[position]])[0]
    return RowProof(row, _salt(key, position), index, len(leaves), path)


def verify_row(proof: RowProof, root: bytes) -> None:
    """Check that the row of `proof` is committed to by `root`. Raises CheckFailed RSD-5010."""
    merkle.verify_inclusion(
        merkle.leaf_hash(proof.salt + proof.row), proof.index, proof.size, proof.path, expected_root=root
    )


def _leaves(key: bytes, table: pd.DataFrame) -> tuple[list[bytes], list[int]]:
    """All leaf hashes in the tree's order, and the place of each row in it."""
    rows: list[bytes] = _encoded(table)
    size = max(_LEAST, 1 << (len(rows) - 1).bit_length())
    rows += [b""] * (size - len(rows))
    salts = [_salt(key, i) for i in range(size)]
    order = sorted(range(size), key=lambda i: hmac.digest(key, b"place" + salts[i], hashlib.sha256))
    places = [0] * size
    for place, i in enumerate(order):
        places[i] = place
    return [merkle.leaf_hash(salts[i] + rows[i]) for i in order], places


def _salt(key: bytes, position: int) -> bytes:
    return hmac.digest(key, b"salt" + position.to_bytes(8, "big"), hashlib.sha256)


def _encoded(table: pd.DataFrame) -> list[bytes]:
    names: Sequence[str] = [str(c) for c in table.columns]
    columns = [[canonical_text(v) for v in table[c].tolist()] for c in table.columns]
    return [canonical(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
