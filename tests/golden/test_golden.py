"""Bundles of released versions, kept as they were: every later version verifies them as of their day.

They are judged as by a version that is not theirs: so their law packs need not be the installed ones, and that these
are those of their day is the members' word. Nobody holds the private keys any more. The next one: `make_golden.py`.
"""

from __future__ import annotations

import json
import tarfile
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from compliance.clock import parse_time
from compliance.law.regions import load_regions
from compliance.release import verify_packs
from compliance.release.report import STEPS, Report
from compliance.release.verify import verify_bundle
from compliance.trust.root import Anchor, open_trust
from tests.world import failed, said, world

HERE = Path(__file__).parent
KEPT = sorted(p.name.removesuffix(".tar.xz") for p in HERE.glob("bundle-*.tar.xz"))
MOST_BYTES = 400 * 1024


@cache
def kept(name: str) -> tuple[dict[str, bytes], Anchor, dict[str, Any]]:
    """The files of a bundle, the trust file of its day, and what its own version found."""
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        held = {m.name: f.read() for m in archive if (f := archive.extractfile(m)) is not None}
    files = {p.removeprefix("bundle/"): d for p, d in held.items() if p.startswith("bundle/")}
    return files, open_trust(held["trust.json"], "trust.json"), json.loads((HERE / f"{name}.json").read_bytes())


def judged(name: str, files: dict[str, bytes] | None = None, days: int = 0) -> Report:
    whole, anchor, facts = kept(name)
    return verify_bundle(files or whole, anchor, parse_time(facts["at"]) + timedelta(days=days))


@pytest.fixture(autouse=True)
def _another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_packs, "VERSION", "99.0.0")


def test_there_is_one_and_none_is_large() -> None:
    assert KEPT
    assert all((HERE / f"{name}.tar.xz").stat().st_size < MOST_BYTES for name in KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_bundle_verifies_as_of_its_day(name: str) -> None:
    report, facts = judged(name), kept(name)[2]
    assert report.error is None, report.error
    assert [r.status for r in report.results] == ["ok"] * len(STEPS)
    assert {**report.facts, "files": facts["files"]} == facts
    assert len(kept(name)[0]) == facts["files"]


@pytest.mark.parametrize("name", KEPT)
def test_any_changed_file_is_seen(name: str) -> None:
    for path, data in kept(name)[0].items():
        if path == "manifest.json":
            continue
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        number, message = failed(judged(name, {**kept(name)[0], path: changed}))
        assert (number, path in message) == (1, True), path


@pytest.mark.parametrize("name", KEPT)
def test_a_changed_manifest_an_expired_or_a_foreign_trust_file_is_seen(name: str) -> None:
    files, _, facts = kept(name)
    manifest = files["manifest.json"].replace(b'"sig":"', b'"sig":"A', 1)
    assert failed(judged(name, {**files, "manifest.json": manifest}))[0] == 1
    assert failed(judged(name, days=4000))[0] == 2
    assert failed(judged(name, days=-1))[0] == 2
    assert failed(verify_bundle(files, world().anchor, parse_time(facts["at"])))[0] == 1


@pytest.mark.parametrize("name", KEPT)
def test_with_other_packs_installed_it_is_the_members_word_that_these_were_those_of_the_day(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = load_regions(load_regions().raw + b"# as of a later day\n")
    monkeypatch.setattr(verify_packs, "load_regions", lambda: later)
    version = name.removeprefix("bundle-")
    assert f"these are the packs and region sets of {version}" in said(judged(name))
    monkeypatch.setattr(verify_packs, "VERSION", version)
    assert failed(judged(name))[0] == 6, "of its own version they must be the installed ones"
