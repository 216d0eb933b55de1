"""What the doctors read: stores beside writers, locks, doors, memory, cosignatures. Nothing of it is changed."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compliance import doctor_facts
from compliance.errors import CheckFailed, EnvironmentFault
from compliance.identity import new_signer
from compliance.log.read_only import look, look_at_log
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.tls import make_tls
from tests.federation import day, in_child
from tests.log_drafts import policy_body

ORIGIN = "residency/tiny/x"
KEY = new_signer("agent", "x", day(-1), day(9)).private
OTHER = new_signer("agent", "y", day(-1), day(9)).private
WITNESS = "residency/tiny/y/witness"


def _log(path: Path, entries: int) -> Path:
    with LogStore.open(path, ORIGIN, KEY) as log:
        for i in range(entries):
            log.append("policy", policy_body(i))
    return path


def _state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_mode, p.read_bytes()) for p in folder.iterdir()}


def _size(path: Path) -> int:
    return look_at_log(path, ORIGIN, KEY, lambda log: log.fsck())


def test_a_log_at_rest(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.db", 5)
    before = _state(tmp_path)
    assert _size(path) == 5
    assert _state(tmp_path) == before


def test_a_log_that_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "log.db"

    def writer() -> None:
        log = LogStore.open(path, ORIGIN, KEY)
        log.append("policy", policy_body(1))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(writer) == -signal.SIGKILL
    assert (tmp_path / "log.db-wal").exists()
    before = _state(tmp_path)
    assert _size(path) == 1  # the entry is in the write-ahead log alone
    assert _state(tmp_path) == before
    (tmp_path / "log.db-shm").unlink()
    with pytest.raises(EnvironmentFault, match="RSD-5030"):  # reading it would make one
        _size(path)
    assert not (tmp_path / "log.db-shm").exists()


def test_a_writer_that_begins_while_it_is_read(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.db", 1)
    seen: list[int] = []
    opened: list[LogStore] = []

    def read(connection: sqlite3.Connection) -> int:
        if not opened:
            opened.append(LogStore.open(path, ORIGIN, KEY))
            opened[0].append("policy", policy_body(2))
        seen.append(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        return seen[-1]

    assert look(path, read) == 2
    assert len(seen) == 2  # what the first look found may have been torn
    opened[0].close()


def test_it_cannot_write_and_makes_no_file(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.db", 1)
    with pytest.raises(EnvironmentFault, match="RSD-5030"):
        look_at_log(path, ORIGIN, KEY, lambda log: log.append("policy", policy_body()))
    with pytest.raises(EnvironmentFault, match="RSD-5030"):
        look_at_log(tmp_path / "none.db", ORIGIN, KEY, lambda log: log.size)
    assert {p.name for p in tmp_path.iterdir()} == {"log.db"}


def test_another_log_is_refused(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.db", 1)
    for origin, key in ((ORIGIN, OTHER), ("residency/tiny/z", KEY)):
        with pytest.raises(CheckFailed, match="RSD-5031"):
            look_at_log(path, origin, key, lambda log: log.size)


def test_how_far_a_log_is_cosigned(tmp_path: Path) -> None:
    with LogStore.open(tmp_path / "log.db", ORIGIN, KEY) as log, WitnessStore(tmp_path / "w.db", WITNESS, OTHER) as w:
        keys = {WITNESS: OTHER.public_key()}
        assert doctor_facts.log_facts(log, keys) == doctor_facts.LogFacts(0, 0, None, None)
        log.append("policy", policy_body())
        found = doctor_facts.log_facts(log, keys)
        assert (found.size, found.uncosigned, found.last) == (1, 1, None)
        assert found.since is not None
        given = w.cosign(log.checkpoint(), log.public_key, 0, ())
        log.add_cosignature(given.size, given.line, keys)
        found = doctor_facts.log_facts(log, keys)
        assert (found.uncosigned, found.since) == (0, None)
        assert found.last is not None
        log.append("policy", policy_body(1))
        assert doctor_facts.log_facts(log, keys).uncosigned == 1
        assert doctor_facts.log_facts(log, {}).uncosigned == 2  # nobody known cosigned


def test_who_holds_a_lock_is_asked_and_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    assert doctor_facts.lock_holder(path) is None
    path.write_text("")
    assert doctor_facts.lock_holder(path) is None
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert doctor_facts.lock_holder(path) == os.getpid()
    assert doctor_facts.lock_holder(path) is None
    with path.open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # a reader's lock is no agent
        assert doctor_facts.lock_holder(path) is None


def test_memory_and_disk_are_those_of_the_container_where_it_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_facts, "_CGROUP", tmp_path)
    machine = doctor_facts.available_memory()
    assert machine > 0
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor_facts.available_memory() > 1 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    assert doctor_facts.available_memory() == 4000
    assert doctor_facts.free_bytes(tmp_path) > 0


@contextmanager
def _server(folder: Path, reply: bytes) -> Iterator[int]:
    """One TLS answer on a free port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = make_tls(folder)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            plain, _ = listening.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(1000)
                    secured.sendall(reply)
            except OSError:
                plain.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_a_door_of_the_pinned_ca_of_another_one_and_none(tmp_path: Path) -> None:
    with _server(tmp_path / "tls", b"HTTP/1.1 404 Not Found\r\n\r\n") as port:
        found = doctor_facts.door(f"127.0.0.1:{port}", tmp_path / "tls" / "ca.crt")
        assert (found.reached, found.answer) == (True, "HTTP/1.1 404 Not Found")
    other = make_tls(tmp_path / "other")
    with _server(tmp_path / "again", b"") as port:
        found = doctor_facts.door(f"127.0.0.1:{port}", other.ca)
        assert (found.reached, found.answer, found.untrusted) == (True, "", True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = doctor_facts.door(f"127.0.0.1:{silent.getsockname()[1]}", other.ca, limit_s=0.2)
        assert (found.reached, found.answer) == (True, "")
        assert "timed out" in found.error
        port = silent.getsockname()[1]
    found = doctor_facts.door(f"127.0.0.1:{port}", other.ca)
    assert (found.reached, found.error) == (False, "Connection refused")
    for address in ("no-such-host.invalid:1", "127.0.0.1:99999", "127.0.0.1"):
        assert not doctor_facts.door(address, other.ca, limit_s=1.0).answer
