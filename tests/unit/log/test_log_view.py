"""Logs as a reader finds them, however large their files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance import files
from compliance.identity import new_signer
from compliance.log.store import LogStore
from compliance.log.view import is_database, read_views
from tests.log_drafts import commit


def test_a_database_larger_than_other_inputs_may_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_signer("agent", "clinic", "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z").private
    with LogStore.open(tmp_path / "log.db", "residency/net/clinic", key) as log:
        log.append_many([commit(n, pad=200) for n in range(50)])
    monkeypatch.setattr(files.read_bytes, "__defaults__", (1000,))
    assert (tmp_path / "log.db").stat().st_size > 1000
    (log_file,) = read_views(tmp_path / "log.db")
    assert (log_file.size, log_file.member) == (50, "clinic")


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"SQLite")
    assert not is_database(tmp_path / "short")
    assert not is_database(tmp_path)
