"""`residency audit evidence` and `residency verify` on what it wrote, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from residency import cli
from tests.world import AT, OPERATOR, stopped_clock, world

WHEN = AT.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and the trust file beside it."""
    made, folder = world(), tmp_path_factory.mktemp("auditor")
    (folder / "trust.json").write_bytes(made.trust)
    for path, data in made.run.items():
        (folder / "run" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / path).write_bytes(data)
    return folder


def call(*words: object) -> Result:
    with stopped_clock(AT):
        return CliRunner().invoke(cli, [str(w) for w in words])


def evidence(place: Path, *words: object, study: str = "thyroid-one") -> Result:
    trust = ("--trust", place / "trust.json")
    return call("audit", "evidence", place / "run", "--regime", "gdpr", "--study", study, *trust, *words)


def test_it_writes_a_page_and_a_file_that_verify_checks(place: Path) -> None:
    made = evidence(place, "--out", place / "out")
    assert made.exit_code == 0, made.output
    assert "evidence shown" in made.output
    assert "no legal advice" in made.output
    data = (place / "out" / "dossier.json").read_bytes()
    trust = ("--trust", place / "trust.json", "--at", WHEN)
    good = call("verify", place / "out" / "dossier.json", *trust, "--log", place / "run")
    assert good.exit_code == 0, good.output
    assert "every row, made again from the entries, is the same" in good.output
    assert call("verify", place / "out", *trust).exit_code == 0
    page = call("verify", place / "out" / "dossier.html", *trust)
    assert (page.exit_code, f"give {place / 'out' / 'dossier.json'}" in page.output) == (3, True)
    (place / "edited.json").write_bytes(data.replace(b'"DENY"', b'"ALLOW"', 1))
    bad = call("verify", place / "edited.json", *trust, "--json")
    assert bad.exit_code == 1
    said = json.loads(bad.output)
    assert (said["failed_step"], said["error"]["code"]) == (6, "RSD-9106")
    assert "GDPR Art 30(1)" in said["error"]["message"]
    assert (place / "out" / "dossier.html").read_text().count("DENY") >= 8
    again = evidence(place, "--out", place / "out")
    assert (again.exit_code, "RSD-2009" in again.output) == (3, True)


@pytest.mark.parametrize("lure", ["export.json", "log.db", "checkpoint", "dossier.json"])
def test_a_bundle_is_judged_as_one_whatever_lies_beside_its_manifest(place: Path, lure: str) -> None:
    """Whoever fills the folder could lay a sound log there, and have that judged instead of the release."""
    folder = place / f"lure-{lure}"
    for path, data in {**world().bundle, lure: b"sound by itself"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    said = json.loads(call("verify", folder, "--trust", place / "trust.json", "--at", WHEN, "--json").output)
    assert (said["mode"], said["failed_step"]) == ("full", 1)


def test_json_names_articles_logs_and_who_asserts_what(place: Path) -> None:
    made = evidence(place, "--json", study=world().study_digest[:12])
    found = json.loads(made.output)
    assert (found["ok"], found["regime"], found["draft"]) == (True, "gdpr", True)
    assert {a["id"] for a in found["articles"]} == {"art-30", "art-32", "art-35-annex", "art-44-49"}
    assert found["missing"] == ["site-e"]
    assert OPERATOR in found["asserted"]


def test_a_file_of_evidence_is_enough_with_the_signed_study(place: Path) -> None:
    log = place / "run" / "evidence" / "site-b.json"
    words = ("--regime", "hipaa", "--trust", place / "trust.json")
    made = call("audit", "evidence", log, *words, "--study", place / "run" / "study.json")
    assert made.exit_code == 0, made.output
    assert "site-b: 22 entries of the study, counted" in made.output
    assert "no log of  coordinator, site-a" in made.output
    named = call("audit", "evidence", log, *words, "--study", world().study_digest)
    assert named.exit_code == 0, named.output


def test_the_list_needs_nothing() -> None:
    told = call("audit", "evidence", "--list")
    assert told.exit_code == 0
    assert "(NOT COVERED)" in told.output
    assert "DRAFT, no counsel" in told.output
    found = json.loads(call("audit", "evidence", "--list", "--json").output)
    assert len(found["regimes"]) == 6


def test_what_is_missing_is_said(place: Path) -> None:
    cases = {
        "RSD-9115": (2, call("audit", "evidence", place / "run")),
        "RSD-6015": (5, call("audit", "evidence", place / "run", "--regime", "gdpr", "--study", "thyroid-one")),
        "RSD-9110": (3, evidence(place, "--regime", "moon")),
        "RSD-9114": (3, evidence(place, study="thyroid-two")),
        "RSD-9111": (3, evidence(place, study="ab" * 32)),
    }
    for code, (exit_code, made) in cases.items():
        assert (made.exit_code, code in made.output) == (exit_code, True), made.output
