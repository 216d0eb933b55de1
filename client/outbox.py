"""Signed answers on their way to the operator: durable here before the first attempt, gone only once they are there.

`outbox/` waits, `outbox/delivered/` is at the operator, `outbox/refused/` the operator refused, each with its reason.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.books import Books
from client.governance import GovernanceClient
from client.standing import Standing
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.errors import CheckFailed, EnvironmentFault, InputError, PeerUnreachable, Refused, ResidencyError
from compliance.files import read_bytes, sync_folder, write_durably
from compliance.governance import MOST_STATEMENT
from compliance.statements import Judged, judge

# What is said about the statement itself, here or there: it will never be taken. After anything else it waits.
_FINAL: Final = frozenset(
    {"RSD-6305", "RSD-6306", "RSD-6308"}  # of another site, of no kind that is delivered, one too many
    | {"RSD-6006", "RSD-6011", "RSD-6012", "RSD-6217"}  # its signatures and its kind
    | {"RSD-2205", "RSD-2206"}  # its form
)
# Of the statement if it is read here; the operator says so of its own files too.
_MALFORMED: Final = frozenset({"RSD-2001", "RSD-2002", "RSD-2003", "RSD-2004"})
# What the door says about the caller: it would say the same of every other statement.
_CALLER: Final = frozenset(
    {"RSD-6013", "RSD-6203", "RSD-6205", "RSD-6206", "RSD-6207", "RSD-6208", "RSD-6209", "RSD-6210"}
    | {"RSD-6215", "RSD-6303", "RSD-6304"}
)


@dataclass(frozen=True)
class Delivery:
    """What became of one file of the outbox; `error` is None if the operator has it. `waits`: it is tried again."""

    file: str
    error: ResidencyError | None
    waits: bool = False


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


def deliver(
    books: Books, standing: Standing, client: GovernanceClient, later: Container[str] = ()
) -> Iterator[Delivery]:
    """Hand over every file that waits, but those named in `later`, if the site's rules let answers out.

    A file that cannot be taken now waits, and holds no other up. Raises PeerUnreachable RSD-6301, Refused RSD-3100, and
    what the door refuses the site itself with: the rest waits.
    """
    for file in waiting(books.home.path):
        if file.name in later:
            continue
        try:
            data = read_bytes(file, "a queued answer", MOST_STATEMENT)
            judged = judge(books.anchor, data, file.name, books.name, now())
        except (CheckFailed, InputError, Refused) as e:
            if file.exists():  # else another process has moved it meanwhile
                yield _untaken(books, file, e, _FINAL | _MALFORMED)
            continue
        standing.check("answer", judged.study)
        try:
            _hand_over(client, data, judged)
        except PeerUnreachable:
            raise
        except ResidencyError as e:
            if e.code in _CALLER:
                raise
            yield _untaken(books, file, e, _FINAL)
            continue
        body = {"act": "delivered", "statement": judged.kind, "digest": judged.digest, "study": judged.study}
        books.record_once("answer", body, "")
        _move(file, file.parent / "delivered")
        yield Delivery(file.name, None)


def _hand_over(client: GovernanceClient, data: bytes, judged: Judged) -> None:
    reply = client.answer(data)
    if reply.digest != judged.digest:
        raise CheckFailed(
            "RSD-6316",
            f"the operator acknowledges another statement than the {judged.kind} that was sent",
            rule="a statement is delivered when the operator names its digest",
            found=reply.digest[:12],
            limit=judged.digest[:12],
            next="ask the operator; the statement stays in the outbox and is sent again",
        )


def _untaken(books: Books, file: Path, error: ResidencyError, final: frozenset[str]) -> Delivery:
    return _refused(books, file, error) if error.code in final else Delivery(file.name, error, waits=True)


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
