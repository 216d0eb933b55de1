"""Secret random words: AES-256 in counter mode under a key that never leaves the process."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Words = npt.NDArray[np.uint64]
_MARK = 64  # bytes kept aside to recognise a repeated stream


class Stream(Protocol):
    """A source of independent uniform 64-bit words. Production builds exactly one kind: `Keystream.fresh()`."""

    @property
    def mark(self) -> str:
        """16 hex digits that tell two streams apart and say nothing about the words that `words` returns."""
        ...

    def words(self, count: int) -> Words:
        """The next `count` words, shape (count,), each uniform on [0, 2^64)."""
        ...


class Keystream:
    """AES-256-CTR (NIST SP 800-38A) under 32 bytes of `os.urandom`, drawn here and kept nowhere else.

    There is no way to pass a key or a seed. One object serves one attempt of one round: the worker makes it when the
    attempt starts, after the process exists, so that no state is shared between processes or attempts.
    """

    def __init__(self) -> None:
        self._encryptor = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
        # The first 64 bytes of the stream serve as nothing but its mark.
        self._mark = hashlib.sha256(self._encryptor.update(bytes(_MARK))).hexdigest()[:16]

    @classmethod
    def fresh(cls) -> Keystream:
        """A new stream with a new key."""
        return cls()

    @property
    def mark(self) -> str:
        """See `Stream.mark`: a hash of the stream's first 64 bytes, which are never used for anything else."""
        return self._mark

    def words(self, count: int) -> Words:
        """See `Stream.words`. Little-endian."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8").astype(np.uint64)


def poisson_mask(stream: Stream, records: int, numerator: int, denominator: int) -> npt.NDArray[np.bool_]:
    """Which of `records` take part in a step: each independently with probability exactly numerator / denominator.

    Integers only: a word is uniform on [0, 2^64); those at or above the largest multiple of `denominator` are drawn
    again, and the rest modulo `denominator` is uniform on [0, denominator). Needs 1 <= numerator <= denominator <
    2^63 (ValueError).
    """
    if not 1 <= numerator <= denominator < 2**63:
        raise ValueError("a sampling rate lies in (0, 1] and its denominator below 2^63")
    last = np.uint64(2**64 - 2**64 % denominator - 1)  # the greatest word that is not drawn again
    words = stream.words(records)
    while (again := np.flatnonzero(words > last)).size:
        words[again] = stream.words(again.size)
    drawn: npt.NDArray[np.bool_] = words % np.uint64(denominator) < np.uint64(numerator)
    return drawn
