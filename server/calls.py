"""Every call at the server's doors in the operator's log, in batches: noting one costs next to nothing.

A call of the data path is counted per (site, method, outcome); every other call, and every refused one, stands by
itself with its time. Polling is not noted: questions for work, ten a second, would be all that the log holds.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from compliance.clock import now, rfc3339
from compliance.errors import ResidencyError
from compliance.log.store import Draft, LogStore
from compliance.trust.home import OperatorHome

KIND: Final = "calls"
EVERY_S: Final = 1.0
FLEET, CONTROL, RUNTIME, DOOR = "fleet", "control", "runtime", "door"
OK, POLL = "ok", "poll"
_COUNTED: Final = frozenset({FLEET, RUNTIME})
MOST_SINGLE: Final = 200  # calls of one batch that stand by themselves; a flood beyond is counted, too
_PARTS_AN_ENTRY: Final = 150  # each has at most about 400 bytes, an entry 65,536
_MOST_TEXT: Final = 80


class Call(NamedTuple):
    """One call as it was noted; `at` is RFC 3339."""

    surface: str
    method: str
    site: str
    outcome: str
    at: str


class CallLog:
    """Writes to the log of the operator at `home`. Several threads may note; use `close` to write what is left.

    A batch is on disk about `EVERY_S` after its calls; a killed process loses the last one. Raises what `LogStore.open`
    raises, and InputError RSD-2005, RSD-6005, RSD-6019 for a home that lacks its files.
    """

    def __init__(self, home: Path) -> None:
        place = OperatorHome(home)
        signer, config = place.signer(), place.config()
        origin = f"residency/{config.name}/{config.operator.name}"
        self._log = LogStore.open(place.log_file, origin, signer.private)
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._trouble: ResidencyError | None = None
        self._thread = threading.Thread(target=self._write, name="call-log", daemon=True)
        self._thread.start()

    def note(self, surface: str, method: str, site: str, outcome: str) -> None:
        """Remember one call: `surface` fleet, control, runtime, governance, enrolment or door; `site` may be empty.

        `outcome` is "ok", "poll" (an empty-handed question for work, a heartbeat: not written) or a code or status.
        Never blocks, never raises.
        """
        if outcome != POLL:
            self._queue.put(Call(surface, method, site, outcome, rfc3339(now())))

    @property
    def trouble(self) -> ResidencyError | None:
        """Why calls could not be written; once set, nothing is written any more and the server must stop."""
        return self._trouble

    def close(self) -> None:
        """Write what is left and close the log. Raises what kept calls from being written."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._log.close()
        if self._trouble is not None:
            raise self._trouble

    def _write(self) -> None:
        while self._trouble is None:
            calls = [self._queue.get()]
            self._closing.wait(EVERY_S)
            while not self._queue.empty():  # this thread alone takes
                calls.append(self._queue.get())
            try:
                drafts = batch([call for call in calls if call is not None])
                if drafts:
                    self._log.append_many(drafts)
            except ResidencyError as e:
                self._trouble = e
            if self._closing.is_set() and self._queue.empty():
                return


def batch(calls: list[Call]) -> list[Draft]:
    """The entries that record these calls: single ones with their time, the others as counts. Each fits an entry."""
    single = [c for c in calls if c.surface not in _COUNTED or c.outcome != OK]
    data = [c for c in calls if c.surface in _COUNTED and c.outcome == OK]
    counted = Counter(c[:4] for c in (*single[MOST_SINGLE:], *data))
    parts: list[dict[str, Any]] = [{**_part(*c[:4]), "at": c.at} for c in single[:MOST_SINGLE]]
    parts += [{**_part(*key), "count": count} for key, count in sorted(counted.items())]
    return [Draft(KIND, {"calls": parts[i : i + _PARTS_AN_ENTRY]}) for i in range(0, len(parts), _PARTS_AN_ENTRY)]


def _part(surface: str, method: str, site: str, outcome: str) -> dict[str, Any]:
    fields = {"surface": surface, "method": method, "site": site, "outcome": outcome}
    return {name: value.encode("ascii", "replace").decode("ascii")[:_MOST_TEXT] for name, value in fields.items()}
