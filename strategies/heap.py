"""What the C library does with the memory of large messages: it keeps it for the next one, and gives it back at rest.

A round at ten million parameters allocates and frees 40 MB a dozen times. By default glibc maps and unmaps each, and
the kernel clears every page again: a quarter of the round. mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
_KEPT: Final = 1 << 30  # bytes at the heap's top that are not handed back at once
_STEP: Final = 64 << 20  # bytes by which the heap grows at least


def keep() -> bool:
    """From here on freed memory stays with this process until `give_back`; False where the C library is not glibc.

    Call it while there is one thread: one that allocated before has an arena of its own, whose end nothing gives back.
    """
    libc = _glibc()
    if libc is None:
        return False
    # One arena for all threads: malloc_trim leaves the top of every other one where it is.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, _STEP))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> bool:
    """Hand what is free back to the kernel; True if something was."""
    libc = _glibc()
    return libc is not None and libc.malloc_trim(0) == 1


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None
