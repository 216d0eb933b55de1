"""How often somebody may call, and how many calls of one caller are served at a time. Decisions in memory, no I/O."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from compliance.errors import Refused

MOST_CALLERS: Final = 10_000  # remembered at a time; the one that was quiet longest is forgotten first
AT_A_TIME: Final = 3  # calls of one caller that are served at once


@dataclass
class _Bucket:
    left: float
    at: float


class Limits:
    """A token bucket for each (caller, method): `per_minute` calls in a burst, refilled evenly over a minute.

    `clock` counts seconds and never goes back. Thread-safe; memory is bounded by `MOST_CALLERS`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._serving: dict[str, int] = {}

    def take(self, caller: str, method: str, per_minute: int) -> None:
        """Count one call. Raises Refused RSD-6303 when the caller has used up what the method allows."""
        at = self._clock()
        with self._lock:
            bucket = self._buckets.pop((caller, method), None) or _Bucket(per_minute, at)
            self._buckets[caller, method] = bucket
            while len(self._buckets) > MOST_CALLERS:
                self._buckets.popitem(last=False)
            bucket.left = min(float(per_minute), bucket.left + (at - bucket.at) * per_minute / 60)
            bucket.at = at
            allowed = bucket.left >= 1
            bucket.left -= allowed
        if not allowed:
            raise too_often(method, f"more than {per_minute} calls", f"{per_minute} calls a minute")

    @contextmanager
    def serving(self, caller: str, method: str) -> Iterator[None]:
        """Hold one of the caller's places while a call is served. Raises Refused RSD-6303 when all are taken."""
        with self._lock:
            now = self._serving.get(caller, 0)
            if now < AT_A_TIME:
                self._serving[caller] = now + 1
        if now >= AT_A_TIME:
            raise too_often(method, f"{now} calls under way", f"{AT_A_TIME} at a time")
        try:
            yield
        finally:
            with self._lock:
                self._serving[caller] -= 1
                if not self._serving[caller]:
                    del self._serving[caller]


def too_often(method: str, found: str, limit: str) -> Refused:
    """The refusal of a call that comes too soon."""
    return Refused(
        "RSD-6303",
        f"{method} is called too often",
        rule="each caller has a bounded share of the service",
        found=found,
        limit=limit,
        next="wait a minute, then call again",
    )
