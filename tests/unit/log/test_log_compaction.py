"""Retention: texts go when law and schedule say so, their leaves stay, and what is gone without proof is damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.errors import CheckFailed, InputError, Refused, UsageError
from compliance.law.retention import Kept, Limit
from compliance.log import compaction, expired
from compliance.log.compaction import IN_USE, TOO_YOUNG, UNCOSIGNED, plan, schedules
from compliance.log.entry import Entry, new_entry
from compliance.log.evidence import build_evidence, check_evidence
from compliance.log.store import Compacted, Draft, LogStore
from compliance.log.view import read_views
from compliance.log.witness import WitnessStore
from tests.log_drafts import CLOSE, charge_body, commit, commit_body, policy_body, refusal_body

KEY, WITNESS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PEERS = {"berta.example": WITNESS.public_key()}
ORIGIN = "residency/tiny/anna"
OVER, OPEN = "ab" * 32, "cd" * 32
START = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
LATER = START + timedelta(days=800)
LAW_SET = "0" * 64
COSIGN = {"origin": "residency/tiny/berta", "size": 1, "root": "0" * 64}
COUNT = {"rows": 1, "head": "0" * 64}
STUDY = {"name": "thyroid"}


def at(moment: datetime) -> object:
    return patch.object(clock, "now", lambda: moment)


def cosigned(store: LogStore, witness: WitnessStore) -> None:
    last = witness.last(ORIGIN)
    old = last[0] if last else 0
    done = witness.cosign(store.checkpoint(), store.public_key, old, store.consistency_proof(old))
    store.add_cosignature(done.size, done.line, PEERS)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[WitnessStore]:
    with WitnessStore(tmp_path / "witness.db", "berta.example", WITNESS) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path, witness: WitnessStore) -> Path:
    """A log of one study that is over and one that is open, all cosigned but for the last entry."""
    file = tmp_path / "log.db"
    with at(START), LogStore.open(file, ORIGIN, KEY) as store:  # type: ignore[attr-defined]
        store.append_many(
            [
                Draft("study", STUDY, OVER),  # 0: ever
                commit(0, study=OVER),  # 1: transfer, of a study that is over
                Draft("charge", charge_body(), OVER),  # 2: ever
                commit(1, study=OPEN),  # 3: of an open study
                Draft("cosign", COSIGN),  # 4: checkpoint
                Draft("refusal", {**refusal_body(), "message": "the first secret text"}),  # 5: decision
                Draft("count", COUNT),  # 6: transfer, not the newest
                Draft("count", {**COUNT, "rows": 2}),  # 7: the newest
                Draft("policy", policy_body()),  # 8: ever
                commit(2, study=OVER),  # 9
                Draft("close", CLOSE, OVER),  # 10: ever
            ]
        )
        cosigned(store, witness)
        store.append_many([commit(3, study=OVER)])  # 11: nobody has cosigned it
    return file


def opened(path: Path) -> LogStore:
    return LogStore.open(path, ORIGIN, KEY)


def rows(**days: int) -> list[Kept]:
    """Classes with a floor and a ceiling of so many days."""
    return [
        Kept(name, (Limit("eu", False, n),), (Limit("own", True, n),), ())  # type: ignore[arg-type]
        for name, n in days.items()
    ]


ALL = rows(decision=700, transfer=700, checkpoint=700, charge=700, roster=700, answer=700, access=700)


def compacted(path: Path) -> None:
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        store._database._connection.execute("PRAGMA secure_delete=OFF")  # the default of some builds of SQLite
        assert store.compact(plan(store, schedules(ALL, LATER, expired=False), LAW_SET).parts)


def test_only_what_is_known_to_be_disposable_goes(path: Path) -> None:
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        found = plan(store, schedules(ALL, LATER, expired=False), LAW_SET)
        assert {p.record_class: p.ranges for p in found.parts} == {
            "transfer": ((1, 1), (6, 6), (9, 9)),
            "checkpoint": ((4, 4),),
            "decision": ((5, 5),),
        }
        assert found.stays == {IN_USE: 6, UNCOSIGNED: 1}
        assert found.entries == 5


def test_a_study_that_was_joined_again_after_its_close_is_open(path: Path, witness: WitnessStore) -> None:
    again = {
        "run": "thyroid-2",
        "device": "cpu",
        **dict.fromkeys(("approval_policy", "law_set", "layout_sha256"), LAW_SET),
    }
    with at(START), opened(path) as store:  # type: ignore[attr-defined]
        store.append("join", again, OVER)
        cosigned(store, witness)
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        found = plan(store, schedules(ALL, LATER, expired=False), LAW_SET)
        assert {p.record_class: p.ranges for p in found.parts}["transfer"] == ((6, 6),)


def test_before_its_floor_nothing_goes(path: Path) -> None:
    soon = START + timedelta(days=699)
    with opened(path) as store:
        for more in (False, True):
            found = plan(store, schedules(ALL, soon, expired=more), LAW_SET)
            assert (found.parts, found.stays[TOO_YOUNG]) == ((), 5)


def test_the_largest_floor_governs_even_one_that_only_may_bind_or_lies_above_a_ceiling() -> None:
    (row,) = rows(access=100)
    short, may = Limit("own", True, 10), Limit("us", False, 900, may="If us binds the site.")
    cases = [
        (replace(row, ceilings=(short,)), 100),  # in conflict: what is to be kept stays
        (replace(row, ceilings=(short,), may=(may,)), 900),
        (replace(row, ceilings=(short,), floors=()), 10),
        (replace(row, ceilings=(Limit("own", True, 2000),)), 2000),
    ]
    for kept, days in cases:
        (found,) = schedules([kept], LATER, expired=False)
        assert found.before == LATER - timedelta(days=days)
    assert schedules([replace(row, ceilings=())], LATER, expired=False) == ()  # nothing asks to erase it
    (found,) = schedules([replace(row, ceilings=())], LATER, expired=True)
    assert found.before == LATER - timedelta(days=100)
    assert schedules([replace(row, floors=(), ceilings=())], LATER, expired=True) == ()  # no floor is no permission


def test_two_years_later_the_leaves_are_proved_and_the_texts_are_gone(path: Path) -> None:
    with opened(path) as store:
        leaves, before = store.leaf_hashes(), store.entries()
        notes = store.cosigned_checkpoints()
    assert b"the first secret text" in path.read_bytes()
    compacted(path)
    kept = b"".join(p.read_bytes() for p in path.parent.glob("log.db*"))
    assert b"the first secret text" not in kept
    with opened(path) as store:
        assert store.fsck() == store.size == 15
        assert store.leaf_hashes(12) == leaves
        assert store.cosigned_checkpoints() == notes
        assert [e.index for e in store.entries()] == [0, 2, 3, 7, 8, 10, 11, 12, 13, 14]
        assert [e.index for e in store.entries(study=OVER)] == [0, 2, 10, 11]
        assert [e.index for e in store.entries(kind="commit")] == [3, 11]
        assert store.entry(2) == before[2]
        with pytest.raises(InputError, match=r"RSD-5061 entry 5 of log .* expired under class decision"):
            store.entry(5)
    (view,) = read_views(path)
    assert view.expired == {1: "transfer", 6: "transfer", 9: "transfer", 4: "checkpoint", 5: "decision"}
    assert view.whole


def test_a_reader_that_listed_an_entry_before_goes_on_without_it(path: Path) -> None:
    with opened(path) as reader:
        assert [e.index for e in reader.entries(kind="commit")] == [1, 3, 9, 11]
        with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
            store.compact(plan(store, schedules(ALL, LATER, expired=False), LAW_SET).parts)
        assert [e.index for e in reader.entries(kind="commit")] == [3, 11]


def test_evidence_of_later_opens_what_is_left_and_names_what_expired(path: Path, witness: WitnessStore) -> None:
    compacted(path)
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        cosigned(store, witness)
        evidence = build_evidence(store, [1, 2, 5])
    checked = check_evidence(evidence, KEY.public_key(), PEERS, 1)
    assert set(checked.entries) == {2, 12, 14}
    assert checked.expired == {1: "transfer", 6: "transfer", 9: "transfer", 5: "decision"}


def mark(path: Path, index: int, by: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE entries SET data = ? WHERE idx = ?", (by.to_bytes(8, "big"), index))
    connection.close()


@pytest.mark.parametrize(("index", "by"), [(2, 12), (2, 1), (0, 2), (3, 14), (8, 99)])
def test_a_text_that_no_compaction_entry_names_is_missed(path: Path, index: int, by: int) -> None:
    compacted(path)
    mark(path, index, by)
    with opened(path) as store:
        for look in (store.fsck, store.entries, lambda: store.entry(index)):
            with pytest.raises((CheckFailed, InputError), match=r"RSD-50(62|35)"):
                look()
    with pytest.raises(CheckFailed, match=r"RSD-50(62|35)"):
        read_views(path)


def test_a_long_row_of_marks_that_name_each_other_is_damage(path: Path) -> None:
    with opened(path) as store:
        store.append_many([Draft("refusal", refusal_body(n)) for n in range(1500)])
    for index in range(1400):
        mark(path, index, index + 1)
    with opened(path) as store:
        looks = (store.fsck, store.entries, lambda: store.entry(0), lambda: store.entries(kind="alarm"))
        for look in (*looks, lambda: store.expired_by([0]), lambda: read_views(path)):
            with pytest.raises(CheckFailed, match="RSD-5062"):
                look()


def test_a_text_that_is_deleted_is_damage(path: Path) -> None:
    compacted(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE entries SET data = x'' WHERE idx = 2")
    connection.close()
    with opened(path) as store, pytest.raises(CheckFailed, match="RSD-5033 entry 2 "):
        store.fsck()


def test_an_entry_that_names_other_leaves_proves_nothing(path: Path, witness: WitnessStore) -> None:
    """An insider writes a compaction entry by hand, with the real key."""
    body = {
        "record_class": "decision", "before": "2026-01-01T00:00:00Z", "ranges": [[5, 5]], "leaves_sha256": "1" * 64,
        "policy": "by hand", "law_set": LAW_SET,
    }  # fmt: skip
    with opened(path) as store:
        by = store.append("compaction", body).index
        cosigned(store, witness)
        with pytest.raises(CheckFailed, match="RSD-5062"):
            store.fsck()
        evidence = build_evidence(store, [by])
    with pytest.raises(CheckFailed, match="RSD-5062"):
        check_evidence(evidence, KEY.public_key(), PEERS, 1)


@pytest.mark.parametrize("ranges", [[], [[3, 2]], [[2, 3], [4, 5]], [[4, 5], [1, 1]], [[0, 1, 2]], [[-1, 0]]])
def test_ranges_have_one_form(path: Path, ranges: list[list[int]]) -> None:
    body = {
        "record_class": "decision", "before": "2028-01-01T00:00:00Z", "ranges": ranges, "leaves_sha256": "1" * 64,
        "policy": "", "law_set": LAW_SET,
    }  # fmt: skip
    with opened(path) as store, pytest.raises(InputError, match="RSD-5020"):
        store.append("compaction", body)


def test_what_is_gone_or_not_cosigned_is_not_named_again(path: Path) -> None:
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        part = Compacted("transfer", "2028-01-01T00:00:00Z", ((1, 1),), "test", LAW_SET)
        size = store.size
        for ranges in (((11, 11),), ((1, 1), (11, 11)), ((9, 40),)):
            with pytest.raises(Refused, match="RSD-5065"):
                store.compact([part._replace(ranges=ranges)])
        assert store.size == size
        assert store.entry(1).kind == "commit"
        store.compact([part])
        with pytest.raises(Refused, match="RSD-5065"):
            store.compact([part])
        assert store.fsck() == size + 1


def test_texts_do_not_go_before_their_time() -> None:
    compaction.check_moment(LATER, START, dry_run=True)
    compaction.check_moment(START, START, dry_run=False)
    with pytest.raises(UsageError, match="RSD-5064"):
        compaction.check_moment(LATER, START, dry_run=False)


def test_a_log_goes_on_after_compaction(path: Path) -> None:
    compacted(path)
    with opened(path) as store:
        assert store.append("commit", commit_body(9), OPEN).index == 15
        proof = store.inclusion_proof(5)
        assert len(proof) == 4
    with opened(path) as store:
        assert store.fsck() == 16


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (Compacted("access", "2026-12-01T00:00:00Z", ((5, 5),), "test", LAW_SET), "a refusal of class decision"),
        (Compacted("decision", "2026-12-01T00:00:00Z", ((5, 6),), "test", LAW_SET), "a count of class transfer"),
        (Compacted("charge", "2026-12-01T00:00:00Z", ((2, 2),), "test", LAW_SET), "kept for ever"),
        (Compacted("decision", "2026-12-01T00:00:00Z", ((8, 8),), "test", LAW_SET), "kept for ever"),
        (Compacted("decision", "2026-11-22T10:00:00Z", ((5, 5),), "test", LAW_SET), "of 2026-11-22T10:00:00Z"),
    ],
    ids=["another class", "one of another class", "of no class that goes", "for ever", "too young"],
)
def test_whoever_holds_the_key_cannot_remove_what_may_not_go(path: Path, part: Compacted, why: str) -> None:
    with at(LATER), opened(path) as store:  # type: ignore[attr-defined]
        before = store.entries()
        with pytest.raises(Refused, match="RSD-5065") as refused:
            store.compact([part])
        assert why in str(refused.value.found)
        assert store.entries() == before


BY = 1 << 40


def by_hand(ranges: list[list[int]], **changes: str) -> Entry:
    body = {
        "record_class": "decision", "before": "2026-11-20T00:00:00Z", "ranges": ranges, "leaves_sha256": "1" * 64,
        "policy": "by hand", "law_set": LAW_SET, **changes,
    }  # fmt: skip
    return new_entry(BY, "2026-11-22T10:00:00Z", "compaction", body)


@pytest.mark.parametrize(
    "changes",
    [
        {"record_class": "incident"},
        {"record_class": "charge"},
        {"before": "2026-11-22T10:00:00Z"},
        {"before": "2028-01-01T00:00:00Z"},
        {"before": "2026-02-31T00:00:00Z"},
        {"policy": " "},
    ],
    ids=["alarms", "charges", "as it is written", "later", "no date", "no policy"],
)
def test_a_removal_on_grounds_that_cannot_be_is_no_proof(path: Path, changes: dict[str, str]) -> None:
    """By hand with the real key, around `compact`: a reader judges what the entry says of itself."""
    assert 5 in expired.removed_by([by_hand([[5, 5]])], BY)
    with pytest.raises(CheckFailed, match="RSD-5062"):
        expired.removed_by([by_hand([[5, 5]], **changes)], BY)
    with at(START), opened(path) as store:  # type: ignore[attr-defined]
        leaf = expired.leaves_sha256([store.leaf_hashes()[5]])
        by = store.append("compaction", by_hand([[5, 5]], leaves_sha256=leaf, **changes).body).index
        store.checkpoint()
    mark(path, 5, by)
    with opened(path) as store, pytest.raises(CheckFailed, match="RSD-5062"):
        store.fsck()
    with pytest.raises(CheckFailed, match="RSD-5062"):
        read_views(path)


def test_a_removal_is_signed_for_in_the_same_commit(path: Path) -> None:
    compacted(path)
    with opened(path) as store:
        assert store.signed_sizes(1) == (store.size,)
        assert store.fsck() == store.size
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM checkpoints WHERE size > 12")
    connection.close()
    with opened(path) as store, pytest.raises(CheckFailed, match="RSD-5062") as failed:
        store.fsck()
    assert "nobody signed it" in str(failed.value.found)


def test_no_entry_is_removed_twice(path: Path) -> None:
    with pytest.raises(CheckFailed, match="RSD-5062"):
        expired.removed_by([by_hand([[1, 5]]), by_hand([[5, 7]])], BY)
    with at(LATER), opened(path) as store, pytest.raises(CheckFailed, match="RSD-5062"):  # type: ignore[attr-defined]
        store.compact([Compacted("transfer", "2027-01-01T00:00:00Z", ((1, 1),), "test", LAW_SET)] * 2)


def test_ranges_are_not_spelled_out() -> None:
    """A compaction entry of a few bytes may claim more than fits into any memory."""
    found = expired.removed_by([by_hand([[3, 4], [9, 1 << 39]])], BY)
    assert list(found.counts().values()) == [(1 << 39) - 6]
    assert (8 in found, 9 in found, (1 << 39) in found, (1 << 39) + 1 in found) == (False, True, True, False)
    assert [found.below(i) for i in (3, 4, 5, 9, 10, BY)] == [0, 1, 2, 2, 3, (1 << 39) - 6]


@pytest.mark.parametrize("lost", [None, 5])
def test_a_row_before_the_first_entry_is_damage(path: Path, lost: int | None) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO entries VALUES (-1, x'00')")
    connection.execute("DELETE FROM entries WHERE idx = ?", (lost,))
    connection.close()
    for look in (lambda: read_views(path), lambda: opened(path)):
        with pytest.raises(CheckFailed, match="RSD-5035"):
            look()
