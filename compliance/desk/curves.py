"""What each site has spent of its budget in a study, over time, from the charges that the logs show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compliance.desk.books import Books
from compliance.desk.sources import Log
from compliance.errors import ResidencyError
from compliance.privacy.events import PrivacyEvent
from compliance.release.bodies import ChargeBody, read_body
from compliance.study import Study

_MOST_POINTS: Final = 16  # of a curve: each is an accounting of its own


@dataclass(frozen=True)
class Point:
    """After this charge, of so many, the site had spent this much; None: no finite eps holds at this delta."""

    at: str
    charges: int
    epsilon_milli: int | None


@dataclass(frozen=True)
class Curve:
    """One site in one study. `charges` counts attempts, failed ones too; `charged_in` names the log of the last."""

    site: str
    limit_milli: int
    charges: int
    points: tuple[Point, ...]

    @property
    def spent_milli(self) -> int | None:
        """By the same accounting as the release's."""
        return self.points[-1].epsilon_milli if self.points else 0


def curves(books: Books, logs: Mapping[int, Log], digest: str, study: Study) -> tuple[Curve, ...]:
    """Every site of the study, in its order. Before the last, points are an upper bound on a coarser grid."""
    found = []
    for terms in study.sites:
        rows = books.all(
            "SELECT log, idx, at FROM charge WHERE study = ? AND site = ? ORDER BY at, idx", (digest, terms.name)
        )
        events = [_event(logs[row["log"]], row["idx"]) for row in rows]
        times = [str(row["at"]) for row in rows]
        points = _points(times, events, study.privacy.inverse_delta)
        found.append(Curve(terms.name, terms.epsilon_milli, len(events), points))
    return tuple(found)


def _event(log: Log, index: int) -> PrivacyEvent:
    entry = log.view.entries[index]
    return read_body(ChargeBody, entry, f"entry {index} of log {log.view.origin}").event


def _points(times: Sequence[str], events: Sequence[PrivacyEvent], inverse_delta: int) -> tuple[Point, ...]:
    from compliance.privacy.accounting import epsilon, epsilon_coarse  # noqa: PLC0415 - slow to import

    number = len(events)
    stops = sorted({max(1, number * i // _MOST_POINTS) for i in range(1, _MOST_POINTS + 1)}) if number else []
    points: list[Point] = []
    for stop in stops:
        account = epsilon if stop == number else epsilon_coarse
        try:
            spent: int | None = account(events[:stop], inverse_delta)
        except ResidencyError:  # no finite eps at this delta
            spent = None
        points.append(Point(times[stop - 1], stop, spent))
    return tuple(points)
