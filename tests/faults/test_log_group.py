"""Threads that append together, on a disk that fails: nobody is told "written" for what is not, or the reverse."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import EnvironmentFault, InputError
from compliance.log.group import GroupCommit
from compliance.log.store import Draft, LogStore
from tests.log_drafts import commit, commit_body

KEY = Ed25519PrivateKey.generate()
ORIGIN = "residency/tiny/anna"
THREADS, EACH = 8, 40


class Flaky:
    """Stands in for `Database.writing`: every third transaction fails when it should be committed."""

    def __init__(self, store: LogStore, chance: float) -> None:
        self._real, self._random, self._chance = store._database.writing, random.Random(7), chance  # noqa: S311 - a seeded disk
        self.transactions = 0

    @contextmanager
    def __call__(self) -> Iterator[sqlite3.Connection]:
        with self._real() as connection:
            self.transactions += 1
            yield connection
            if self._random.random() < self._chance:
                raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("chance", [0.0, 0.35])
def test_each_thread_learns_what_became_of_its_own(tmp_path: Path, monkeypatch: Any, chance: float) -> None:
    told: dict[int, int] = {}
    failed: set[int] = set()
    lock, begin = threading.Lock(), threading.Barrier(THREADS)
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as store:
        flaky = Flaky(store, chance)
        monkeypatch.setattr(store._database, "writing", flaky)

        def work(thread: int) -> None:
            begin.wait()
            for n in range(thread * EACH, (thread + 1) * EACH):
                try:
                    index = store.append("commit", commit_body(n)).index
                except EnvironmentFault:
                    with lock:
                        failed.add(n)
                else:
                    with lock:
                        told[n] = index

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        assert flaky.transactions < THREADS * EACH, "no two appends ever shared a transaction"
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as store:
        assert store.fsck() == len(told)
        assert {e.body["round"] - 1: e.index for e in store.entries()} == told
    assert told.keys() | failed == set(range(THREADS * EACH))
    assert not told.keys() & failed
    assert bool(failed) == bool(chance)


def test_a_bad_entry_of_one_thread_stops_no_other(tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as store:

        def work(n: int) -> object:
            drafts = [commit(n), commit(n)] if n % 2 else [commit(n), Draft("commit", {"name": "somebody"})]
            try:
                return len(store.append_many(drafts))
            except InputError as e:
                return e.code

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(work, range(40)))
        assert found == ["RSD-5020", 2] * 20
        assert store.fsck() == 40
        rounds = [e.body["round"] for e in store.entries()]
        assert rounds[::2] == rounds[1::2]  # what is appended together stands together


def test_the_leader_is_stopped_and_the_others_are_told_that_nothing_was_written() -> None:
    arrived, go = threading.Event(), threading.Event()
    written: list[int] = []

    def write(items: Sequence[int]) -> Sequence[int]:
        if items == [0]:
            arrived.set()
            go.wait(10)
        if 1 in items:
            raise KeyboardInterrupt
        written.extend(items)
        return items

    group: GroupCommit[int, int] = GroupCommit(write)
    outcomes: dict[int, object] = {}

    def submit(n: int) -> None:
        try:
            outcomes[n] = group.submit(n)
        except BaseException as e:  # noqa: BLE001 - also what stops a thread
            outcomes[n] = type(e)

    first = threading.Thread(target=submit, args=(0,))
    first.start()
    arrived.wait(10)
    others = [threading.Thread(target=submit, args=(n,)) for n in (1, 2, 3)]
    for thread in others:
        thread.start()
    while len(group._waiting) < 3:
        pass
    go.set()
    for thread in (first, *others):
        thread.join(10)
    assert outcomes[0] == 0
    assert sorted(map(str, (outcomes[n] for n in (1, 2, 3)))) == sorted(
        map(str, (KeyboardInterrupt, EnvironmentFault, EnvironmentFault))
    )
    assert written == [0]
    assert group.submit(4) == 4
