"""The store: what it keeps, proves, signs and notices."""

from __future__ import annotations

import re
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed, EnvironmentFault, InputError
from compliance.log import checkpoint, cosign, merkle, note, tree
from compliance.log.store import Draft, LogStore
from tests.log_drafts import charge_body, commit, commit_body, refusal_body

KEY = Ed25519PrivateKey.generate()
PEER = Ed25519PrivateKey.generate()
PEERS = {"berta.example": PEER.public_key()}
ORIGIN = "anna.example/log"
STUDY = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "log.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[LogStore]:
    with LogStore.open(path, ORIGIN, KEY) as opened:
        yield opened


def fill(store: LogStore, count: int) -> None:
    store.append_many([commit(i) for i in range(count)])


def tampered(path: Path, *statements: str, values: tuple[object, ...] = ()) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement, values)
    connection.close()


def test_what_was_appended_is_there_after_reopening(path: Path) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        first = store.append("study", {"name": "x"}, STUDY)
        more = store.append_many([commit(i, study=STUDY if i % 2 else "") for i in range(6)])
        assert [a.index for a in (first, *more)] == list(range(7))
    with LogStore.open(path, ORIGIN, KEY) as store:
        assert store.size == store.fsck() == 7
        assert store.leaf_hashes() == [first.leaf_hash, *(a.leaf_hash for a in more)]
        assert store.entry(0).body == {"name": "x"}
        assert [e.index for e in store.entries(study=STUDY)] == [0, 2, 4, 6]
        assert [e.index for e in store.entries(1, 5, study=STUDY, kind="commit")] == [2, 4]
        assert store.entries(7) == []


def test_a_body_that_speaks_of_a_kind_or_study_is_not_of_it(path: Path) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        said = f'"kind":"charge","study":"{STUDY}"'
        end = f'"kind":"charge","salt":"{"0" * 32}","study":"{STUDY}","v":1}}'
        store.append("refusal", {**refusal_body(), "message": said, "next": end})
        store.append("charge", charge_body(), STUDY)
        assert [e.index for e in store.entries(kind="charge")] == [1]
        assert [e.index for e in store.entries(study=STUDY)] == [1]
        assert [e.index for e in store.entries(study="")] == [0]


def test_only_the_owner_can_read_the_files(store: LogStore, path: Path) -> None:
    fill(store, 3)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert set(modes) >= {"log.sqlite", "log.sqlite-wal"}
    assert set(modes.values()) == {0o600}


def test_commits_reach_the_disk(store: LogStore) -> None:
    connection = store._database._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: fsync at every commit


def test_threads_share_one_store(store: LogStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        indices = list(pool.map(lambda i: store.append("commit", commit_body(i)).index, range(40)))
    assert sorted(indices) == list(range(store.fsck()))


def test_a_bad_entry_stops_its_whole_batch(store: LogStore) -> None:
    fill(store, 2)
    with pytest.raises(InputError, match="RSD-5020"):
        store.append_many([commit(), Draft("gossip", {}), commit()])
    assert store.size == store.fsck() == 2


def test_proofs_verify_against_the_checkpoints(store: LogStore) -> None:
    for _ in range(5):
        fill(store, 3)
        store.checkpoint()
    size = store.size
    points = [checkpoint.open_signed(store.checkpoint(n), store.public_key, ORIGIN).checkpoint for n in range(size + 1)]
    leaves = store.leaf_hashes()
    for new in points[1:]:
        assert new.root == merkle.root(leaves[: new.size])
        merkle.verify_inclusion(leaves[0], 0, new.size, store.inclusion_proof(0, new.size), new.root)
        for old in points[: new.size + 1]:
            proof = store.consistency_proof(old.size, new.size)
            merkle.verify_consistency(old.size, new.size, old.root, new.root, proof)


def test_what_the_log_does_not_have_is_refused(store: LogStore) -> None:
    fill(store, 3)
    for ask in (
        lambda: store.entry(3),
        lambda: store.entry(-1),
        lambda: store.entries(2, 1),
        lambda: store.leaf_hashes(4),
        lambda: store.checkpoint(4),
        lambda: store.inclusion_proof(0, 4),
        lambda: store.consistency_proof(1, 4),
        lambda: store.add_cosignature(2, cosign.cosign("x\n", "berta.example", PEER, 1).line(), PEERS),
    ):
        with pytest.raises(InputError, match="RSD-5034"):
            ask()


def test_cosignatures_are_verified_before_they_are_kept(store: LogStore) -> None:
    fill(store, 3)
    text = note.parse(store.checkpoint()).text
    assert store.cosigned_checkpoints() == ()
    line = cosign.cosign(text, "berta.example", PEER, 1_700_000_000).line()
    stranger = Ed25519PrivateKey.generate()
    for bad in (
        cosign.cosign(text.replace("\n3\n", "\n4\n"), "berta.example", PEER, 1_700_000_000).line(),
        cosign.cosign(text, "berta.example", stranger, 1_700_000_000).line(),
        cosign.cosign(text, "carl.example", stranger, 1_700_000_000).line(),
    ):
        with pytest.raises(CheckFailed, match="RSD-5002"):
            store.add_cosignature(3, bad, PEERS)
    assert store.cosigned_checkpoints() == ()
    assert store.add_cosignature(3, line, PEERS) == store.add_cosignature(3, line, PEERS) == 1_700_000_000
    (kept,) = store.cosigned_checkpoints()
    assert kept == store.checkpoint(3) + line
    assert list(cosign.cosigners(note.parse(kept), PEERS)) == ["berta.example"]


def test_a_file_of_another_log_is_refused(path: Path) -> None:
    LogStore.open(path, ORIGIN, KEY).close()
    for origin, key in [("berta.example/log", KEY), (ORIGIN, PEER)]:
        with pytest.raises(CheckFailed, match="RSD-5031"):
            LogStore.open(path, origin, key)
    LogStore.open(path, ORIGIN, KEY).close()


def test_a_file_that_is_no_log_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 500)
    with pytest.raises(EnvironmentFault, match="RSD-5030"):
        LogStore.open(path, ORIGIN, KEY)


CUT_LAST = ("DELETE FROM entries WHERE idx = 8", "DELETE FROM nodes WHERE level = 0 AND i = 8")


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (CUT_LAST, "RSD-5032"),
        (("UPDATE nodes SET hash = zeroblob(32) WHERE level = 3",), "RSD-5032"),
        (("DELETE FROM entries WHERE idx = 4",), "RSD-5035"),
        (("DELETE FROM nodes WHERE level = 1 AND i = 2",), "RSD-5035"),
        (("UPDATE entries SET data = CAST('{}' AS BLOB) WHERE idx = 8",), "RSD-5033"),
        (("UPDATE checkpoints SET note = replace(note, 'anna', 'otto')",), "RSD-500"),
    ],
)
def test_opening_fails_closed(path: Path, statements: tuple[str, ...], code: str) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 9)
        store.checkpoint()
    tampered(path, *statements)
    with pytest.raises(CheckFailed, match=code):
        LogStore.open(path, ORIGIN, KEY)


def test_without_a_checkpoint_a_shorter_tree_cannot_be_noticed_here(path: Path) -> None:
    """Why sites cosign each other: a file alone says nothing about its own lost end."""
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 9)
    tampered(path, *CUT_LAST)
    with LogStore.open(path, ORIGIN, KEY) as store:
        assert store.fsck() == 8


@pytest.mark.parametrize("index", [0, 3, 7])
def test_fsck_and_reading_name_the_first_bad_entry(path: Path, index: int) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 9)
    change = "UPDATE entries SET data = CAST(replace(CAST(data AS TEXT), 'commit', 'policy') AS BLOB) WHERE idx"
    tampered(path, f"{change} >= {index} AND idx < 8")
    with LogStore.open(path, ORIGIN, KEY) as store:
        with pytest.raises(CheckFailed, match=f"RSD-5033 entry {index} of log {ORIGIN}") as e:
            store.fsck()
        assert e.value.found != e.value.limit
        with pytest.raises(CheckFailed, match="RSD-5033"):
            store.entry(index)
        for kind in (None, "roster"):
            with pytest.raises(CheckFailed, match="RSD-5033"):
                store.entries(kind=kind)


def test_fsck_checks_inner_nodes_and_old_checkpoints(path: Path) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 9)
        leaves = store.leaf_hashes()
    for level, i in [(1, 0), (1, 3), (2, 1)]:
        tampered(path, "UPDATE nodes SET hash = randomblob(32) WHERE level = ? AND i = ?", values=(level, i))
        with (
            LogStore.open(path, ORIGIN, KEY) as store,
            pytest.raises(CheckFailed, match=f"RSD-5035 node .* of level {level} "),
        ):
            store.fsck()
        node = merkle.subtrees_of(leaves)(level, i)
        tampered(path, "UPDATE nodes SET hash = ? WHERE level = ? AND i = ?", values=(node, level, i))
    with LogStore.open(path, ORIGIN, KEY) as store:
        assert store.fsck() == 9
        store.checkpoint(4)
        store.checkpoint(9)
    other = checkpoint.sign(checkpoint.Checkpoint(ORIGIN, 4, bytes(32)), KEY)
    tampered(path, "UPDATE checkpoints SET note = ? WHERE size = 4", values=(other,))
    with LogStore.open(path, ORIGIN, KEY) as store, pytest.raises(CheckFailed, match="RSD-5032"):
        store.fsck()


def test_a_running_log_never_signs_what_does_not_continue_it(store: LogStore, path: Path) -> None:
    fill(store, 4)
    store.checkpoint()
    tampered(path, "UPDATE nodes SET hash = randomblob(32) WHERE level = 2")
    with pytest.raises(CheckFailed, match="RSD-5032"):
        store.checkpoint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"index":2', b'"index":02'),
        (rb'"v":1', b'"v":01'),
        (rb'(found|limit|next)":"', rb'\1":"' + "\u20ac".encode() * 8000),
        (rb'"at":"[^"]*', b'"at":"2099-99-99T00:00:00Z'),
        (rb'"at":"[^"]*', b'"at":"1999-99-99T00:00:00Z'),
    ],
    ids=["index", "version", "length", "later", "earlier"],
)
def test_fsck_takes_no_form_of_an_entry_that_readers_refuse(path: Path, old: bytes, new: bytes) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        store.append_many([Draft("refusal", refusal_body(n)) for n in range(2)])
        text = store.entry(1).encode()
    third, fourth = (text.replace(b'"index":1', b'"index":%d' % n) for n in (2, 3))
    connection = sqlite3.connect(path, isolation_level=None)
    tree.insert(connection, 2, [re.sub(old, new, third), fourth])
    connection.close()
    with LogStore.open(path, ORIGIN, KEY) as store:
        for look in (store.entries, store.fsck):
            with pytest.raises(CheckFailed, match="RSD-5033"):
                look()


def test_a_log_that_was_cut_while_a_process_writes_it_is_not_written_again(path: Path) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 6)
        tampered(path, "DELETE FROM entries WHERE idx >= 3", "DELETE FROM nodes WHERE (i + 1) * (1 << level) > 3")
        for go_on in (lambda: store.append(*commit(6)), store.checkpoint, store.leaf_hashes):
            with pytest.raises(CheckFailed, match="RSD-5035"):
                go_on()
        assert store.size == 3


@pytest.mark.parametrize("act", ["removed", "replaced", "write-ahead file removed"])
def test_what_goes_into_a_file_that_nobody_finds_is_not_written(path: Path, act: str) -> None:
    with LogStore.open(path, ORIGIN, KEY) as store:
        fill(store, 2)
        copy = path.read_bytes()
        (path.with_name(f"{path.name}-wal") if act.startswith("write") else path).unlink()
        if act == "replaced":
            path.write_bytes(copy)
        with pytest.raises(EnvironmentFault, match="RSD-5030"):
            store.append(*commit(2))
        with pytest.raises(EnvironmentFault, match="RSD-5030"):
            store.checkpoint()
