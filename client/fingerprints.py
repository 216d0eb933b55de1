"""What this site drew before: keyed hashes of noise, batches and streams, which no later round may repeat.

They never leave the site. The key is the site's own, so that the file says nothing to who has the file alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from compliance.errors import EnvironmentFault
from compliance.files import read_bytes, write_durably

_BYTES: Final = 12  # of a fingerprint on disk
_MOST: Final = 1 << 15  # fingerprints kept, the oldest go: those of more than 3,000 rounds
Marks = Mapping[str, Sequence[str]]


class Fingerprints:
    """The fingerprints of one site, in `file`; without one, for as long as the object lives."""

    def __init__(self, file: Path | None = None, secret: Callable[[], bytes] = bytes) -> None:
        """`secret` is asked for at the first use."""
        self._file, self._secret = file, secret
        self._held: dict[bytes, None] | None = None

    def judge(self, marks: Marks) -> dict[str, bool]:
        """For each check, whether none of its `marks` was here before. All are on disk once this returns.

        Raises EnvironmentFault RSD-4503 (the file is damaged), RSD-7001 (it cannot be written), RSD-2421.
        """
        held = self._load()
        key = hmac.digest(self._secret(), b"residency drawn", hashlib.sha256)
        fresh = {}
        for name, some in marks.items():
            keyed = [hmac.digest(key, f"{name} {mark}".encode(), hashlib.sha256)[:_BYTES] for mark in some]
            fresh[name] = len(set(keyed)) == len(keyed) and not any(k in held for k in keyed)
            held.update(dict.fromkeys(keyed))
        for oldest in list(held)[: max(0, len(held) - _MOST)]:
            del held[oldest]
        if self._file is not None:
            write_durably(self._file, b"".join(held), private=True)
        return fresh

    def _load(self) -> dict[bytes, None]:
        if self._held is None:
            data = read_bytes(self._file, "fingerprints") if self._file and self._file.exists() else b""
            if len(data) % _BYTES:
                raise EnvironmentFault(
                    "RSD-4503", "the file of what this site drew before is damaged", rule="no noise is used twice",
                    found=f"{len(data)} bytes", limit=f"a multiple of {_BYTES}",
                    next="check the disk; move the file away, and repetitions are told from then on",
                )  # fmt: skip
            self._held = dict.fromkeys(data[at : at + _BYTES] for at in range(0, len(data), _BYTES))
        return self._held
