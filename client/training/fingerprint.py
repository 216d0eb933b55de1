"""Fingerprints of what a round really drew, to be compared with those of other rounds (client/fingerprints.py)."""

from __future__ import annotations

import hashlib
import math
from typing import Final

LEAST_BITS: Final = 80.0  # two rounds then share a fingerprint by chance with probability 2^-80
_MOST: Final = 4  # the least of a round's hashes: two rounds that draw much alike, in whatever order, share one


class Fingerprint:
    """The least hashes of what steps drew, so many steps to a hash that chance hardly repeats one; none of too few."""

    def __init__(self) -> None:
        self._hash, self._bits = hashlib.sha256(), 0.0
        self._least: list[str] = []

    def add(self, values: bytes, bits: float) -> None:
        """Take in what one step drew; two honest draws are equal with probability 2^-bits."""
        self._hash.update(values)
        self._bits += bits
        if self._bits >= LEAST_BITS:
            self._least = sorted({*self._least, self._hash.hexdigest()[:32]})[:_MOST]
            self._hash, self._bits = hashlib.sha256(), 0.0

    @property
    def marks(self) -> tuple[str, ...]:
        """At most four."""
        return tuple(self._least)


def noise_bits(count: int, scale: float) -> float:
    """For `count` rounded normals of deviation `scale`: two are equal with probability 1 / (2 sqrt(pi) scale)."""
    return count * math.log2(2 * math.sqrt(math.pi) * scale)


def mask_bits(units: int, q: float) -> float:
    """For a mask over `units`, each drawn with probability `q`."""
    return -units * math.log2(q * q + (1 - q) * (1 - q))
