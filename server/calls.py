"""Every call at the server's doors in the operator's log, in batches: noting one costs next to nothing.

A call of the data path is counted per (site, method, outcome); every other call stands by itself with its time, and so
do the first refused ones of a second. What is refused for its frequency is only counted: the log can only grow, and a
flood must not decide how fast. Polling is not noted: questions for work, ten a second, would be all that it holds.
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
MOST_SINGLE: Final = 200  # calls of one batch that were served and stand by themselves; those beyond are counted
MOST_REFUSED: Final = 20  # refused calls of one batch that stand by themselves
MOST_ALIKE: Final = 3  # of these, by the same caller with the same outcome
MOST_KEYS: Final = 20  # kinds of refused calls that are counted by caller; of those beyond, the caller is left out
TOO_MANY: Final = frozenset({"RSD-6303", "RSD-6222"})  # refused for the number alone
_PARTS_AN_ENTRY: Final = 150  # each has at most about 400 bytes, an entry 65,536
_MOST_TEXT: Final = 80


_Key = tuple[str, str, str, str]  # surface, method, site, outcome


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
    """The entries that record these calls: single ones with their time, the others as counts. Each fits an entry.

    Nothing is left out of the counts. However many are refused, and by whomever, they add at most about 7 kB.
    """
    alone, counted = _split(calls)
    parts: list[dict[str, Any]] = [{**_part(*c[:4]), "at": c.at} for c in alone]
    parts += [{**_part(*key), "count": count} for key, count in sorted(counted.items())]
    return [Draft(KIND, {"calls": parts[i : i + _PARTS_AN_ENTRY]}) for i in range(0, len(parts), _PARTS_AN_ENTRY)]


def _split(calls: list[Call]) -> tuple[list[Call], Counter[_Key]]:
    """Which calls stand by themselves, in their order, and the counts of the others."""
    alone: list[Call] = []
    counted: Counter[_Key] = Counter()
    seen: Counter[_Key] = Counter()
    singles: Counter[bool] = Counter()  # by whether they were served
    refused: set[_Key] = set()  # kinds that are counted with their caller
    for call in calls:
        key, served = call[:4], call.outcome == OK
        seen[key] += 1
        if _stands(call, seen[key], singles[served]):
            singles[served] += 1
            alone.append(call)
        elif served or key in refused or len(refused) < MOST_KEYS:
            refused.update(() if served else {key})
            counted[key] += 1
        else:
            counted[call.surface, call.method, "", call.outcome] += 1
    return alone, counted


def _stands(call: Call, alike: int, singles: int) -> bool:
    """Whether a call stands by itself: it is the `alike`th such call, and `singles` served or refused ones stand."""
    if call.outcome == OK:
        return call.surface not in _COUNTED and singles < MOST_SINGLE
    return call.outcome not in TOO_MANY and alike <= MOST_ALIKE and singles < MOST_REFUSED


def _part(surface: str, method: str, site: str, outcome: str) -> dict[str, Any]:
    fields = {"surface": surface, "method": method, "site": site, "outcome": outcome}
    return {name: value.encode("ascii", "replace").decode("ascii")[:_MOST_TEXT] for name, value in fields.items()}
