"""Alarms: what a person must look at. An entry of the log and one line on stderr; status, doctors and desk show it for
`STANDS`.

One cause, which is a code and what it is about, is told once as long as its alarm stands. Nobody can take an alarm
back: it ages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from compliance.canonical import Json
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import InputError, ResidencyError
from compliance.log import note
from compliance.log.bodies import AlarmBody
from compliance.log.cosign import WitnessKeys
from compliance.log.entry import Entry
from compliance.validation import load_model

if TYPE_CHECKING:
    from compliance.log.store import LogStore
    from compliance.log.view import LogView

STANDS: Final = timedelta(days=30)
CLOCK_SLACK: Final = timedelta(minutes=5)
SILENT: Final = timedelta(hours=24)
TITLES: Final[Mapping[str, str]] = {
    "RSD-1225": "gap",
    "RSD-3065": "clock set back",
    "RSD-5011": "log not continued",
    "RSD-5040": "fork",
    "RSD-5041": "rollback",
    "RSD-5042": "log key changed",
    "RSD-5104": "witness that forgot",
    "RSD-5106": "gap",
    "RSD-5107": "silent log",
    "RSD-5108": "clock runs wild",
    "RSD-5109": "evaluators disagree",
}
OF_A_LOG: Final = frozenset({"RSD-5011", "RSD-5040", "RSD-5041", "RSD-5042"})
_EARLIEST: Final = "1970-01-01T00:05:00Z"
_TEXT: Final = 1000  # characters of a peer's words that are kept


@dataclass(frozen=True)
class Alarm:
    """One alarm. `about`: a log's origin, a witness or a store. `index` and `at`: its entry, once it is in a log."""

    code: str
    about: str
    found: str
    limit: str
    since: str
    index: int = -1
    at: str = ""

    @property
    def title(self) -> str:
        """What it is, in a word or three."""
        return TITLES.get(self.code, "alarm")

    def as_json(self) -> dict[str, Json]:
        """For status and desk."""
        names = ("code", "about", "found", "limit", "since", "index", "at")
        return {"title": self.title, **{name: getattr(self, name) for name in names}}

    def line(self) -> str:
        """One line for people."""
        return f"ALARM {self.code} {self.title}: {self.about}: found {self.found}; limit {self.limit}"


def alarm(code: str, about: str, *, found: object, limit: object, since: str = "") -> Alarm:
    """An alarm of now, or `since` a time that is known."""
    return Alarm(code, _plain(about, 256), _plain(str(found)), _plain(str(limit)), since or rfc3339(now()))


def of_error(error: ResidencyError, about: str) -> Alarm:
    """The alarm that an error is."""
    return alarm(error.code, about, found=error.found or error.message, limit=error.limit)


def of_checkpoint(error: ResidencyError, origin: str, *, proved: bool, direct: bool) -> Alarm | None:
    """The alarm if a checkpoint that was not cosigned says something against its log, None if it does not.

    `proved`: a proof came with it; without one nothing follows. `direct`: from the log's own site; an older checkpoint
    from anybody else may only have travelled late.
    """
    if error.code not in OF_A_LOG or (error.code == "RSD-5011" and not proved):
        return None
    return None if error.code == "RSD-5041" and not direct else of_error(error, origin)


def raise_alarm(log: LogStore, told: Alarm, study: str = "") -> bool:
    """Tell people and the log, unless an alarm of this cause stands; whether it was told.

    The line on stderr comes first: whoever cannot write the log still says it, and whoever has nobody at the other end
    of stderr still writes it. Raises EnvironmentFault RSD-5030.
    """
    at = now()
    stands = (a for a in standing(alarms_of(log), at) if parse_time(a.at) <= at + CLOCK_SLACK)  # not by a wild clock
    if any((a.code, a.about) == (told.code, told.about) for a in stands):
        return False
    say(told.line())
    names = ("code", "about", "found", "limit", "since")
    body = AlarmBody.model_validate({name: getattr(told, name) for name in names})
    log.append("alarm", body.as_json(), study)
    return True


def say(line: str) -> None:
    """One line on stderr, if anybody still reads it: an alarm has its place on disk too."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def alarms_of(source: LogStore | LogView) -> tuple[Alarm, ...]:
    """Every alarm of a log, in order. Raises InputError RSD-5020 for one that has not its form."""
    held = source.entries
    entries: Iterable[Entry] = held.values() if isinstance(held, Mapping) else held(kind="alarm")
    return tuple(_read(e) for e in sorted(entries, key=lambda e: e.index) if e.kind == "alarm")


def standing(found: Iterable[Alarm], at: datetime) -> tuple[Alarm, ...]:
    """Those that are to be seen at that time."""
    return tuple(a for a in found if at - parse_time(a.at) < STANDS)


def of_cosignature(witness: str, at: int, newest: str) -> Alarm | None:
    """RSD-5108 if a cosignature's time is ahead of this clock, or before the newest entry that it covers.

    A line may travel late, so that it lies in the past is nothing.
    """
    stated, own, entry = datetime.fromtimestamp(at, UTC), now(), parse_time(newest)
    found = f"cosigned {rfc3339(stated)}, this clock {rfc3339(own)}, newest entry of the checkpoint {newest}"
    limit = "5 minutes ahead of this clock, 5 minutes before the entry"
    if entry - CLOCK_SLACK <= stated <= own + CLOCK_SLACK:
        return None
    return alarm("RSD-5108", witness, found=found, limit=limit)


def add_cosignature(log: LogStore, size: int, line: str, keys: WitnessKeys, study: str = "") -> None:
    """`LogStore.add_cosignature`; a time in it that cannot be raises the alarm, and the line is kept all the same."""
    at = log.add_cosignature(size, line, keys)
    told = of_cosignature(note.parse_line(line).name, at, _newest(log, size))
    if told is not None:
        raise_alarm(log, told, study)


def _newest(log: LogStore, size: int) -> str:
    """When the last of the first `size` entries was written; the earliest time if its text has expired."""
    try:
        return log.entry(size - 1).at if size else _EARLIEST
    except InputError as e:
        if e.code != "RSD-5061":
            raise
        return _EARLIEST


def of_silence(origin: str, seen_at: datetime | None, at: datetime, since: datetime, limit: timedelta) -> Alarm | None:
    """RSD-5107 if the log was not seen to grow for longer than `limit`, counted from `since` at the earliest."""
    last = max(seen_at, since) if seen_at is not None else since
    if at - last <= limit:
        return None
    hours = f"{limit.total_seconds() / 3600:g} hours"
    found = f"last seen to grow {rfc3339(seen_at) if seen_at else 'never'}"
    return alarm("RSD-5107", origin, found=found, limit=f"once in {hours}", since=rfc3339(last))


def _read(entry: Entry) -> Alarm:
    body = load_model(AlarmBody, entry.body, "RSD-5020", f"alarm at entry {entry.index}")
    return Alarm(body.code, body.about, body.found, body.limit, body.since, entry.index, entry.at)


def _plain(text: str, most: int = _TEXT) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]
