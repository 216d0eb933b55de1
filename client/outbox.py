"""Signed answers on their way to the operator: durable here before the first attempt, gone only once they are there.

`outbox/` waits, `outbox/delivered/` is at the operator, `outbox/refused/` the operator refused, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.books import Books
from client.governance import GovernanceClient
from client.standing import Standing
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault, InputError, Refused, ResidencyError
from compliance.files import read_bytes, sync_folder, write_durably
from compliance.governance import MOST_STATEMENT
from compliance.statements import Judged, judge

# What the door says about the caller, not about the statement: the statement waits.
_WAITS: Final = frozenset(
    {"RSD-6013", "RSD-6203", "RSD-6205", "RSD-6206", "RSD-6207", "RSD-6208", "RSD-6209", "RSD-6210"}
    | {"RSD-6303", "RSD-6304"}
)


@dataclass(frozen=True)
class Delivery:
    """What became of one file of the outbox; `error` is None if the operator has it."""

    file: str
    error: ResidencyError | None


def waiting(home: Path) -> list[Path]:
    """The files that wait, in order of their names."""
    return sorted((home / "outbox").glob("*.json"))


def put(books: Books, data: bytes, what: str) -> Judged:
    """Judge a statement by this site's own people, log it and queue it.

    A statement that is in the outbox or was delivered is not queued again. Raises what `compliance.statements.judge`
    raises.
    """
    judged = judge(books.anchor, data, what, books.name, now())
    folder = books.home.path / "outbox"
    if not any((folder / place / judged.file_name).exists() for place in (".", "delivered")):
        body = {"act": "queued", "statement": judged.kind, "digest": judged.digest, "study": judged.study}
        books.record("answer", body, "")
        write_durably(folder / judged.file_name, data.rstrip(b"\n") + b"\n")
    return judged


def deliver(books: Books, standing: Standing, client: GovernanceClient) -> Iterator[Delivery]:
    """Hand over every file that waits, if the site's rules let answers out.

    Raises PeerUnreachable RSD-6301, Refused RSD-3100, and what the door refuses the site itself with: the rest waits.
    """
    for file in waiting(books.home.path):
        data = read_bytes(file, "a queued answer", MOST_STATEMENT)
        try:
            study = judge(books.anchor, data, file.name, books.name, now()).study
        except (CheckFailed, InputError, Refused) as e:
            yield _refused(books, file, e)
            continue
        standing.check("answer", study)
        try:
            client.answer(data)
        except (CheckFailed, InputError, Refused) as e:
            if e.code in _WAITS:
                raise
            yield _refused(books, file, e)
            continue
        _move(file, file.parent / "delivered")
        yield Delivery(file.name, None)


def _refused(books: Books, file: Path, error: ResidencyError) -> Delivery:
    books.record_refusal(error, "")
    reason = canonical({**error.as_json(), "at": rfc3339(now())})
    write_durably(file.parent / "refused" / f"{file.stem}.error", reason)
    _move(file, file.parent / "refused")
    return Delivery(file.name, error)


def _move(file: Path, folder: Path) -> None:
    """Another process may have moved it already: both have then heard the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.replace(folder / file.name)
        sync_folder(folder)
        sync_folder(file.parent)
    except FileNotFoundError:
        return
    except OSError as e:
        raise EnvironmentFault(
            "RSD-7001",
            f"cannot move {file}: {e.strerror}",
            found=e.strerror,
            next="check the disk and the folder's owner",
        ) from e
