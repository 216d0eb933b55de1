"""A witness never cosigns two histories of one log."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.witness import WitnessStore

KEY = Ed25519PrivateKey.generate()
LOG = KEY.public_key()
WITNESS = Ed25519PrivateKey.generate()
NAME = "berta.example"
ORIGIN = "anna.example/log"
LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(20)]
FORK = [*LEAVES[:4], merkle.leaf_hash(b"other"), *LEAVES[5:]]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[WitnessStore]:
    with WitnessStore(tmp_path / "witness.sqlite", NAME, WITNESS) as opened:
        yield opened


def signed(size: int, leaves: list[bytes] = LEAVES, origin: str = ORIGIN, key: Ed25519PrivateKey = KEY) -> str:
    return checkpoint.sign(Checkpoint(origin, size, merkle.root(leaves[:size])), key)


def proof(old: int, new: int, leaves: list[bytes] = LEAVES) -> tuple[bytes, ...]:
    return merkle.consistency_proof(merkle.subtrees_of(leaves), old, new)


def refused(code: str, size: int, old: int, witness: WitnessStore, leaves: list[bytes] = LEAVES) -> CheckFailed:
    before = witness.last(ORIGIN)
    steps = proof(old, size, leaves) if old <= size else ()
    with pytest.raises(CheckFailed) as e:
        witness.cosign(signed(size, leaves), LOG, old, steps)
    assert e.value.code == code
    assert witness.last(ORIGIN) == before
    return e.value


def test_a_growing_log_is_cosigned(witness: WitnessStore) -> None:
    assert witness.last(ORIGIN) is None
    old = 0
    for new in (0, 5, 6, 13):
        done = witness.cosign(signed(new), LOG, old, proof(old, new), origin=ORIGIN)
        assert done.size == new
        at = cosign.verify(note.parse(signed(new)).text, note.parse_line(done.line), WITNESS.public_key())
        assert at > 1_700_000_000
        assert witness.last(ORIGIN) == (new, merkle.root(LEAVES[:new]))
        old = new
    assert [checkpoint.parse_text(note.parse(n).text).size for n in witness.notes(ORIGIN)] == [0, 5, 6, 13]
    assert all(cosign.cosigners(note.parse(n), {NAME: WITNESS.public_key()}) for n in witness.notes(ORIGIN))


def test_asking_again_gives_the_same_cosignature(witness: WitnessStore) -> None:
    first = witness.cosign(signed(5), LOG, 0, ())
    assert witness.cosign(signed(5), LOG, 0, ()) == first
    assert witness.cosign(signed(5), LOG, 5, ()) == first
    assert len(witness.notes(ORIGIN)) == 1


def test_forks_and_rollbacks_are_refused_with_both_sides(witness: WitnessStore) -> None:
    witness.cosign(signed(9), LOG, 0, ())
    held = merkle.root(LEAVES[:9]).hex()
    fork = refused("RSD-5040", 9, 9, witness, FORK)
    assert fork.found == f"9 entries with root {merkle.root(FORK[:9]).hex()}"
    assert fork.limit == f"9 entries with root {held}"
    rollback = refused("RSD-5041", 8, 8, witness)
    assert "8 entries" in rollback.found
    assert held in rollback.limit
    assert "9 entries" in refused("RSD-5043", 12, 5, witness).limit
    hidden = refused("RSD-5011", 12, 9, witness, FORK)
    assert held in hidden.limit
    with pytest.raises(CheckFailed, match="RSD-5011"):
        witness.cosign(signed(12), LOG, 9, ())
    witness.cosign(signed(12), LOG, 9, proof(9, 12))


def test_two_processes_of_one_witness_do_not_cosign_a_fork(tmp_path: Path) -> None:
    stores = [WitnessStore(tmp_path / "w.sqlite", NAME, WITNESS) for _ in range(2)]

    def ask(i: int) -> str:
        try:
            return str(stores[i].cosign(signed(9, (LEAVES, FORK)[i]), LOG, 0, ()).size)
        except CheckFailed as e:
            return e.code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, range(2))) == ["9", "RSD-5040"]
    for store in stores:
        store.close()


def test_memory_survives_a_restart(tmp_path: Path) -> None:
    with WitnessStore(tmp_path / "w.sqlite", NAME, WITNESS) as witness:
        line = witness.cosign(signed(9), LOG, 0, ()).line
    with WitnessStore(tmp_path / "w.sqlite", NAME, WITNESS) as witness:
        refused("RSD-5040", 9, 9, witness, FORK)
        assert witness.cosign(signed(9), LOG, 0, ()).line == line


def test_the_memory_is_written_before_the_answer(witness: WitnessStore) -> None:
    """If it cannot be remembered, nothing is cosigned."""
    witness._database._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON cosigned BEGIN SELECT raise(ABORT, 'full'); END"
    )
    with pytest.raises(Exception, match="RSD-5030"):
        witness.cosign(signed(5), LOG, 0, ())
    assert witness.last(ORIGIN) is None


def test_other_keys_and_origins_are_refused(witness: WitnessStore) -> None:
    other = Ed25519PrivateKey.generate()
    with pytest.raises(CheckFailed, match="RSD-5002"):
        witness.cosign(signed(5, key=other), LOG, 0, ())
    with pytest.raises(CheckFailed, match="RSD-5005"):
        witness.cosign(signed(5), LOG, 0, (), origin="carl.example/log")
    witness.cosign(signed(5), LOG, 0, ())
    with pytest.raises(CheckFailed, match="RSD-5042"):
        witness.cosign(signed(6, key=other), other.public_key(), 5, proof(5, 6))
    with pytest.raises(CheckFailed, match="RSD-5042"):
        witness.cosign(signed(5, origin="carl.example/log"), LOG, 0, ())
    witness.cosign(signed(6, origin="carl.example/log", key=other), other.public_key(), 0, ())
    assert witness.last(ORIGIN) == (5, merkle.root(LEAVES[:5]))
    with pytest.raises(InputError, match="RSD-5001"):
        witness.cosign("nothing", LOG, 0, ())


def test_kept_notes_hold_no_line_that_nobody_verified(witness: WitnessStore) -> None:
    spoiled = signed(5) + note.Signature(NAME + ".x", b"1234", b"garbage").line()
    witness.cosign(spoiled, LOG, 0, ())
    (kept,) = witness.notes(ORIGIN)
    assert [s.name for s in note.parse(kept).signatures] == [ORIGIN, NAME]


def test_the_file_is_private(witness: WitnessStore, tmp_path: Path) -> None:
    witness.cosign(signed(5), LOG, 0, ())
    assert (tmp_path / "witness.sqlite").stat().st_mode & 0o777 == 0o600


def test_nothing_is_cosigned_that_nobody_will_remember(witness: WitnessStore, tmp_path: Path) -> None:
    witness.cosign(signed(5), LOG, 0, ())
    (tmp_path / "witness.sqlite").rename(tmp_path / "put-away")
    with pytest.raises(EnvironmentFault, match="RSD-5030"):
        witness.cosign(signed(8), LOG, 5, proof(5, 8))
