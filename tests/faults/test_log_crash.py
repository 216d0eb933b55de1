"""kill -9, two writers and a full disk: what was acknowledged is there, and nothing is half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import EnvironmentFault
from compliance.log.store import LogStore
from tests import programs
from tests.log_drafts import CLOSE, commit, commit_body

SEED = bytes(range(32))
ORIGIN = "anna.example/log"
ROOT = Path(__file__).parents[2]

PRELUDE = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from compliance.errors import EnvironmentFault
from compliance.log.store import LogStore
from log_drafts import CLOSE, charge_body, commit
store = LogStore.open(Path(sys.argv[1]), "anna.example/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
def say(*done):
    print(*(f"{a.index}:{a.leaf_hash.hex()}" for a in done), flush=True)
print("ready", flush=True)
"""
WRITER = """
for n in range(100_000):
    if n % 3 == 0:
        say(*store.append_many([commit(n, 3000)] * 4))
    else:
        say(store.append("charge", charge_body(n)))
    if n % 5 == 0:
        store.checkpoint()
"""


def start(path: Path, program: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(program)
    programs.start()
    return programs.Forked(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )


def acknowledged(output: str) -> dict[int, str]:
    """The complete lines only: a killed process may leave a part of one."""
    pairs = (pair for line in output.splitlines(keepends=True) if line.endswith("\n") for pair in line.split())
    return {int(i): leaf for i, leaf in (pair.split(":") for pair in pairs if ":" in pair)}


def reopened(path: Path) -> LogStore:
    return LogStore.open(path, ORIGIN, Ed25519PrivateKey.from_private_bytes(SEED))


def check_acknowledged(path: Path, seen: dict[int, str]) -> int:
    with reopened(path) as store:
        leaves = [h.hex() for h in store.leaf_hashes()]
        assert store.fsck() == len(leaves)
        assert {i: leaves[i] for i in seen} == seen
        return store.append("close", CLOSE).index


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """One log, killed again and again at ever other moments, each time continued."""
    path = tmp_path / "log.sqlite"
    seen: dict[int, str] = {}
    for attempt in range(10):
        process = start(path, WRITER)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.004 + 0.0213 * attempt)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        new = acknowledged(output)
        assert not set(new) & set(seen)
        seen |= new
        check_acknowledged(path, seen)
    assert len(seen) > 10


def test_kill_9_while_the_log_is_created(tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / f"log{attempt}.sqlite"
        process = start(path, WRITER)
        while not path.exists():
            assert process.poll() is None
        time.sleep(0.002 * attempt)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
        check_acknowledged(path, acknowledged(output))


@pytest.mark.parametrize("part", range(25))
def test_a_log_whose_last_writes_were_torn_holds_whole_batches(tmp_path: Path, part: int) -> None:
    """Power loss while SQLite's write-ahead file grows: any prefix of it must be a log."""
    path, torn = tmp_path / "log.sqlite", tmp_path / "torn.sqlite"
    with reopened(path) as store:
        for n in range(6):
            store.append_many([commit(n)] * 5)
            store.checkpoint()
        wal = path.with_name("log.sqlite-wal").read_bytes()
        torn.write_bytes(path.read_bytes())
        torn.with_name("torn.sqlite-wal").write_bytes(wal[: len(wal) * part // 24])
    with reopened(torn) as store:
        assert store.fsck() % 5 == 0
        assert store.append("close", CLOSE).index == store.size - 1
        assert part < 24 or store.size == 31


def test_two_processes_append_to_one_log(tmp_path: Path) -> None:
    """They also create it together."""
    path = tmp_path / "log.sqlite"
    program = """
    for n in range(60):
        say(store.append("charge", charge_body(n)))
        say(*store.append_many([commit(n)] * 2))
        store.checkpoint()
    """
    processes = [start(path, program) for _ in range(2)]
    results = [acknowledged(p.communicate(timeout=60)[0]) for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert [len(r) for r in results] == [180, 180]
    assert not set(results[0]) & set(results[1])
    assert check_acknowledged(path, results[0] | results[1]) == 360


def test_a_file_size_limit_stops_the_log_and_nothing_is_half_written(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the write itself fails, as on a full disk. Then there is room again and the log goes on."""
    path = tmp_path / "log.sqlite"
    program = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    try:
        for n in range(1000):
            say(*store.append_many([commit(0, 7000)] * 3))
    except EnvironmentFault as e:
        assert e.code == "RSD-5030", e
    else:
        raise SystemExit("the limit was not felt")
    size = store.size
    try:
        store.append_many([commit(0, 60000)] * 9)
    except EnvironmentFault:
        assert store.size == size == store.fsck()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    done = store.append("close", CLOSE)
    assert done.index == size, (done, size)
    say(done)
    """
    process = start(path, program)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    seen = acknowledged(output)
    assert sorted(seen) == list(range(len(seen)))
    assert len(seen) % 3 == 1
    assert check_acknowledged(path, seen) == len(seen)


def test_a_full_database_stops_the_log_and_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with reopened(path) as store:
        store._database._connection.execute("PRAGMA max_page_count = 40")
        drafts = [commit(0, 6000)] * 3
        with pytest.raises(EnvironmentFault, match="RSD-5030") as e:
            list(iter(lambda: len(store.append_many(drafts)), 0))
        done = store.size
        assert e.value.exit_code == 7
        assert store.fsck() == done
        assert done % 3 == 0
        store._database._connection.execute("PRAGMA max_page_count = 4000")
        assert store.append("commit", commit_body()).index == done
    assert check_acknowledged(path, {}) == done + 1


def test_a_log_that_nobody_may_write_stops(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with reopened(path) as store:
        store.append("commit", commit_body())
        store._database._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(EnvironmentFault, match="RSD-5030"):
            store.append("commit", commit_body())
        assert store.size == 1
