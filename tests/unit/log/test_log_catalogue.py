"""A process hashes a text once to know of what kind it is, and again whenever it gives it out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.errors import CheckFailed
from compliance.log.store import Draft, LogStore
from tests.log_drafts import commit, policy_body, refusal_body

KEY = Ed25519PrivateKey.generate()
ORIGIN = "residency/tiny/anna"
STUDIES = ("", "ab" * 32, "cd" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[LogStore]:
    """Nine entries, every third a refusal, all listed by this process."""
    with LogStore.open(path, ORIGIN, KEY) as opened:
        opened.append_many([commit(i) if i % 3 else Draft("refusal", refusal_body(i)) for i in range(9)])
        assert [e.index for e in opened.entries(kind="refusal")] == [0, 3, 6]
        yield opened


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


TEXT = (
    "UPDATE entries SET data = CAST(replace(CAST(data AS TEXT), '\"attempt\":1', '\"attempt\":7') AS BLOB) WHERE idx ="
)


def test_a_text_that_is_given_out_is_hashed_again(store: LogStore, path: Path) -> None:
    change(path, f"{TEXT} 4")
    with pytest.raises(CheckFailed, match="RSD-5033 entry 4 "):
        store.entries(kind="commit")
    with pytest.raises(CheckFailed, match="RSD-5033 entry 4 "):
        store.entry(4)


def test_a_change_of_another_text_is_seen_by_fsck_and_by_the_next_process(store: LogStore, path: Path) -> None:
    change(path, f"{TEXT} 4")
    assert [e.index for e in store.entries(kind="refusal")] == [0, 3, 6]  # none of these was changed
    with pytest.raises(CheckFailed, match="RSD-5033 entry 4 "):
        store.fsck()
    with LogStore.open(path, ORIGIN, KEY) as fresh, pytest.raises(CheckFailed, match="RSD-5033 entry 4 "):
        fresh.entries(kind="refusal")


def test_an_entry_cannot_be_hidden_by_deleting_it(store: LogStore, path: Path) -> None:
    change(path, "DELETE FROM entries WHERE idx = 3")
    with pytest.raises(CheckFailed, match="RSD-5033 entry 3 "):
        store.entries(kind="refusal")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE nodes SET hash = randomblob(32) WHERE level = 3",
        "UPDATE nodes SET hash = randomblob(32) WHERE level = 0 AND i = 8",
        "DELETE FROM nodes WHERE i = 8 AND level = 0",
    ],
)
def test_a_tree_that_changes_under_the_process_is_noticed(store: LogStore, path: Path, statement: str) -> None:
    change(path, statement)
    with pytest.raises(CheckFailed, match="RSD-5035"):
        store.entries(kind="refusal")


def test_what_others_append_is_listed_too(store: LogStore, path: Path) -> None:
    with LogStore.open(path, ORIGIN, KEY) as other:
        other.append("refusal", refusal_body(99))
    assert [e.index for e in store.entries(kind="refusal")] == [0, 3, 6, 9]


@settings(max_examples=25, deadline=None)
@given(
    written=st.lists(
        st.tuples(st.sampled_from(["commit", "refusal", "policy"]), st.sampled_from(STUDIES)), max_size=14
    ),
    study=st.none() | st.sampled_from(STUDIES),
    kind=st.none() | st.sampled_from(["commit", "refusal", "policy", "charge"]),
    cut=st.integers(0, 14),
)
def test_the_list_is_what_reading_everything_gives(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[tuple[str, str]],
    study: str | None,
    kind: str | None,
    cut: int,
) -> None:
    bodies = {"commit": commit().body, "refusal": refusal_body(), "policy": policy_body()}
    with LogStore.open(tmp_path_factory.mktemp("log") / "log.db", ORIGIN, KEY) as store:
        store.append_many([Draft(k, bodies[k], s) for k, s in written[:cut]])
        store.entries(study=study, kind="commit")
        store.append_many([Draft(k, bodies[k], s) for k, s in written[cut:]])
        expected = [e for e in store.entries() if study in {None, e.study} and kind in {None, e.kind}]
        assert store.entries(study=study, kind=kind) == expected
        start = min(cut, store.size)
        assert store.entries(start, study=study, kind=kind) == [e for e in expected if e.index >= start]
