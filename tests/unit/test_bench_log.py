"""`residency bench log`: the form of what it prints, and that what it calls a peer does the same work."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import log, log_desk
from bench.command import bench
from compliance.log.view import read_views


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    ran = CliRunner().invoke(bench, ["log", "--short", "--json"])
    assert ran.exit_code == 0, ran.output
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_the_form(found: Mapping[str, Any]) -> None:
    assert set(found["appends_per_s"]) == {"1", "100"}
    figures = [*found["appends_per_s"].values(), found["verify_1m_s"], found["proof_ms"], found["desk_page_ms_p95"]]
    assert all(isinstance(f, float) and f > 0 for f in figures)
    assert found["entries"] == log.SHORT.entries
    for batch in ("1", "100"):
        spread = found["spread"]["appends_per_s"][batch]
        assert spread["min"] <= found["appends_per_s"][batch] <= spread["max"]
        assert spread["samples"] == log.SHORT.turns
    assert set(found["environment"]) == {"machine", "cpus", "load_1m", "python", "sqlite", "file_system"}
    assert len(log.lines(dict(found))) == 6


def test_without_the_desk_the_command_says_so(found: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_desk, "find_spec", lambda _: None)
    assert log_desk.page_ms_p95(Path("none"), [], 1) is None
    assert "the extra `desk` is not installed" in log.lines({**found, "desk_page_ms_p95": None})[4]


def test_the_peer_is_as_durable_and_writes_the_same_bytes(tmp_path: Path) -> None:
    with log._Table(tmp_path / "table.db") as table:
        table.append([b"one", b"two"])
        table.append([b"three"])
        connection = table._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with sqlite3.connect(tmp_path / "table.db") as read:
        assert read.execute("SELECT data FROM entries ORDER BY idx").fetchall() == [(b"one",), (b"two",), (b"three",)]
    read.close()


def test_the_large_log_holds_what_sites_write(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    log._build(tmp_path / "log.db", Ed25519PrivateKey.generate(), 1001)
    (view,) = read_views(tmp_path / "log.db")
    assert view.size == 1001
    assert {e.kind for e in view.entries.values()} == {"charge", "commit", "transfer", "cosign"}
    assert len(view.checkpoints) == 1


def test_a_ratio_is_the_median_of_pairs() -> None:
    assert log._ratio([1.0, 2.0, 30.0], [2.0, 2.0, 1.0]) == 1.0
    assert log._file_system(Path("/proc/self")) == "proc"
