"""Which answers leave the outbox, and why: only what is said about the statement itself is final."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from client import outbox
from client.books import Books
from client.governance import GovernanceClient
from client.standing import Standing
from compliance.errors import CheckFailed, InputError, Refused, ResidencyError
from compliance.governance import AnswerReply
from tests.governance import Hub, digest_of, hub


@pytest.fixture(scope="module")
def service() -> Iterator[Hub]:
    with hub() as opened:
        yield opened


@pytest.fixture
def books(service: Hub) -> Iterator[Books]:
    books = Books(service.home("a"))
    yield books
    for file in (books.home.path / "outbox").rglob("*.*"):
        file.unlink()
    books.close()


class Says:
    """The operator's answer to every statement: an error, another digest, or what is right."""

    def __init__(self, error: ResidencyError | None = None, digest: str = "") -> None:
        self._error, self._digest = error, digest

    def answer(self, data: bytes) -> AnswerReply:
        if self._error is not None:
            raise self._error
        return AnswerReply(digest=self._digest or digest_of(data), fresh=True)


def queued(service: Hub, books: Books, count: int = 1, first: int = 0) -> list[Path]:
    for i in range(first, first + count):
        outbox.put(books, service.made.advice("a", f"{i:064d}"), "advice")
    return outbox.waiting(books.home.path)


def deliver(books: Books, says: Says, later: tuple[str, ...] = ()) -> list[outbox.Delivery]:
    return list(outbox.deliver(books, Standing(books), cast("GovernanceClient", says), later))


@pytest.mark.parametrize(
    "code", ["RSD-6305", "RSD-6306", "RSD-6308", "RSD-6011", "RSD-6012", "RSD-6006", "RSD-2205", "RSD-2206", "RSD-6217"]
)
def test_what_is_said_about_the_statement_is_final(service: Hub, books: Books, code: str) -> None:
    file = queued(service, books)[0]
    (done,) = deliver(books, Says(Refused(code, "no")))
    assert not done.waits
    assert not file.exists()
    assert (file.parent / "refused" / file.name).exists()
    assert (file.parent / "refused" / f"{file.stem}.error").exists()


@pytest.mark.parametrize("code", ["RSD-2005", "RSD-2211", "RSD-2002", "RSD-6307", "RSD-6309", "RSD-1210", "RSD-7777"])
def test_anything_else_leaves_it_waiting_and_holds_no_other_up(service: Hub, books: Books, code: str) -> None:
    files = queued(service, books, 2)
    done = deliver(books, Says(InputError(code, "trouble")))
    assert [d.file for d in done if d.waits] == [f.name for f in files]
    assert outbox.waiting(books.home.path) == files
    assert [d.file for d in deliver(books, Says(), (files[0].name,))] == [files[1].name]


@pytest.mark.parametrize("code", ["RSD-6215", "RSD-6303", "RSD-6207", "RSD-6013"])
def test_what_is_said_about_the_caller_ends_the_turn(service: Hub, books: Books, code: str) -> None:
    files = queued(service, books, 2)
    with pytest.raises(Refused, match=code):
        deliver(books, Says(Refused(code, "not you")))
    assert outbox.waiting(books.home.path) == files


def test_a_clock_that_is_wrong_here_refuses_nothing(
    service: Hub, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = queued(service, books)

    def early(*_: object) -> object:
        raise Refused("RSD-2211", "dated in the future")

    monkeypatch.setattr(outbox, "judge", early)
    (done,) = deliver(books, Says())
    assert done.waits
    assert outbox.waiting(books.home.path) == files


def test_a_damaged_file_is_refused_here(service: Hub, books: Books) -> None:
    file = queued(service, books)[0]
    file.write_bytes(b"{")
    (done,) = deliver(books, Says())
    assert done.error is not None
    assert (done.error.code, done.waits, file.exists()) == ("RSD-2002", False, False)


def test_delivered_is_logged_before_the_move_and_only_for_the_right_digest(
    service: Hub, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = queued(service, books, first=77)[0]  # of no other test
    (done,) = deliver(books, Says(digest="ab" * 32))
    assert isinstance(done.error, CheckFailed)
    assert (done.error.code, done.waits, file.exists()) == ("RSD-6316", True, True)
    assert acts(books) == ["queued"]

    def broken(*_: object) -> None:
        raise KeyboardInterrupt  # the process ends here

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "_move", broken)
        with pytest.raises(KeyboardInterrupt):
            deliver(books, Says())
    assert acts(books) == ["queued", "delivered"]
    deliver(books, Says())
    assert acts(books) == ["queued", "delivered"], "after a crash it stands there once"
    assert (file.parent / "delivered" / file.name).exists()


def acts(books: Books) -> list[str]:
    """What the log says of the statement queued last."""
    bodies = [e.body for e in books.log.entries(kind="answer")]
    return [str(b["act"]) for b in bodies if b["digest"] == bodies[-1]["digest"]]
