"""All that the desk shows, made once when it starts: places, books, health of logs, curves, the first verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from compliance.clock import now
from compliance.desk import checking, health
from compliance.desk.books import Books, build
from compliance.desk.curves import Curve, curves
from compliance.desk.sources import Flaw, Log, Place
from compliance.errors import ResidencyError
from compliance.law.pack import Pack, builtin_packs
from compliance.law.regions import Regions, load_regions
from compliance.log.alarms import Alarm, alarms_of, standing
from compliance.log.view import LogView
from compliance.release.replay import Source
from compliance.release.report import Report
from compliance.study import Study
from compliance.trust.root import Anchor

Progress = Callable[[str, int], None]
"""(what is done, how much more of it)"""


@dataclass(frozen=True)
class StudyFacts:
    """A study that entries are about; `text`, `place` only where a place holds it."""

    digest: str
    name: str
    text: Study | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Told:
    """An alarm with the log that holds it."""

    log: int
    alarm: Alarm
    stands: bool


@dataclass(frozen=True, eq=False)
class Desk:
    """What every page is made from. Nothing in it changes but `rechecked`: the newest verdict of each place that a
    reader had checked again. The pages still show what was read at the start.
    """

    anchor: Anchor
    at: datetime
    places: tuple[Place, ...]
    books: Books
    flaws: tuple[Flaw, ...]
    health: Mapping[int, health.Health]
    studies: Mapping[str, StudyFacts]
    curves: Mapping[str, tuple[Curve, ...]]
    verdicts: Mapping[int, Report]
    alarms: tuple[Told, ...]
    rechecked: dict[int, checking.Verdict] = field(default_factory=dict)

    def newest(self, place: int) -> checking.Verdict:
        """The last verdict on a place."""
        return self.rechecked.get(place) or checking.Verdict(self.verdicts[place], self.at)

    @property
    def wrong(self) -> list[Place]:
        """Places that are false, or were when they were read for the pages."""
        return [p for p in self.places if self.verdicts[p.number].error or self.newest(p.number).report.error]

    @cached_property
    def logs(self) -> dict[int, Log]:
        """Logs by number."""
        return {log.number: log for place in self.places for log in place.logs}

    @cached_property
    def study_logs(self) -> dict[str, list[Log]]:
        """The logs that hold entries of each study."""
        rows = self.books.all("SELECT DISTINCT study, log FROM kinds WHERE study != '' ORDER BY study, log")
        return {digest: [self.logs[r["log"]] for r in rows if r["study"] == digest] for digest in self.studies}

    def views_of(self, digest: str) -> tuple[LogView, ...]:
        """The logs that hold entries of a study; of one that was opened twice, what shows the most."""
        best: dict[str, LogView] = {}
        for log in self.study_logs.get(digest, ()):
            held = best.get(log.view.origin)
            if held is None or (len(held.entries), held.size) < (len(log.view.entries), log.view.size):
                best[log.view.origin] = log.view
        return tuple(best.values())

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """What a list of decisions can be filtered by: the values that occur."""
        rows = self.books.all("SELECT DISTINCT artifact, exporter, recipient, rule FROM decision")
        return {name: sorted({r[name] for r in rows}) for name in ("artifact", "exporter", "recipient", "rule")}

    @cached_property
    def law(self) -> tuple[Mapping[str, Pack], Mapping[str, Regions]]:
        """Packs and region sets by digest: this package's, and those that the places carry."""
        packs, regions = {p.digest: p for p in builtin_packs().values()}, {load_regions().digest: load_regions()}
        for place in self.places:
            if place.contents is not None and "regions.yaml" in place.contents.files:
                regions[place.contents.regions.digest] = place.contents.regions
                packs |= place.contents.packs
        return packs, regions

    def replaying(self, study: str) -> Source:
        """What decisions about `study` are made again with."""
        facts, (packs, regions) = self.studies.get(study), self.law
        return Source({}, packs, regions, (study, facts.text) if facts and facts.text else None)


def make(places: Sequence[Place], anchor: Anchor, told: Progress = lambda _what, _more: None) -> Desk:
    """Read everything once; `told` hears of the progress. Takes some seconds for each 10,000 entries."""
    at = now()
    books, flaws = build(places, lambda more: told("entries", more))
    logs = {log.number: log for place in places for log in place.logs}
    found = {}
    for number, log in logs.items():
        found[number] = health.examine(anchor.trust, log.view, at)
        told("logs", 1)
    for number, error in health.forks({number: log.view for number, log in logs.items()}).items():
        found[number] = replace(found[number], error=found[number].error or error)
        flaws = (*flaws, Flaw(f"log {number}, {logs[number].view.origin}", error))
    studies = _studies(places, books, logs)
    spent = {}
    for digest, facts in studies.items():
        if facts.text is not None:
            spent[digest] = curves(books, logs, digest, facts.text)
            told("budgets", 1)
    verdicts = {}
    for place in places:
        verdicts[place.number] = checking.check(place, anchor, at, just_read=True)
        told("checks", 1)
    alarms, malformed = _alarms(logs, at)
    flaws = (*flaws, *malformed)
    return Desk(anchor, at, tuple(places), books, flaws, found, studies, spent, verdicts, alarms)


def _alarms(logs: Mapping[int, Log], at: datetime) -> tuple[tuple[Told, ...], list[Flaw]]:
    """The alarms of all logs, each once, the newest first."""
    found: dict[tuple[str, int], Told] = {}
    flaws = []
    for number, log in logs.items():
        try:
            alarms = alarms_of(log.view)
        except ResidencyError as e:
            flaws.append(Flaw(f"an alarm of log {log.view.origin}", e))
            continue
        stand = standing(alarms, at)
        for alarm in alarms:
            found.setdefault((log.view.origin, alarm.index), Told(number, alarm, alarm in stand))
    return tuple(sorted(found.values(), key=lambda t: t.alarm.at, reverse=True)), flaws


def _studies(places: Sequence[Place], books: Books, logs: Mapping[int, Log]) -> dict[str, StudyFacts]:
    found: dict[str, StudyFacts] = {}
    for place in places:
        if place.study is not None and place.study[0] not in found:
            digest, text = place.study
            found[digest] = StudyFacts(digest, text.name, text, place)
    for row in books.all("SELECT DISTINCT study FROM kinds WHERE study != '' ORDER BY study"):
        if row["study"] not in found:
            found[row["study"]] = StudyFacts(row["study"], _named(books, logs, row["study"]))
    return found


def _named(books: Books, logs: Mapping[int, Log], digest: str) -> str:
    rows = books.all(
        "SELECT log, idx FROM entry WHERE study = ? AND kind = 'study' ORDER BY log, idx LIMIT 1", (digest,)
    )
    name = logs[rows[0]["log"]].view.entries[rows[0]["idx"]].body.get("name") if rows else None
    return name if isinstance(name, str) else digest[:12]
