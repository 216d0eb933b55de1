"""The withdrawal of subjects: stored and logged, effective from the next batch on, traces purged, spend unchanged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.books import Books
from client.data.identity import subject_key
from client.data.row_index import RowIndex, Withdrawn
from client.data.withdrawals import open_index, purge_cache, raise_stop, subject_withdrawn, withdrawing
from client.home import AgentHome
from client.studies import HeldStudy, held_studies, studies_of
from compliance.canonical import Json, canonical
from compliance.clock import now, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import MOST_BYTES, read_bytes, sync_folder, write_durably
from compliance.study_event import EVALUATION_ROUND

GROUNDS = ("consent", "objection", "erasure", "optout")
_MOST_IDS = 100_000
_LONGEST = 1000  # characters of one line


@dataclass(frozen=True)
class Affected:
    """A round to which this site sent an update before a subject of its dataset was withdrawn.

    Every release of the study that came after it holds that update. `roster_sha256`: the round's roster, if this site
    countersigned one; a release's evidence holds that roster.
    """

    withdrawal: int
    at: str
    ground: str
    dataset: str
    study: str
    name: str
    round: int
    update_sha256: str
    roster_sha256: str


def read_ids(data: bytes) -> list[tuple[str, ...]]:
    """One subject a line, its columns separated by tabs; empty lines do not count.

    Raises InputError RSD-2420, which tells numbers of lines and no line.
    """
    if len(data) > MOST_BYTES:
        raise _bad_ids("more bytes")
    try:
        lines = [line.strip("\r") for line in data.decode("utf-8").split("\n")]
    except UnicodeDecodeError as e:
        raise _bad_ids("bytes that are no UTF-8") from e
    found = [tuple(part.strip() for part in line.split("\t")) for line in lines if line.strip()]
    if not found:
        raise _bad_ids("no identifier")
    if len(found) > _MOST_IDS or any(len(line) > _LONGEST for line in lines):
        raise _bad_ids("more lines, or a longer line")
    return found


def _bad_ids(found: str) -> InputError:
    return InputError(
        "RSD-2420",
        "the identifiers on stdin cannot be used",
        rule="one subject a line, UTF-8; several columns separated by a tab",
        found=found,
        limit=f"1 to {_MOST_IDS} lines of at most {_LONGEST} characters",
        next="residency agent subject withdraw --ground GROUND < FILE",
    )


def withdraw(home: AgentHome, ids: Sequence[tuple[str, ...]], ground: str) -> int:
    """Withdraw these subjects; returns the number of the withdrawal. When it returns, everything is done.

    Stored are keyed hashes. The log holds the ground and how many were named, in a bucket, before it takes effect. What
    comes back, and what is logged, is the same whether or not an extract holds them: nobody learns who is a patient.
    Raises InputError RSD-2420 before anything is stored, Refused RSD-2431 if another withdrawal has to come first, and
    EnvironmentFault RSD-2421, RSD-5030, RSD-7001, RSD-2419; what was stored is then finished by the next call or start.
    """
    _check_parts(home, ids)
    secret = home.secret()
    subjects = [subject_key(secret, parts) for parts in ids]
    index, books = open_index(home), Books(home)
    try:
        with withdrawing(home.path):
            with index.writing() as changes:
                number = changes.next_number()
                named = _named(secret, number, subjects)
                _check_owed(books, number, named)
                many = bucket(len(set(subjects)))
                body: dict[str, Json] = {"number": number, "ground": ground, "subjects": many, "named": named}
                books.record("withdrawal", body, "")
                changes.withdraw(number, rfc3339(now()), ground, subjects)
            _finish(home, index, books)
    finally:
        index.close()
        books.close()
    return number


def _check_parts(home: AgentHome, ids: Sequence[tuple[str, ...]]) -> None:
    """Every line has as many columns as some extract's people are known by; another one would match nobody, for ever.

    Raises InputError RSD-2420. Without a registered extract any number will do.
    """
    known = {len(d.patient_columns) for d in home.registry().datasets}
    wrong = sorted({len(parts) for parts in ids} - known) if known else []
    if wrong:
        asked = "; ".join(sorted({" TAB ".join(d.patient_columns) for d in home.registry().datasets}))
        raise InputError(
            "RSD-2420",
            "the identifiers have another number of columns than any registered extract's patient columns",
            rule="one subject a line, its columns separated by a tab, in the order of --patient-column",
            found=f"lines of {', '.join(map(str, wrong))} columns",
            limit=f"{' or '.join(map(str, sorted(known)))} columns",
            next=f"write every column of a patient on each line: {asked}",
        )


def finish_withdrawals(books: Books) -> None:
    """Before a site works: every withdrawal of its log is in effect, and what one that was cut short left is purged.

    Raises Refused RSD-2431 for an index that is older than the log: it has forgotten who withdrew.
    """
    logged = max((int(e.body["number"]) for e in books.log.entries(0, kind="withdrawal")), default=0)
    if not logged:
        return
    index = open_index(books.home)
    try:
        with withdrawing(books.home.path):
            known = max((w.number for w in index.withdrawals()), default=0)
            if known < logged:
                raise _forgotten(known, logged)
            _finish(books.home, index, books)
    finally:
        index.close()


def _named(secret: bytes, number: int, subjects: Iterable[bytes]) -> str:
    """Which subjects a withdrawal names, under the site's secret: says nothing without it."""
    return hmac.digest(secret, b"residency.withdrawal/1" + b"".join([str(number).encode(), *sorted(set(subjects))]),
                       hashlib.sha256).hex()  # fmt: skip


def _check_owed(books: Books, number: int, named: str) -> None:
    """If the log is ahead of the index, only the withdrawal that it waits for comes next. Raises Refused RSD-2431."""
    logged = [e.body for e in books.log.entries(0, kind="withdrawal") if int(e.body["number"]) >= number]
    if logged and all(body.get("named") != named for body in logged if body["number"] == number):
        raise _forgotten(number - 1, max(int(body["number"]) for body in logged))


def _forgotten(known: int, logged: int) -> Refused:
    return Refused(
        "RSD-2431",
        "a withdrawal in the site's log is not in effect",
        rule="whoever has withdrawn stays out",
        found=f"{known} withdrawals in rows.db",
        limit=f"{logged} in the log",
        next="restore the newest rows.db; if the command was interrupted: agent subject withdraw, with the same ids",
    )


def bucket(number: int) -> str:
    """How many were named, as it is logged."""
    return "fewer than 10" if number < 10 else "10 to 99" if number < 100 else "100 or more"


def _finish(home: AgentHome, index: RowIndex, books: Books) -> None:
    for pending in index.withdrawals(pending=True):
        with index.writing() as changes:
            sources = changes.sources(pending.extracts)
        for source in sources:
            raise_stop(home.path, source, pending.number)
        datasets = {d.name for d in home.registry().datasets if d.source in sources}
        for study in studies_of(home, datasets) if sources else ():
            purge_cache(study.folder / "cache")
            for folder in study.rounds():
                _purge_round(books, study, folder)
        with index.writing() as changes:
            changes.finish(pending.number)


def _purge_round(books: Books, study: HeldStudy, folder: Path) -> None:
    """An update whose round has no roster yet is not sent, or not again; the round is over at this site. Logged first.

    So is the evaluation's histogram (round 0), until the study is closed: no roster tells that it was received.

    Once the site has countersigned the roster, the update was received and counted: nothing is left to keep back.
    """
    updates = [*sorted(folder.glob("update-*.f32")), *folder.glob("histogram-*.json")]
    if not updates or _counted(books, study, folder):
        return
    attempt = int(updates[-1].stem.partition("-")[2])
    body: dict[str, Json] = {**subject_withdrawn().as_json(), "round": int(folder.name), "attempt": attempt}
    if not (folder / "failed.json").exists():
        books.record("failure", body, study.digest)
        write_durably(folder / "failed.json", canonical(body))
    for file in updates:
        file.unlink(missing_ok=True)
    sync_folder(folder)


def _counted(books: Books, study: HeldStudy, folder: Path) -> bool:
    if int(folder.name) == EVALUATION_ROUND:
        return any(True for _ in books.log.entries(0, study=study.digest, kind="close"))
    return (folder / "roster.sha256").exists() and (folder / "committed.json").exists()


def affected(home: AgentHome, study: str = "") -> list[Affected]:
    """Rounds that got an update from a dataset before a subject of it was withdrawn; `study`: a digest, or its start.

    Whether the subject was drawn into a batch is not known to anybody: each such round is only potentially affected.
    """
    index = open_index(home)
    try:
        withdrawals = index.withdrawals()
    finally:
        index.close()
    studies = [s for s in held_studies(home) if s.dataset and s.digest.startswith(study)]
    books = Books(home)
    try:
        return [row for s in studies for row in _affected(books, s, withdrawals)]
    finally:
        books.close()


def _affected(books: Books, study: HeldStudy, withdrawals: Iterable[Withdrawn]) -> Iterable[Affected]:
    sent = [e for e in books.log.entries(0, study=study.digest, kind="transfer") if "round" in e.body]
    numbers = {e.body["number"]: e.index for e in books.log.entries(0, kind="withdrawal")}
    for withdrawn in withdrawals:
        if study.dataset not in withdrawn.extracts:
            continue
        before = {int(e.body["round"]): e.body for e in sent if e.index < numbers.get(withdrawn.number, 0)}
        for number, body in sorted(before.items()):
            roster = study.folder / "rounds" / f"{number:03d}" / "roster.sha256"
            yield Affected(
                withdrawal=withdrawn.number,
                at=withdrawn.at,
                ground=withdrawn.ground,
                dataset=study.dataset,
                study=study.digest,
                name=study.name,
                round=number,
                update_sha256=str(body["sha256"]),
                roster_sha256=read_bytes(roster, "roster digest").decode("ascii") if roster.exists() else "",
            )
