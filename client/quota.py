"""Bounds on what others can make a site remember and write: sets that forget their oldest, so many refusals an hour.

Whoever is at the other end may send endless different things that are refused. Each is refused; what grows is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from client.books import Books
from compliance.errors import Refused, ResidencyError

REFUSALS_AN_HOUR: Final = 20
_REMEMBERED: Final = 1000
_HOUR_S: Final = 3600.0


class Remembered:
    """A set of at most `most` keys: each further one displaces the oldest."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._keys: dict[object, None] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: object) -> None:
        """Remember `key`."""
        if key not in self._keys and len(self._keys) >= self._most:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None


class Quota:
    """`most` an hour, and the first of each kind however many came before it; the rest is counted in `left_out`.

    The first of a kind always passes so that nobody hides one thing behind a flood of others: kinds must be few.
    """

    def __init__(self, most: int = REFUSALS_AN_HOUR, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self.restart()

    def restart(self) -> None:
        """A new hour begins now."""
        self._since, self._taken, self._kinds, self.left_out = self._clock(), 0, set[str](), 0

    @property
    def over(self) -> bool:
        """Whether the hour has passed."""
        return self._clock() - self._since >= _HOUR_S

    def take(self, kind: str = "") -> bool:
        """Whether this one is within the quota."""
        if self._taken >= self._most and kind in self._kinds:
            self.left_out += 1
            return False
        self._taken += 1
        self._kinds.add(kind)
        return True


class Refusals:
    """What a link refuses, into the site's log: `REFUSALS_AN_HOUR`, then one entry that counts what was left out.

    It outlives connections: whoever cuts one off begins no new hour. `known`: things that were refused before.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        self._quota = quota or Quota()
        self.known = Remembered()

    def record(self, books: Books, error: ResidencyError) -> bool:
        """Log a refusal, or count it; whether it is in the log."""
        self.settle(books)
        if not self._quota.take(error.code):
            return False
        books.record_refusal(error, "")
        return True

    def settle(self, books: Books, *, ending: bool = False) -> None:
        """Log how many were left out once their hour is over, or at once when the link is `ending`."""
        if not (ending or self._quota.over):
            return
        if self._quota.left_out:
            books.record_refusal(_left_out(self._quota.left_out), "")
        self._quota.restart()


def _left_out(count: int) -> Refused:
    return Refused(
        "RSD-6313",
        f"{count} more refusals are not in the log one by one",
        rule="what others can make a site write is bounded",
        found=f"{REFUSALS_AN_HOUR + count} within an hour",
        limit=f"{REFUSALS_AN_HOUR} an hour, and the first of each code",
        next="ask the operator why its service sends what is refused",
    )
