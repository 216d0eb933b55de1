"""What the log costs: `residency bench log`. Durable appends beside bare SQLite, the check of a large log, a proof.

The peer writes the same bytes with the same durability into a table without a tree, a batch of each in turn; a figure
is the median, the ratio that of the pairs.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.log_desk import ENTRIES, page_ms_p95
from compliance.canonical import Json
from compliance.log.read_only import look
from compliance.log.store import Draft, LogStore

_BATCHES: Final = (1, 100)
_BUILD: Final = 1000  # entries of a transaction while the large log is made
_PROOFS: Final = random.Random(0)  # noqa: S311 - which entries are looked up


@dataclass(frozen=True)
class Plan:
    """How much is measured. turns: pairs of a batch size; repeats: batches of a turn; checks: of the large log.

    pages_over: entries of the log that the desk shows.
    """

    entries: int
    pages_over: int
    turns: int
    repeats: int
    checks: int
    proofs: int


FULL: Final = Plan(entries=1_000_000, pages_over=ENTRIES, turns=15, repeats=10, checks=3, proofs=1000)
SHORT: Final = Plan(entries=2_000, pages_over=300, turns=2, repeats=2, checks=1, proofs=20)


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Json]:
    """Everything in turn. `folder` must be empty and on the disk that is meant; about 500 MiB for a million entries."""
    say("appends")
    appends = {str(batch): _appends(plan, folder / f"{batch}", batch) for batch in _BATCHES}
    say(f"a log of {plan.entries} entries")
    path, key = folder / "log.db", Ed25519PrivateKey.generate()
    built = _build(path, key, plan.entries)
    say("its check")
    checks, floors = _checks(path, key, plan.checks)
    proofs = _proofs(path, key, plan.proofs)
    say("pages of the desk")
    pages = page_ms_p95(folder / "desk", _drafts(_BUILD), plan.pages_over)
    return {
        "appends_per_s": {batch: _median(ours) for batch, (ours, _) in appends.items()},
        "verify_1m_s": _median(checks),
        "proof_ms": _median(proofs),
        "desk_page_ms_p95": pages,
        "spread": {
            "appends_per_s": {batch: _spread(ours) for batch, (ours, _) in appends.items()},
            "verify_1m_s": _spread(checks),
            "proof_ms": _spread(proofs),
        },
        "peer": {
            "what": "SQLite, the same bytes and durability, no tree; reading and hashing the same texts alone",
            "appends_per_s": {batch: _median(theirs) for batch, (_, theirs) in appends.items()},
            "appends_ratio": {batch: _ratio(*pairs) for batch, pairs in appends.items()},
            "read_and_hash_s": _median(floors),
            "verify_ratio": _ratio(checks, floors),
        },
        "entries": plan.entries,
        "built_per_s": round(plan.entries / built),
        "log_mib": round(path.stat().st_size / 2**20, 1),
        "environment": environment(folder),
    }


def _drafts(count: int) -> list[Draft]:
    """What a site writes in its rounds: charge, commit, transfer, cosign; in turn."""
    digest, study = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    event = {
        "mechanism": "poisson_gaussian", "noise_multiplier_micro": 1_000_000, "sample_numerator": 1,
        "sample_denominator": 10, "steps": 1, "unit": "record",
    }  # fmt: skip
    bodies: tuple[tuple[str, dict[str, Json]], ...] = (
        ("charge", {"source": "clinic", "event": event, "seq": 1, "head": digest, "base_sha256": digest}),
        ("commit", {"update_sha256": digest, "conformance": {"finite": True, "shape": True}}),
        ("transfer", {"artifact": "update", "recipient": "server", "sha256": digest, "decision": 1}),
        ("cosign", {"origin": "residency/bench/server", "size": 1, "root": digest}),
    )
    rounds = ({"round": 1 + n // 4, "attempt": 1} for n in range(count))
    made = ((bodies[n % 4], round_) for n, round_ in enumerate(rounds))
    return [Draft(kind, body if kind == "cosign" else {**body, **round_}, study) for (kind, body), round_ in made]


def _open(path: Path, key: Ed25519PrivateKey) -> LogStore:
    return LogStore.open(path, "residency/bench/clinic", key)


def _appends(plan: Plan, folder: Path, batch: int) -> tuple[list[float], list[float]]:
    """Entries a second of the log and of the peer, a figure a turn; the first turn warms both up and is left out."""
    drafts = _drafts(batch)
    folder.mkdir()
    ours, theirs = [], []
    with _open(folder / "log.db", Ed25519PrivateKey.generate()) as store, _Table(folder / "table.db") as table:
        store.append_many(drafts)
        same = [store.entry(n).encode() for n in range(batch)]
        for _ in range(1 + plan.turns):
            ours.append(plan.repeats * batch / _timed(plan.repeats, lambda: store.append_many(drafts)))
            theirs.append(plan.repeats * batch / _timed(plan.repeats, lambda: table.append(same)))
    return ours[1:], theirs[1:]


class _Table:
    """Texts in order in one SQLite table, as durable as the log: write-ahead, synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"):
            self._connection.execute(statement)
        self._connection.execute("CREATE TABLE entries (idx INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT")

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def append(self, texts: Sequence[bytes]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO entries (data) VALUES (?)", ((text,) for text in texts))
        self._connection.execute("COMMIT")


def _build(path: Path, key: Ed25519PrivateKey, entries: int) -> float:
    drafts = _drafts(_BUILD)
    start = time.perf_counter()
    with _open(path, key) as store:
        for first in range(0, entries, _BUILD):
            store.append_many(drafts[: entries - first])
        store.checkpoint()
    return time.perf_counter() - start


def _checks(path: Path, key: Ed25519PrivateKey, times: int) -> tuple[list[float], list[float]]:
    ours, floors = [], []
    for _ in range(times):
        with _open(path, key) as store:
            ours.append(_timed(1, store.fsck))
        floors.append(_timed(1, lambda: look(path, _read_and_hash)))
    return ours, floors


def _read_and_hash(connection: sqlite3.Connection) -> None:
    for (data,) in connection.execute("SELECT data FROM entries ORDER BY idx"):
        hashlib.sha256(data).digest()


def _proofs(path: Path, key: Ed25519PrivateKey, count: int) -> list[float]:
    """Milliseconds of one inclusion proof each."""
    with _open(path, key) as store:
        size = store.size
        wanted = [_PROOFS.randrange(size) for _ in range(count)]
        return [1000 * _timed(1, partial(store.inclusion_proof, index)) for index in wanted]


def _timed(repeats: int, work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return time.perf_counter() - start


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _spread(values: Sequence[float]) -> dict[str, Json]:
    return {"min": round(min(values), 3), "max": round(max(values), 3), "samples": len(values)}


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def environment(folder: Path) -> dict[str, Json]:
    """What the figures depend on: the machine, the versions, the file system under `folder`."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": _file_system(folder),
    }


def _file_system(folder: Path) -> str:
    """The type of the mount that `folder` lies on; what lies in memory is durable in name only."""
    where = str(folder.resolve())
    mounts = [line.split(" ") for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    over = [(len(m[1]), m[2]) for m in mounts if where == m[1] or where.startswith(m[1].rstrip("/") + "/")]
    return max(over)[1] if over else "unknown"


def lines(found: dict[str, Json]) -> list[str]:
    """For people."""
    peer, spread = found["peer"], found["spread"]
    shown = [
        f"durable appends a second, batches of {batch}: {value:.0f} "
        f"({spread['appends_per_s'][batch]['min']:.0f} to {spread['appends_per_s'][batch]['max']:.0f}; "
        f"{peer['appends_ratio'][batch]:.2f} of bare SQLite)"
        for batch, value in found["appends_per_s"].items()
    ]
    pages = found["desk_page_ms_p95"]
    return [
        *shown,
        f"check of {found['entries']} entries: {found['verify_1m_s']:.1f} s ({peer['verify_ratio']:.1f} of the floor)",
        f"an inclusion proof from {found['entries']} entries: {found['proof_ms']:.2f} ms",
        "a page of the desk: not measured, the extra `desk` is not installed"
        if pages is None
        else f"a page of the desk, 95th percentile: {pages:.0f} ms",
        f"{found['log_mib']} MiB on {found['environment']['file_system']}",
    ]
