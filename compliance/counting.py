"""Counters beside a log: what was counted stays counted, and whoever puts an older counter back is found out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from compliance.errors import Refused
from compliance.law.counters import Counters
from compliance.law.model import Count, Decision, Party
from compliance.law.vocabulary import Category
from compliance.log.store import LogStore

_KIND = "count"


class Tally:
    """The counters at `path`, whose newest head stands in `log`. Not thread-safe.

    Every method raises Refused RSD-3060 if the counters lack what the log says was counted, and what `Counters` raises:
    what needs a count is then let out to nobody.
    """

    def __init__(self, path: Path, log: LogStore) -> None:
        self._path, self._log = path, log
        self._last: tuple[int, str] | None = None

    def check(self) -> None:
        """Nothing that was counted is missing."""
        with Counters.open(self._path) as counters:
            self._check(counters)

    def counts(
        self,
        exporter: Party,
        parties: Iterable[Party],
        source: str,
        persons: int,
        categories: tuple[Category, ...],
        at: str,
    ) -> tuple[Count, ...]:
        """`Counters.counts`, after the check."""
        with Counters.open(self._path) as counters:
            self._check(counters)
            return counters.counts(exporter, parties, source, persons, categories, at)

    def record(self, decision: Decision, source: str, persons: int) -> None:
        """Count that data of `persons` persons of `source` reaches everybody whom the decision is about.

        On disk on return, with its place in the log; a crash in between leaves it counted.
        """
        sent = decision.transfer
        with Counters.open(self._path) as counters:
            self._check(counters)
            for leg in decision.legs:
                counters.record(sent.study, source, leg.recipient, persons, sent.categories, sent.at)
            head = counters.head()
        if head != self._last:
            rows, link = head
            self._log.append(_KIND, {"rows": rows, "head": link})  # of no study: it stays out of a study's evidence
            self._last = head

    def _check(self, counters: Counters) -> None:
        self._last = self._last or noted(self._log)
        check_holds(counters, self._last)


def noted(log: LogStore) -> tuple[int, str]:
    """The newest head of the counters that the log knows; no rows if it knows none."""
    found = log.entries(kind=_KIND)
    return (int(found[-1].body["rows"]), str(found[-1].body["head"])) if found else (0, "")


def check_holds(counters: Counters, head: tuple[int, str]) -> None:
    """The counters continue that head. Raises Refused RSD-3060."""
    rows, link = head
    if rows and not counters.holds(rows, link):
        raise Refused(
            "RSD-3060",
            "the counters lack what the log says was counted",
            rule="what was counted stays counted",
            found="other counters, or an older copy",
            limit=f"the counters as the newest entry of kind {_KIND} in the log knows them",
            next="restore the newest counters.db; without it nothing that is counted leaves",
        )
