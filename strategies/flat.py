"""A model's trained parameters as one flat little-endian float32 array, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from compliance.canonical import canonical, sha256_hex
from compliance.errors import InputError

FLOAT32 = np.dtype("<f4")
Flat = npt.NDArray[np.float32]
"""One-dimensional, little-endian float32, C-contiguous."""


def flat_bytes(array: npt.NDArray[np.floating]) -> memoryview:
    """The bytes of `array` as little-endian float32 in C order; not a copy if it lies in memory like that."""
    return np.ascontiguousarray(array, dtype=FLOAT32).data


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trained parameters, in the order in which they lie in the flat array.

    A scalar has shape (). Raises InputError RSD-8401 for no entries, a repeated or empty name, a dimension below 1.
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        if not names or not all(names) or len(set(names)) != len(names):
            raise _bad("names are empty or repeated", len(names), "distinct names, at least one")
        if any(n < 1 for _, shape in self.entries for n in shape):
            raise _bad("a dimension is below one", min(n for _, shape in self.entries for n in shape), 1)

    @cached_property
    def size(self) -> int:
        """Number of parameters d."""
        return sum(prod(shape) for _, shape in self.entries)

    @cached_property
    def sha256(self) -> str:
        """Digest of names, shapes, order and number format, 64 hex digits: equal digests, equal meaning of an array."""
        entries = [{"name": name, "shape": list(shape)} for name, shape in self.entries]
        return sha256_hex(canonical({"schema": "residency.layout/1", "dtype": "float32-le", "entries": entries}))

    def split(self, flat: Flat) -> dict[str, Flat]:
        """Read-only views of `flat` (float32[d]) by name, in their shapes. Raises InputError RSD-8402."""
        if flat.shape != (self.size,) or flat.dtype != FLOAT32:
            raise InputError(
                "RSD-8402",
                "the flat array does not fit the layout",
                found=f"{flat.dtype}{list(flat.shape)}",
                limit=f"float32[{self.size}]",
            )
        parts: dict[str, Flat] = {}
        at = 0
        for name, shape in self.entries:
            part = flat[at : at + prod(shape)].reshape(shape)
            part.flags.writeable = False
            parts[name] = part
            at += prod(shape)
        return parts

    def join(self, parts: Mapping[str, Flat]) -> Flat:
        """The inverse of `split`: a new float32[d]. Raises InputError RSD-8402 for other names, shapes or dtypes."""
        if set(parts) != {name for name, _ in self.entries}:
            raise InputError(
                "RSD-8402", "other parameters than in the layout", found=len(parts), limit=len(self.entries)
            )
        flat = np.empty(self.size, FLOAT32)
        at = 0
        for name, shape in self.entries:
            part = parts[name]
            if part.shape != shape or part.dtype != FLOAT32:
                raise InputError(
                    "RSD-8402",
                    f"parameter {name} does not fit the layout",
                    found=f"{part.dtype}{list(part.shape)}",
                    limit=f"float32{list(shape)}",
                )
            flat[at : at + part.size] = part.reshape(-1)
            at += part.size
        return flat


def _bad(message: str, found: object, limit: object) -> InputError:
    return InputError("RSD-8401", f"not a layout: {message}", found=found, limit=limit)
