"""The check of one place, as it is on the disk now, step by step; what a page shows while it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from compliance.desk.health import Health, examine
from compliance.desk.sources import Place, read_place
from compliance.errors import InternalBug, ResidencyError
from compliance.log.view import LogView
from compliance.release.bundle_folder import read_folder
from compliance.release.report import STEPS, Found, Report, Step, StepResult, step_error
from compliance.release.verify import verify_bundle
from compliance.release.verify_file import Given, judge, read_given
from compliance.trust.root import Anchor

Told = Callable[[StepResult], None]
_READ = Step(1, "RSD-9181", "reading", "what is there can be read, and every entry is the one that its hash commits to")


@dataclass(frozen=True)
class Verdict:
    """What a check of a place found, and when it was begun."""

    report: Report
    at: datetime


def steps_of(place: Place) -> tuple[Step, ...]:
    """The steps of its check, as far as they are known before: those for a single log are told with their results."""
    if place.form == "bundle":
        return STEPS
    if place.form != "run folder":
        return ()
    return (_READ, *(_log_step(i, log.view.member) for i, log in enumerate(place.logs, 2)))


def check(
    place: Place, anchor: Anchor, at: datetime, told: Told = lambda _: None, *, just_read: bool = False
) -> Report:
    """Read `place` again and check it as `residency verify` does; of a run folder each log by its checkpoints.

    `just_read`: a run folder or a log.db need not be read again.

    Never raises for what is there: see `Report.error`.
    """
    try:
        if place.form == "bundle":
            return verify_bundle(read_folder(place.path), anchor, at, told)
        if place.form == "run folder":
            return _check_logs(place if just_read else read_place(place.path, place.number), anchor, at, told)
        return _check_file(place, anchor, at, told, just_read=just_read)
    except ResidencyError as e:
        first = (*steps_of(place), _READ)[0]
        error = step_error(first, e)
        result = StepResult(first, "FAIL", error=error)
        told(result)
        return Report((result,), error=error)


def _check_file(place: Place, anchor: Anchor, at: datetime, told: Told, *, just_read: bool) -> Report:
    file = place.path / "log.db" if place.path.is_dir() else place.path
    view = place.logs[0].view if just_read and place.logs else None
    report = judge(Given(file, read_given(file), anchor, at, view=view))
    for result in report.results:
        told(result)
    return report


def _check_logs(now: Place, anchor: Anchor, at: datetime, told: Told) -> Report:
    results: list[StepResult] = []

    def add(result: StepResult) -> None:
        results.append(result)
        told(result)

    flaw = now.flaws[0] if now.flaws else None
    if flaw is not None:
        add(StepResult(_READ, "FAIL", error=step_error(_READ, flaw.error)))
    else:
        shown = sum(len(log.view.entries) for log in now.logs)
        add(StepResult(_READ, "ok", Found((f"{shown} entries of {len(now.logs)} logs are those that were hashed",))))
    for number, log in enumerate(now.logs, 2):
        step = _log_step(number, log.view.member)
        health = examine(anchor.trust, log.view, at)
        if health.error is not None:
            add(StepResult(step, "FAIL", error=step_error(step, health.error)))
        else:
            add(StepResult(step, "ok", _found(log.view, health)))
    wrong = next((r.error for r in results if r.error), None)
    return Report(tuple(results), error=wrong)


def _log_step(number: int, member: str) -> Step:
    question = f"the log of {member} is signed by its key, and leads to every checkpoint that was signed and cosigned"
    return Step(number, "RSD-9182", f"log {member}", question)


def _found(view: LogView, health: Health) -> Found:
    last = health.last
    who = ", ".join(last.cosigners) if last and last.cosigners else "nobody else"
    size = last.size if last else 0
    proved = [f"log {view.origin}: {view.size} entries, {len(view.entries)} shown; at {size} entries cosigned by {who}"]
    asserted = ["that its log records what happened"]
    if view.size > size or not (last and last.cosigners):
        asserted.append(f"what its log holds after entry {max(size, 1) - 1}: nobody else cosigned it")
    return Found(tuple(proved), tuple((view.member, text) for text in asserted))


class Live:
    """A check that runs beside the page that shows it. `report` is there when `next` has said that it is over."""

    def __init__(self, place: Place, anchor: Anchor, at: datetime, ended: Callable[[Verdict], None]) -> None:
        """Starts at once; `ended` hears the verdict when it is over, whether or not somebody still reads the page."""
        self.place, self.report, self.steps, self._over = place, Report(()), steps_of(place), False
        self._queue: queue.SimpleQueue[StepResult | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(anchor, at, ended), daemon=True).start()

    def next(self) -> StepResult | None:
        """Waits for the next step's result; None when the check is over."""
        if self._over or (result := self._queue.get()) is None:
            self._over = True
            return None
        return result

    def rest(self) -> Iterator[StepResult]:
        """What comes after the steps that were known before."""
        while (result := self.next()) is not None:
            yield result

    def _run(self, anchor: Anchor, at: datetime, ended: Callable[[Verdict], None]) -> None:
        try:
            self.report = check(self.place, anchor, at, self._queue.put)
        except Exception as e:  # noqa: BLE001 - the page says that the check broke off, whatever broke it
            bug = InternalBug("RSD-7000", f"a bug: {type(e).__name__} ended the check", next="report it")
            self.report = Report((), error=bug)
        finally:
            ended(Verdict(self.report, at))
            self._queue.put(None)


def headline(report: Report) -> str:
    """The verdict in a few words; never by colour alone."""
    if report.error is not None:
        wrong = report.failed
        number = f"step {wrong.step.number} ({wrong.step.name}) is false" if wrong else "it broke off"
        return f"FALSE: {number}"
    return f"VERIFIED: {len(report.results)} of {len(report.results)} steps hold"
