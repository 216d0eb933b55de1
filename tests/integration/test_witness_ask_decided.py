"""A checkpoint that is handed to an outside witness by file: decided by the law set of whose log it is, and logged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compliance.identity import seal
from compliance.log import checkpoint, note
from compliance.log.view import read_views
from compliance.log.witness_home import WitnessHome
from compliance.log.witness_protocol import parse_request
from compliance.release.bodies import read_decision
from tests.desk import ok, refused
from tests.federation import OPERATOR, consortium
from tests.witnesses import WITNESS


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Path]:
    """The operator's home and that of a German site, before any run."""
    hub = Path(shutil.copytree(consortium().hub, tmp_path / "hub", ignore=shutil.ignore_patterns("runs", "studies")))
    return {OPERATOR: hub, "a": consortium().copy_home("a", tmp_path / "sites")}


def name(home: Path, place: str) -> Path:
    """The witness's folder, after the trust file of the home names its key, and its place if there is one."""
    witness = WitnessHome.make(home.parent / f"witness{place}", WITNESS, 300)
    record = json.loads(consortium().anchor.envelope.payload)
    record |= {"version": 2, "previous": consortium().anchor.digest}
    record["keys"].append(witness.signer().identity.as_json())
    if place:
        record["witnesses"] = [{"name": WITNESS, "jurisdiction": place}]
    (home / "trust.json").write_bytes(seal(record, *consortium().signatories.values()).encode() + b"\n")
    return witness.root


@pytest.mark.parametrize("member", [OPERATOR, "a"])
def test_it_is_decided_and_logged_before_the_request_is_made(
    homes: dict[str, Path], tmp_path: Path, member: str
) -> None:
    home, out = homes[member], tmp_path / "request.txt"
    folder, trust = name(home, "US"), ("--trust", home / "trust.json")
    made = ok("log", "witness", "ask", home, "--to", WITNESS, *trust, "--out", out)
    (view,) = read_views(home)
    decision = read_decision(view.entries[made["decision"]], "the log").decision
    assert (decision.allow, decision.transfer.artifact, decision.transfer.purpose) == (True, "log_checkpoint", "audit")
    assert (decision.transfer.exporter.name, decision.recipient.name) == (member, WITNESS)
    assert decision.recipient.jurisdiction == "US"
    asked = parse_request(out.read_bytes())
    assert checkpoint.parse_text(note.parse(asked.note).text).size == made["size"] == made["decision"] + 1
    ok("log", "witness", "cosign", out, "--home", folder, *trust, "--out", tmp_path / "cosigned")
    refused(3, "RSD-2009", "log", "witness", "ask", home, "--to", WITNESS, *trust, "--out", out)
    assert read_views(home)[0].size == made["size"]


@pytest.mark.parametrize("member", [OPERATOR, "a"])
def test_a_denial_is_logged_and_makes_nothing(homes: dict[str, Path], tmp_path: Path, member: str) -> None:
    home, out = homes[member], tmp_path / "request.txt"
    name(home, "")
    before = read_views(home)[0].size
    words = ("log", "witness", "ask", home, "--trust", home / "trust.json", "--out", out)
    error = refused(4, "RSD-3100", *words, "--to", WITNESS)
    assert "consortium admit --witness FILE --jurisdiction CODE" in error["next"]
    (view,) = read_views(home)
    added = [view.entries[i] for i in range(before, view.size)]
    assert {(e.kind, e.body["allow"], e.body["rule"]) for e in added} == {
        ("decision", False, "engine.unknown-jurisdiction")
    }
    refused(4, "RSD-5110", *words, "--to", "stranger")
    assert read_views(home)[0].size == view.size
    assert not out.exists()
