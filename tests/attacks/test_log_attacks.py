"""Attacks on a log by whoever has its disk, its backup or its key: each fails, or somebody sees it.

The table in docs/conformance.md says which test runs which attack; what an insider can cut out and sign again is in
tests/faults/test_log_insider.py, what is done to bundles in test_release_tampering.py and test_release_omissions.py.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import checkpoint, cosign, fsck, merkle, note, tiles, tree
from compliance.log.entry import Entry
from compliance.log.evidence import LogEvidence, build_evidence, check_evidence, compare_checkpoint
from compliance.log.read_only import ReadOnlyDatabase, look
from compliance.log.store import LogStore
from compliance.log.view import LogView, read_views
from compliance.log.witness import WitnessStore
from tests.log_drafts import commit, refusal_body

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PEER = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
ORIGIN, WITNESS = "residency/nordic/anna", "residency/nordic/berta/witness"
PEERS = {WITNESS: PEER.public_key()}
WITNESSES = {name: (key,) for name, key in PEERS.items()}
PUBLIC = KEY.public_key()
START = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    ticks = iter(range(10**6))
    with patch.object(clock, "now", lambda: START + timedelta(seconds=next(ticks))):
        yield


def witnessed(store: LogStore, witness: WitnessStore) -> None:
    """The peer cosigns what the log is now, and the log keeps its line."""
    last = witness.last(ORIGIN)
    old = last[0] if last else 0
    done = witness.cosign(store.checkpoint(), PUBLIC, old, store.consistency_proof(old), origin=ORIGIN)
    store.add_cosignature(done.size, done.line, PEERS)


class Site:
    """A log of seven entries, cosigned at 4 and 6, and the peer that cosigned."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.db"
        self.witness = WitnessStore(folder / "witness.db", WITNESS, PEER)
        with self.opened() as store:
            for size in (4, 6):
                store.append_many([commit(n) for n in range(store.size, size)])
                witnessed(store, self.witness)
            store.append("refusal", refusal_body())

    def opened(self, key: Ed25519PrivateKey = KEY) -> LogStore:
        return LogStore.open(self.path, ORIGIN, key)

    def evidence(self) -> LogEvidence:
        with self.opened() as store:
            return build_evidence(store, [1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.witness.close()


def checked(path: Path) -> LogView:
    """What a reader gets of the file after the whole check."""

    def check(connection: sqlite3.Connection) -> None:
        with ReadOnlyDatabase(path, connection).reading() as reading:
            fsck.check(reading, ORIGIN, PUBLIC, WITNESSES)

    look(path, check)
    (view,) = read_views(path)
    for signed in view.checkpoints:
        checkpoint.open_signed(signed, PUBLIC, view.origin)
    return view


def convicted(log: LogEvidence, site: Site) -> str:
    """What a second auditor says who holds the notes that the peer kept."""
    with pytest.raises(CheckFailed) as e:
        compare_checkpoint(log, *site.witness.notes(ORIGIN), origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS)
    assert e.value.code == "RSD-5053"
    return e.value.message


# Any byte


VALUES = {
    "entries": ("SELECT idx, data FROM entries", "UPDATE entries SET data = ? WHERE idx = ?"),
    "leaves": ("SELECT i, hash FROM nodes WHERE level = 0", "UPDATE nodes SET hash = ? WHERE level = 0 AND i = ?"),
    "pairs": ("SELECT i, hash FROM nodes WHERE level = 1", "UPDATE nodes SET hash = ? WHERE level = 1 AND i = ?"),
    "fours": ("SELECT i, hash FROM nodes WHERE level = 2", "UPDATE nodes SET hash = ? WHERE level = 2 AND i = ?"),
    "checkpoints": (
        "SELECT size, CAST(note AS BLOB) FROM checkpoints",
        "UPDATE checkpoints SET note = CAST(? AS TEXT) WHERE size = ?",
    ),
    "cosignatures": (
        "SELECT size, CAST(line AS BLOB) FROM cosignatures",
        "UPDATE cosignatures SET line = CAST(? AS TEXT) WHERE size = ?",
    ),
}


@pytest.mark.parametrize("what", VALUES)
def test_any_changed_byte_of_what_is_stored_is_seen(site: Site, what: str) -> None:
    select, update = VALUES[what]
    unseen = []
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        with closing(sqlite3.connect(site.path)) as held:
            held.backup(memory)
        database = ReadOnlyDatabase(site.path, memory)
        for place, value in memory.execute(select).fetchall():
            for i in range(len(value)):
                memory.execute(update, (value[:i] + bytes([value[i] ^ 1 << i % 8]) + value[i + 1 :], place))
                try:
                    with database.reading() as reading:
                        fsck.check(reading, ORIGIN, PUBLIC, WITNESSES)
                except ResidencyError:
                    pass
                else:
                    unseen.append((place, i))
            memory.execute(update, (value, place))
        with database.reading() as reading:
            assert fsck.check(reading, ORIGIN, PUBLIC, WITNESSES).size == 7
    assert not unseen


def bytes_of_the_file(site: Site, used: int | None, unused: int) -> None:
    """A changed byte of the file is refused, or nobody reads it: then the log is what it was.

    So many bytes, or all, of those that are not zero are changed in turn, and so many of the others.
    """
    honest, whole = checked(site.path), site.path.read_bytes()
    places = random.Random(4)  # noqa: S311 - no secret
    full = [i for i, byte in enumerate(whole) if byte]
    chosen = full if used is None else places.sample(full, used)
    seen = 0
    for i in [*chosen, *places.sample([i for i, byte in enumerate(whole) if not byte], unused)]:
        site.path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        try:
            read = checked(site.path)
        except ResidencyError:
            seen += 1
        else:
            assert read == honest, i
    assert seen > len(chosen) // 2


def test_changed_bytes_of_the_file_are_seen_or_of_no_account(site: Site) -> None:
    bytes_of_the_file(site, 350, 50)


@pytest.mark.slow
def test_any_changed_byte_of_the_file_is_seen_or_of_no_account(site: Site) -> None:
    bytes_of_the_file(site, None, 2000)


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE entries", "CREATE VIEW entries AS SELECT 0 AS idx, NULL AS data"),
        ("DROP TABLE checkpoints", "CREATE TABLE checkpoints (size, note)", "INSERT INTO checkpoints VALUES (NULL, 7)"),
        ("CREATE TRIGGER t AFTER INSERT ON nodes BEGIN DELETE FROM entries; END",),
        ("CREATE TABLE more (data BLOB)",),
        ("ALTER TABLE log ADD COLUMN more TEXT",),
    ],
    ids=["view", "types", "trigger", "table", "column"],
)
def test_a_file_that_is_built_otherwise_is_refused(site: Site, statements: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(site.path, isolation_level=None)) as held:
        for statement in statements:
            held.execute(statement)
    for read in (checked, read_views):
        with pytest.raises(CheckFailed, match="RSD-5035"):
            read(site.path)


@pytest.mark.parametrize("place", [b"CREATE TABLE nodes", b"level INTEGER", b"CREATE TABLE log"])
def test_tables_whose_definition_is_no_text_are_refused(site: Site, place: bytes) -> None:
    """SQLite's own message then is no text either."""
    whole = site.path.read_bytes()
    assert whole.count(place) == 1
    site.path.write_bytes(whole.replace(place, place[:-1] + b"\xc5"))
    for read in (checked, read_views, lambda _: site.opened()):
        with pytest.raises(ResidencyError, match=r"RSD-50(30|35)"):
            read(site.path)


def test_any_changed_byte_of_a_folder_of_tiles_is_seen(site: Site) -> None:
    """Or is in the one thing that no hash covers, a cosignature: then it no longer counts."""
    with site.opened() as store:
        witnessed(store, site.witness)
    (view,) = read_views(site.path)
    files = tiles.files_of(view, entries=True)
    for path, data in files.items():
        for i in range(len(data)):
            changed = files | {path: data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :]}
            try:
                read = tiles.read_files(changed)
                signed = checkpoint.open_signed(read.checkpoints[0], PUBLIC, ORIGIN)
                cosigners = cosign.cosigners(signed.note, PEERS)
            except ResidencyError:
                continue
            assert path == "checkpoint"
            assert (read.leaf_hashes, read.entries) == (view.leaf_hashes, view.entries)
            assert not cosigners


# Truncation and rollback


def test_a_truncated_file_is_refused(site: Site) -> None:
    whole = site.path.read_bytes()
    for size in range(0, len(whole), 512):
        site.path.write_bytes(whole[:size])
        with pytest.raises(ResidencyError):
            checked(site.path)


def test_a_truncated_log_is_seen_by_itself_and_by_who_cosigned_it(site: Site) -> None:
    """Entries and nodes cut off cleanly: the last signed checkpoint sees it, and if that goes too, the peer does."""
    with closing(sqlite3.connect(site.path, isolation_level=None)) as held:
        for level in range(3):
            held.execute("DELETE FROM nodes WHERE level = ? AND i >= ?", (level, 5 >> level))
        held.execute("DELETE FROM entries WHERE idx >= 5")
    with pytest.raises(CheckFailed, match="RSD-5032"):
        checked(site.path)
    with pytest.raises(CheckFailed, match="RSD-5032"):
        site.opened()
    with closing(sqlite3.connect(site.path, isolation_level=None)) as held:
        held.execute("DELETE FROM cosignatures WHERE size >= 5")
        held.execute("DELETE FROM checkpoints WHERE size >= 5")
    assert checked(site.path).size == 5  # alone it is a log of five
    assert convicted(site.evidence(), site) == f"entries 4 to 5 of log {ORIGIN} are not those that {WITNESS} cosigned"


def test_a_log_that_is_rolled_back_to_a_backup_is_refused_by_who_saw_more(site: Site, tmp_path: Path) -> None:
    with site.opened() as store:
        assert store.size == 7
    shutil.copy(site.path, tmp_path / "backup.db")
    with site.opened() as store:
        store.append("refusal", refusal_body(1))
        witnessed(store, site.witness)
    shutil.copy(tmp_path / "backup.db", site.path)
    with site.opened() as store:  # the file is whole, and knows of nothing
        assert store.fsck() == 7
        with pytest.raises(CheckFailed, match="RSD-5041"):
            site.witness.cosign(store.checkpoint(), PUBLIC, 6, store.consistency_proof(6))
        store.append("refusal", refusal_body(2))
        with pytest.raises(CheckFailed, match="RSD-5040"):
            site.witness.cosign(store.checkpoint(), PUBLIC, 8, ())
        store.append("refusal", refusal_body(3))
        with pytest.raises(CheckFailed, match="RSD-5011"):
            site.witness.cosign(store.checkpoint(), PUBLIC, 8, store.consistency_proof(8))
    assert "entries 6 to 7" in convicted(site.evidence(), site)


# Forks


def test_two_auditors_who_are_shown_different_logs_need_only_compare(site: Site, tmp_path: Path) -> None:
    """Both logs are whole, signed by the real key; one was cosigned, and the two checkpoints convict the log."""
    shutil.copy(site.path, tmp_path / "fork.db")
    shown = []
    for path, number in ((site.path, 1), (tmp_path / "fork.db", 2)):
        with LogStore.open(path, ORIGIN, KEY) as store:
            store.append("refusal", refusal_body(number))
            evidence = build_evidence(store, [1, 7], store.size)
            check_evidence(evidence, PUBLIC, PEERS, 0)
            shown.append(evidence)
            if number == 1:
                witnessed(store, site.witness)
            else:
                with pytest.raises(CheckFailed, match="RSD-5040"):
                    site.witness.cosign(store.checkpoint(), PUBLIC, 6, store.consistency_proof(6))
    first, second = shown
    for one, two in ((first, second), (second, first)):
        with pytest.raises(CheckFailed, match="RSD-5053") as e:
            compare_checkpoint(one, two.checkpoint, origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS)
        assert "the log itself signed" in e.value.message
    assert "entries 6 to 7" in convicted(second, site)


# Keys


def test_a_log_that_is_signed_again_with_another_key_is_nobodys(site: Site, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="RSD-5031"):
        site.opened(OTHER)
    with site.opened() as store:
        entries = store.entries()
    with LogStore.open(tmp_path / "copy.db", ORIGIN, OTHER) as copy:
        refill(copy, entries)
        resigned = build_evidence(copy, [1])
        assert copy.fsck() == 7
        with pytest.raises(CheckFailed, match="RSD-5042"):  # the peer knows this log by its key
            site.witness.cosign(copy.checkpoint(), OTHER.public_key(), 6, copy.consistency_proof(6))
    assert tuple(resigned.leaf_hashes) == tuple(e.leaf_hash().hex() for e in entries)
    with pytest.raises(CheckFailed, match="RSD-5002"):
        check_evidence(resigned, PUBLIC, PEERS, 0)
    with pytest.raises(CheckFailed, match="RSD-5002"):
        compare_checkpoint(resigned, origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS)


def refill(store: LogStore, entries: list[Entry]) -> None:
    """The very entries, as an insider can write them: with any time and index."""
    with store._database.writing() as connection:
        tree.insert(connection, 0, [e.model_copy(update={"index": i}).encode() for i, e in enumerate(entries)])


# The past


def test_an_entry_that_is_put_into_the_past_moves_all_that_others_saw(site: Site, tmp_path: Path) -> None:
    with site.opened() as store:
        entries = store.entries()
    late = entries[6].model_copy(update={"at": entries[2].at, "salt": "ab" * 16})
    with LogStore.open(tmp_path / "rebuilt.db", ORIGIN, KEY) as rebuilt:
        refill(rebuilt, [*entries[:3], late, *entries[3:]])
        assert rebuilt.fsck() == 8  # times ascend, every hash and signature is right
        evidence = build_evidence(rebuilt, [3])
    check_evidence(evidence, PUBLIC, PEERS, 0)
    assert convicted(evidence, site) == f"entries 0 to 3 of log {ORIGIN} are not those that {WITNESS} cosigned"


def test_an_entry_that_is_dated_back_stands_out_by_its_place(site: Site) -> None:
    with site.opened() as store, patch.object(clock, "now", lambda: START - timedelta(days=2)):
        store.append("refusal", refusal_body(1))
    dated_back: list[CheckFailed | None] = []
    look(site.path, lambda c: dated_back.append(fsck.check(c, ORIGIN, PUBLIC).set_back))
    (found,) = dated_back
    assert found is not None
    assert (found.code, found.message.split(" is ")[0]) == ("RSD-5063", f"entry 7 of log {ORIGIN}")


# Replays


def test_an_older_checkpoint_does_not_pass_for_the_last(site: Site) -> None:
    """Cosigned and genuine, with the log cut to it: who holds a newer one sees that the end is missing."""
    with site.opened() as store:
        older = build_evidence(store, [1], 4)
        assert check_evidence(older, PUBLIC, PEERS, 1).size == 4
        with pytest.raises(CheckFailed, match="RSD-5041"):
            site.witness.cosign(older.checkpoint, PUBLIC, 6, ())
    assert convicted(older, site) == f"entries 4 to 5 of log {ORIGIN} are not those that {WITNESS} cosigned"
    with pytest.raises(CheckFailed, match="RSD-5050"):
        check_evidence(older.model_copy(update={"checkpoint": older.checkpoint, "leaf_hashes": (
            *older.leaf_hashes, "00" * 32)}), PUBLIC, PEERS, 1)  # fmt: skip


def test_a_checkpoint_of_another_log_and_a_line_of_another_checkpoint_do_not_pass(site: Site, tmp_path: Path) -> None:
    evidence = site.evidence()
    with LogStore.open(tmp_path / "other.db", "residency/nordic/carl", OTHER) as other:
        other.append("refusal", refusal_body())
        foreign = other.checkpoint()
    with pytest.raises(CheckFailed, match="RSD-5005"):
        compare_checkpoint(evidence, foreign, origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS)
    small, large = (note.parse(text) for text in site.witness.notes(ORIGIN))
    moved = note.Note(large.text, (large.signatures[0], small.signatures[1]))
    with pytest.raises(CheckFailed, match="RSD-5002"):
        compare_checkpoint(evidence, moved.encode(), origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS)
    with site.opened() as store, pytest.raises(CheckFailed, match="RSD-5002"):
        store.add_cosignature(6, small.signatures[1].line(), PEERS)


def test_an_older_folder_of_tiles_is_seen_beside_what_a_peer_holds(site: Site) -> None:
    with site.opened() as store:
        (view,) = read_views(site.path)
        older = LogView(ORIGIN, view.leaf_hashes[:4], view.checkpoints[:1], {}, whole=False)
        assert store.size == 7
    read = tiles.read_files(tiles.files_of(older, entries=False))
    checkpoint.open_signed(read.checkpoints[0], PUBLIC, ORIGIN)
    with pytest.raises(CheckFailed, match="RSD-5053"):
        compare_checkpoint(
            read.leaf_hashes, *site.witness.notes(ORIGIN), origin=ORIGIN, log_key=PUBLIC, witness_keys=PEERS
        )
    assert merkle.root(read.leaf_hashes) == checkpoint.parse_text(note.parse(read.checkpoints[0]).text).root
