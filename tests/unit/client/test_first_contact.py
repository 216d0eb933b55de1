"""The enrolment request, before there is a law set: decided by every installed pack, and the first entry of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compliance.identity import save_signer
from compliance.log.view import read_views
from compliance.release.bodies import read_decision
from compliance.trust.enrol import make_invitation
from residency import cli
from tests.unit.trust.test_enrolment import CONFIG, WORLD


def enrol(folder: Path, jurisdiction: str) -> Result:
    """`agent enroll` of the site berlin, said to lie in `jurisdiction`; the request goes into a file."""
    office, kit = folder / "office", folder / "kit.json"
    if not office.exists():
        for person in (WORLD.signatories["berlin"], WORLD.dpos["berlin"]):
            save_signer(person, office)
        kit.write_bytes(make_invitation(CONFIG, WORLD.operator, "berlin", jurisdiction, "PEM").encode())
    words = ["agent", "enroll", kit, "--home", folder / "home", "--out", folder / "request.json", "--json"]
    words += ["--signatory", office / "signatory.pub.json", "--dpo", office / "dpo.pub.json"]
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_decision_is_in_the_log_before_the_request_exists(tmp_path: Path) -> None:
    assert enrol(tmp_path, "DE").exit_code == 0
    (log,) = read_views(tmp_path / "home")
    (entry,) = log.entries.values()
    decided = read_decision(entry, "the log")
    sent = decided.decision.transfer
    assert decided.decision.allow
    assert (sent.artifact, sent.exporter.jurisdiction, sent.recipient.name) == ("answer", "DE", CONFIG.operator.name)
    assert set(decided.decision.packs) == {"eu"}
    assert log.origin == f"residency/{CONFIG.name}/berlin"


@pytest.mark.parametrize("jurisdiction", ["XX", "AQ"])
def test_a_country_that_no_rule_knows_is_told_by_its_code(tmp_path: Path, jurisdiction: str) -> None:
    error = json.loads(enrol(tmp_path, jurisdiction).stdout)["error"]
    assert (error["code"], error["found"]) == ("RSD-3100", jurisdiction)
    assert "country" in error["limit"]


@pytest.mark.parametrize("jurisdiction", ["IN", "RU", "AQ"])
def test_a_site_whose_law_forbids_it_sends_no_request(tmp_path: Path, jurisdiction: str) -> None:
    result = enrol(tmp_path, jurisdiction)
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (4, "RSD-3100")
    assert not (tmp_path / "request.json").exists()
    (log,) = read_views(tmp_path / "home")
    assert not read_decision(log.entries[0], "the log").decision.allow


def test_a_repeated_request_is_decided_again(tmp_path: Path) -> None:
    assert enrol(tmp_path, "GB").exit_code == 0
    (tmp_path / "request.json").unlink()
    assert enrol(tmp_path, "GB").exit_code == 0
    (log,) = read_views(tmp_path / "home")
    assert [e.kind for e in log.entries.values()] == ["decision", "decision"]
