"""kill -9 and a full disk at every step of compaction, backup and restore: as before, or done."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import clock
from compliance.clock import now
from compliance.errors import EnvironmentFault
from compliance.law.retention import Kept, Limit
from compliance.log import backup, tree
from compliance.log.compaction import plan, schedules
from compliance.log.database import Database
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from tests.federation import die, in_child
from tests.log_drafts import Draft, refusal_body

KEY, WITNESS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ORIGIN = "residency/tiny/anna"
SECRET = b"what nobody should read any more"
LATER = now() + timedelta(days=800)
KEPT = Kept("decision", (Limit("eu", False, 700),), (Limit("own", True, 700),), ())
KIND = backup.Kind("agent", "agent.json", frozenset())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a log of 40 refusals, cosigned."""
    folder = tmp_path / "home"
    with (
        LogStore.open(folder / "log.db", ORIGIN, KEY) as store,
        WitnessStore(tmp_path / "witness.db", "berta.example", WITNESS) as witness,
    ):
        body = {**refusal_body(), "message": SECRET.decode()}
        store.append_many([Draft("refusal", body) for _ in range(40)])
        done = witness.cosign(store.checkpoint(), store.public_key, 0, ())
        store.add_cosignature(done.size, done.line, {"berta.example": WITNESS.public_key()})
    (folder / "agent.json").write_bytes(b"{}")
    (folder / "studies").mkdir()
    (folder / "studies" / "study.json").write_bytes(b"{}")
    return folder


def compact(home: Path) -> None:
    with patch.object(clock, "now", lambda: LATER), LogStore.open(home / "log.db", ORIGIN, KEY) as store:
        store.compact(plan(store, schedules([KEPT], LATER, expired=False), "0" * 64).parts)


def bytes_of(home: Path) -> bytes:
    return b"".join(p.read_bytes() for p in home.glob("log.db*"))


def dying(owner: Any, name: str, *, before: bool) -> Any:
    real = getattr(owner, name)

    def step(*args: Any, **more: Any) -> Any:
        if before:
            die()
        real(*args, **more)
        die()

    return patch.object(owner, name, step)


STEPS: list[tuple[Any, str, bool]] = [
    (tree, "insert", True),
    (tree, "insert", False),
    (tree, "remove_texts", True),
    (tree, "remove_texts", False),
    (Database, "fold", True),
    (Database, "fold", False),
]


@pytest.mark.parametrize(("owner", "name", "before"), STEPS, ids=[f"{n}-{b}" for _, n, b in STEPS])
def test_compaction_is_killed(home: Path, owner: Any, name: str, before: bool) -> None:
    def action() -> None:
        with dying(owner, name, before=before):
            compact(home)

    assert in_child(action) == -9
    committed = name == "fold"
    with LogStore.open(home / "log.db", ORIGIN, KEY) as store:
        assert store.fsck() == store.size == (41 if committed else 40)
        assert len(store.entries(kind="refusal")) == (0 if committed else 40)
        assert len(store.entries(kind="compaction")) == committed
    if not committed:
        assert SECRET in bytes_of(home)
        compact(home)
    assert SECRET not in bytes_of(home)
    with LogStore.open(home / "log.db", ORIGIN, KEY) as store:
        assert store.fsck() == 41


def test_compaction_on_a_full_disk_changes_nothing(home: Path) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    before = bytes_of(home)
    with patch.object(tree, "remove_texts", full), pytest.raises(EnvironmentFault, match="RSD-5030"):
        compact(home)
    assert bytes_of(home) == before


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "before"), [("_copy_database", True), ("_copy_database", False), ("_log", False), ("_write", True)]
)
def test_a_backup_is_killed(home: Path, tmp_path: Path, name: str, before: bool) -> None:
    out, held = tmp_path / "out.tar", names(home)

    def action() -> None:
        with dying(backup, name, before=before):
            backup.make(home, out, KIND, keys=False)

    assert in_child(action) == -9
    assert not out.exists()
    backup.make(home, out, KIND, keys=False)
    assert names(home) - {"log.db-wal", "log.db-shm"} == held  # what the killed one staged is gone


@pytest.mark.parametrize(("name", "before"), [("_unpack", True), ("_unpack", False), ("_check_log", False)])
def test_a_restore_is_killed(home: Path, tmp_path: Path, name: str, before: bool) -> None:
    out, back = tmp_path / "out.tar", tmp_path / "back"
    backup.make(home, out, KIND, keys=False)

    def action() -> None:
        with dying(backup, name, before=before):
            backup.restore(out, back, KIND, _nothing)

    assert in_child(action) == -9
    assert not back.exists()
    assert backup.restore(out, back, KIND, _nothing).size == 40
    assert names(back) == {"agent.json", "log.db", "studies/study.json"}


def _nothing(_: Path) -> None:
    """No further check."""


@pytest.mark.parametrize("act", ["make", "restore"])
def test_backup_and_restore_on_a_full_disk_leave_nothing(home: Path, tmp_path: Path, act: str) -> None:
    out, back = tmp_path / "out.tar", tmp_path / "back"
    if act == "restore":
        backup.make(home, out, KIND, keys=False)
    held = names(tmp_path)
    todo: dict[str, Callable[[], object]] = {
        "make": lambda: backup.make(home, out, KIND, keys=False),
        "restore": lambda: backup.restore(out, back, KIND, _nothing),
    }
    with patch.object(os, "fsync", _full), pytest.raises(EnvironmentFault, match="RSD-7001"):
        todo[act]()
    assert names(tmp_path) == held


def _without_room(most: int, code: str, action: Callable[[], object]) -> None:
    """For a child: RLIMIT_FSIZE, so that the kernel itself refuses what makes a file longer; then `action` raises."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with pytest.raises(EnvironmentFault, match=code):
        action()


def test_compaction_without_room_changes_nothing(home: Path) -> None:
    def action() -> None:
        with patch.object(clock, "now", lambda: LATER), LogStore.open(home / "log.db", ORIGIN, KEY) as store:
            parts = plan(store, schedules([KEPT], LATER, expired=False), "0" * 64).parts
            _without_room(4096, "RSD-5030", lambda: store.compact(parts))

    held = (home / "log.db").read_bytes()
    assert in_child(action) == 0
    assert (home / "log.db").read_bytes() == held
    with LogStore.open(home / "log.db", ORIGIN, KEY) as store:
        assert store.fsck() == len(store.entries(kind="refusal")) == 40
    compact(home)
    assert SECRET not in bytes_of(home)


@pytest.mark.parametrize("act", ["make", "restore"])
@pytest.mark.parametrize("room", [4096, 40_000], ids=["first file", "later file"])
def test_backup_and_restore_without_room_leave_nothing(home: Path, tmp_path: Path, act: str, room: int) -> None:
    out, back = tmp_path / "out.tar", tmp_path / "back"
    (home / "studies" / "large.json").write_bytes(b"x" * 100_000)
    backup.make(home, out, KIND, keys=False)
    if act == "make":
        out.unlink()
    held = names(tmp_path)
    todo: dict[str, Callable[[], object]] = {
        "make": lambda: backup.make(home, out, KIND, keys=False),
        "restore": lambda: backup.restore(out, back, KIND, _nothing),
    }

    def action() -> None:
        _without_room(room, "RSD-(7001|5030)", todo[act])

    assert in_child(action) == 0
    assert names(tmp_path) - {"home/log.db-wal", "home/log.db-shm"} == held - {"home/log.db-wal", "home/log.db-shm"}
    todo[act]()  # there is room again


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")
