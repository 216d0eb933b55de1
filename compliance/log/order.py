"""Time in a log runs forward: what is decided by a clock that was set back is not decided."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from compliance.clock import parse_time
from compliance.errors import Refused
from compliance.log.alarms import of_error, raise_alarm

if TYPE_CHECKING:
    from compliance.log.store import LogStore

SET_BACK: Final = timedelta(minutes=5)


def refuse_set_back(log: LogStore, at: str) -> None:
    """Returns if `at` is at most five minutes before the newest entry of the log. Raises Refused RSD-3065.

    An earlier clock would revive papers and packs that have expired, and open windows of counters again.
    """
    size = log.size
    newest = log.entry(size - 1).at if size else at  # the newest never expires: a compaction entry comes after
    if parse_time(at) < parse_time(newest) - SET_BACK:
        refusal = Refused(
            "RSD-3065",
            "the clock stands before the newest entry of the log",
            rule="papers and packs expire by a clock that was not set back",
            found=at,
            limit=f"5 minutes before {newest} at most",
            next="set the clock of this machine right; nothing that needs a decision leaves meanwhile",
        )
        raise_alarm(log, of_error(refusal, log.origin))
        raise refusal
