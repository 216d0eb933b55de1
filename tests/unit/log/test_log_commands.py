"""`residency log fsck` and `log compact` on homes and files; what `verify` says two years later; the table of kinds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from compliance import clock
from compliance.canonical import canonical
from compliance.clock import now, rfc3339
from compliance.identity import load_signer, new_signer, save_signer
from compliance.log.evidence import build_evidence
from compliance.log.kinds import KIND_OF
from compliance.log.note import parse_line
from compliance.log.store import Draft, LogStore
from compliance.log.witness import WitnessStore
from compliance.log.witness_home import WitnessHome
from tests import witnesses
from tests.desk import OPERATOR, Consortium, consortium, ok, refused, run, signer
from tests.log_drafts import CLOSE, commit, refusal_body

ROOT = Path(__file__).parents[3]
YEARS = timedelta(days=8000)  # past every floor
OVER = "ab" * 32
OWN = ("--ceiling", "transfer=365", "--ceiling", "decision=365")  # no regime of Germany says how long
ORIGIN = "residency/thyroid/berlin"
WITNESS = f"residency/thyroid/{OPERATOR}/witness"


@pytest.fixture(scope="module")
def people() -> Consortium:
    """Keys that were valid all the time."""
    made, start = consortium(), -9000
    return replace(
        made,
        operator=signer("operator", OPERATOR, start),
        agents={name: signer("agent", name, start) for name in made.agents},
    )


@pytest.fixture
def home(tmp_path: Path, people: Consortium) -> Path:
    """What a site's home holds, years after a study was over, its log cosigned by the operator."""
    folder, long_ago = tmp_path / "home", now() - YEARS
    save_signer(people.agents["berlin"], folder / "keys")
    (folder / "trust.json").write_bytes(people.trust("berlin", "leeds").encode() + b"\n")
    ok("law", "init", "--site", "berlin", "--jurisdiction", "DE", "--out", folder / "law.json")
    with (
        patch.object(clock, "now", lambda: long_ago),
        _log(folder) as log,
        WitnessStore(tmp_path / "witness.db", WITNESS, people.operator.private) as witness,
    ):
        log.append_many([commit(0, study=OVER), Draft("refusal", refusal_body()), Draft("close", CLOSE, OVER)])
        done = witness.cosign(log.checkpoint(), log.public_key, 0, ())
        log.add_cosignature(done.size, done.line, {WITNESS: people.operator.private.public_key()})
    return folder


def _log(home: Path) -> LogStore:
    return LogStore.open(home / "log.db", ORIGIN, load_signer(home / "keys" / "agent.key").private)


def _trust(home: Path) -> Path:
    return home / "trust.json"


def test_fsck_of_a_whole_log(home: Path) -> None:
    before = {p.name: p.read_bytes() for p in home.iterdir() if p.is_file()}
    found = ok("log", "fsck", home, "--trust", _trust(home))
    assert (found["size"], found["origin"], found["expired"]) == (3, ORIGIN, {})
    assert found["cosigned"] == {WITNESS: 3}
    assert ok("log", "fsck", home / "log.db")["judged_by"] == "the key in the file"
    assert {p.name: p.read_bytes() for p in home.iterdir() if p.is_file()} == before


def test_what_a_witness_cosigned_with_a_key_that_it_changed_since_still_counts(tmp_path: Path) -> None:
    made = witnesses.small(tmp_path)
    place = WitnessHome(made.witness)
    old, new = place.signer(), new_signer("witness", witnesses.WITNESS, witnesses.day(0), witnesses.day(300))
    with made.log("a") as log, place.store(old) as store:
        done = store.cosign(log.checkpoint(), log.public_key, 0, ())
        log.add_cosignature(done.size, done.line, {witnesses.WITNESS: old.private.public_key()})
    ended = replace(old, identity=old.identity.model_copy(update={"revoked_at": witnesses.day(0)}))
    made.write_trust(ended, new, version=2, previous=made.anchor.digest)
    assert ok("log", "fsck", made.home("a"), "--trust", made.trust)["cosigned"] == {witnesses.WITNESS: 3}
    with closing(sqlite3.connect(made.home("a") / "log.db", isolation_level=None)) as connection:
        strange = replace(parse_line(done.line), key_id=bytes(4))
        connection.execute("UPDATE cosignatures SET line = ?", (strange.line(),))
    refused(1, "RSD-5002", "log", "fsck", made.home("a"), "--trust", made.trust)


def test_fsck_names_the_first_bad_thing(home: Path) -> None:
    connection = sqlite3.connect(home / "log.db", isolation_level=None)
    change = "CAST(replace(CAST(data AS TEXT), 'RSD-3100', 'RSD-3101') AS BLOB)"
    connection.execute(f"UPDATE entries SET data = {change} WHERE idx = 1")  # noqa: S608 - a constant
    connection.close()
    assert "entry 1 of log" in refused(1, "RSD-5033", "log", "fsck", home)["message"]


def test_fsck_judges_by_the_trust_file(home: Path, tmp_path: Path, people: Consortium) -> None:
    with LogStore.open(tmp_path / "x" / "log.db", ORIGIN, people.agents["leeds"].private) as log:
        log.append("refusal", refusal_body())
        log.checkpoint()
    ok("log", "fsck", tmp_path / "x")  # by its own key all is well
    refused(1, "RSD-5031", "log", "fsck", tmp_path / "x", "--trust", _trust(home))
    refused(3, "RSD-5060", "log", "fsck", tmp_path)


def test_a_clock_that_was_set_back_is_told(home: Path) -> None:
    earlier = now() - YEARS - timedelta(days=2)
    with patch.object(clock, "now", lambda: earlier), _log(home) as log:
        log.append("refusal", refusal_body(1))
    assert "its tree is whole" in refused(1, "RSD-5063", "log", "fsck", home)["message"]


def _texts(home: Path) -> bytes:
    return b"".join(p.read_bytes() for p in home.glob("log.db*"))


def test_what_would_go_is_shown_and_nothing_changes(home: Path) -> None:
    law = ("--law", home / "law.json")
    refused(2, "RSD-5064", "log", "compact", home, *law, "--at", rfc3339(now() + YEARS))
    refused(2, "RSD-3081", "log", "compact", home, *law, "--ceiling", "gossip=1")
    before = (home / "log.db").read_bytes()
    found = ok("log", "compact", home, *law, *OWN, "--dry-run", "--at", rfc3339(now() + YEARS))
    assert {p["class"] for p in found["parts"]} == {"transfer", "decision"}
    early = ok("log", "compact", home, *law, *OWN, "--at", rfc3339(now() - YEARS + timedelta(days=30)))
    assert (early["entries"], early["parts"]) == (0, [])
    assert (home / "log.db").read_bytes() == before


def test_years_later_verify_says_expired_and_leaf_proven(home: Path, tmp_path: Path) -> None:
    assert ok("log", "compact", home, "--law", home / "law.json", "--expired")["entries"] == 0  # no floor, no leave
    found = ok("log", "compact", home, "--law", home / "law.json", *OWN)
    assert (found["entries"], found["copies_left"]) == (2, False)
    assert b"refusal 0" not in _texts(home)
    with _log(home) as log:
        evidence = build_evidence(log, [0, 1, 2])
    file = tmp_path / "evidence.json"
    file.write_bytes(canonical(evidence.model_dump(mode="json")))
    assert ok("log", "fsck", home, "--trust", _trust(home))["expired"] == {"transfer": 1, "decision": 1}
    said = run("log", "fsck", home).output
    assert "1 entries of class decision, before " in said
    assert "not judged whether what was removed had expired" in said
    for path in (file, home / "log.db"):
        shown = ok("verify", path, "--trust", _trust(home))
        assert shown["expired"] == {"decision": 1, "transfer": 1}
        said = run("verify", path, "--trust", _trust(home)).output
        assert "1 entries removed, as the log says: class decision, before " in said
        assert "that the removed entries had expired" in said
    assert ok("log", "compact", home, "--law", home / "law.json", *OWN)["entries"] == 0


def test_the_table_of_kinds_in_the_page_is_the_registry() -> None:
    words = {"ever": "never", "study": "study closed", "newest": "not the newest", "free": "yes"}
    rows = [
        f"| `{s.kind}` | {s.version} | {s.record_class} | {words[s.needed]} | {s.about} |" for s in KIND_OF.values()
    ]
    page = (ROOT / "docs" / "log.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith("| `") and line.count("|") == 6] == rows
