"""The witness's answers, by the letter of c2sp.org/tlog-witness; and what it keeps of a log that lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from compliance.canonical import b64encode
from compliance.errors import InputError
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.witness import WitnessStore
from compliance.log.witness_protocol import SIZE_TYPE, Answer, Request, WitnessPart, parse_lines, parse_request

KEY, OTHER, WITNESS = (Ed25519PrivateKey.generate() for _ in range(3))
NAME, ORIGIN = "patients-union", "residency/tiny/a"
LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(20)]
FORK = [*LEAVES[:4], merkle.leaf_hash(b"other"), *LEAVES[5:]]


class Asked:
    """A witness whose sayings are kept, and requests for it."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.store = WitnessStore(path, NAME, WITNESS)
        self.part = WitnessPart(self.store, {ORIGIN: KEY.public_key()}, self.said.append)

    def ask(
        self, old: int, new: int, leaves: list[bytes] = LEAVES, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN
    ) -> Answer:
        proof = merkle.consistency_proof(merkle.subtrees_of(leaves), old, new) if old <= new else ()
        return self.part.answer(Request(old, proof, signed(new, leaves, key, origin)).encode())


def signed(size: int, leaves: list[bytes] = LEAVES, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> str:
    return checkpoint.sign(Checkpoint(origin, size, merkle.root(leaves[:size])), key)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path / "witness.db")
    yield made
    made.store.close()


def test_a_log_that_grows_gets_a_cosignature_each_time(asked: Asked) -> None:
    for old, new in ((0, 5), (5, 5), (5, 13), (13, 20)):
        answer = asked.ask(old, new)
        assert answer.status == 200
        (line,) = parse_lines(answer.body)
        assert cosign.verify(note.parse(signed(new)).text, line, WITNESS.public_key()) > 1_700_000_000
        assert asked.store.last(ORIGIN) == (new, merkle.root(LEAVES[:new]))
    assert asked.said == []


def test_each_wrong_request_has_its_status(asked: Asked) -> None:
    asked.ask(0, 5)
    assert asked.ask(0, 3, origin="residency/tiny/nobody").status == 404
    assert asked.ask(5, 9, key=OTHER).status == 403
    assert asked.ask(9, 7).status == 400
    assert asked.ask(0, 9) == Answer(409, "5\n", SIZE_TYPE)
    assert asked.ask(0, 5) == Answer(409, "5\n", SIZE_TYPE)  # the same checkpoint, but by another old size
    assert asked.ask(3, 4) == Answer(409, "5\n", SIZE_TYPE)  # a rollback
    short = Request(5, (), signed(9))
    assert asked.part.answer(short.encode()).status == 422
    assert asked.part.answer(Request(5, (LEAVES[0],) * 3, signed(9)).encode()).status == 422
    assert asked.store.last(ORIGIN) == (5, merkle.root(LEAVES[:5]))


def test_two_histories_are_refused_said_and_kept(asked: Asked) -> None:
    asked.ask(0, 5)
    asked.ask(5, 9)
    answer = asked.ask(9, 9, FORK)
    assert (answer.status, answer.kind == SIZE_TYPE) == (409, False)
    assert asked.ask(9, 12, FORK).status == 422
    assert asked.ask(5, 5, FORK) == Answer(409, "9\n", SIZE_TYPE)  # an old size, another root: that convicts as well
    assert [line.split(":")[0] for line in asked.said] == ["ALARM RSD-5040 fork"]
    (kept,) = asked.store.refused()
    assert (kept.origin, kept.code) == (ORIGIN, "RSD-5040")
    shown = checkpoint.open_signed(kept.note, KEY.public_key(), ORIGIN).checkpoint
    assert (shown.size, shown.root) == (9, merkle.root(FORK[:9]))


def test_a_log_under_another_key_is_refused_said_and_kept(asked: Asked) -> None:
    asked.ask(0, 5)
    asked.part.keys = {ORIGIN: OTHER.public_key()}  # a trust file names another key
    assert asked.ask(5, 9, key=OTHER).status == 403
    assert [r.code for r in asked.store.refused()] == ["RSD-5042"]
    assert asked.said[0].startswith("ALARM RSD-5042 log key changed")


def test_whoever_shows_an_older_checkpoint_convicts_no_log(asked: Asked) -> None:
    asked.ask(0, 5)
    asked.ask(5, 9)
    assert asked.ask(5, 5) == Answer(409, "9\n", SIZE_TYPE)
    assert asked.ask(3, 7) == Answer(409, "9\n", SIZE_TYPE)
    assert (asked.store.refused(), asked.said) == ((), [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 5",
        b"old 05\n\nx",
        b"old -1\n\nx",
        b"old 5 \n\nx",
        b"OLD 5\n\nx",
        b"old 9999999999999999\n\nx",
        b"old 0\nAAAA\n\n" + signed(5).encode(),
        b"old 0\n\n\n" + signed(5).encode(),
        b"old 0\r\n\r\n" + signed(5).encode(),
        b"old 0\n" + b"\n".join(b64encode(h).encode() for h in LEAVES * 4) + b"\n\n" + signed(5).encode(),
        b"old 0\n\n" + b"\xff" * 100,
        b"old 0\n\n" + b"x" * 100_000,
        b"old 0\n\n" + signed(5).encode().removesuffix(b"\n"),
        b"old 0\n\n" + note.sign("residency/tiny/a\n5\nAAAA\n", ORIGIN, KEY).encode(),
    ],
    ids=range(15),
)
def test_what_is_malformed_is_a_bad_request(asked: Asked, body: bytes) -> None:
    assert asked.part.answer(body).status == 400
    assert asked.store.seen() == ()


@given(st.binary(max_size=400) | st.binary(max_size=60).map(lambda b: b"old 3\n" + b + b"\n\n" + signed(5).encode()))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        found = parse_request(data)
    except InputError:
        return
    assert found.encode() == data


@given(st.integers(0, 2**53 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_what_is_encoded_is_parsed_again(old: int, proof: list[bytes]) -> None:
    asked_for = Request(old, tuple(proof), signed(5))
    assert parse_request(asked_for.encode()) == asked_for


def test_a_memory_that_cannot_be_written_cosigns_nothing(asked: Asked) -> None:
    asked.store.close()
    answer = asked.ask(0, 5)
    assert (answer.status, answer.body) == (500, "RSD-5030\n")
    assert "RSD-5030" in asked.said[0]
