"""`residency log export` and `residency verify` of what it wrote, as a person calls them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from compliance import clock
from compliance.commands import log_export, verify
from compliance.errors import EnvironmentFault
from compliance.export import check, folder
from compliance.identity import save_signer
from compliance.log.store import Appended, LogStore
from compliance.log.view import read_views
from residency import cli
from tests.exports import MEMBER, WHEN, home_of
from tests.world import stopped_clock, world


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_of(world(), tmp_path_factory.mktemp("homes") / "home")


@pytest.fixture
def home(first: Path, tmp_path: Path) -> Path:
    """A home with a log, its key and a trust file."""
    return Path(shutil.copytree(first, tmp_path / "home"))


LOADED = (check, folder, log_export, verify)  # before any clock is stopped: whoever imports `now` keeps what it finds


def call(*words: object, obj: dict[str, str] | None = None) -> Result:
    with stopped_clock(clock.parse_time("2026-11-22T11:00:00Z")):
        return CliRunner().invoke(cli, [str(w) for w in words], obj=obj)


def ok(*words: object) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def refused(exit_code: int, code: str, *words: object) -> str:
    done = call(*words)
    assert done.exit_code == exit_code, done.output
    assert f"error {code}" in done.stderr
    return done.stderr


def verified(home: Path, path: Path, *words: object) -> dict[str, Any]:
    return ok("verify", path, "--trust", home / "trust.json", "--at", WHEN, *words)


@pytest.mark.parametrize("name", ["jsonl", "csv", "fhir"])
def test_a_signed_export_is_recorded_and_verifies_elsewhere(home: Path, tmp_path: Path, name: str) -> None:
    before = read_views(home)[0].size
    out = tmp_path / "out"
    made = ok("log", "export", home, "--format", name, "--key", home / "keys/agent.key", "--out", out)
    assert (made["size"], made["entries"], made["signed"], made["logged"]) == (before, before, True, before)
    assert (made["to"], made["decision"], made["not_covered_by_a_checkpoint"]) == (None, None, 0)
    view = read_views(home)[0]
    recorded = view.entries[before]
    assert recorded.kind == "export"
    assert recorded.body["sha256"] == made["files"][0]["sha256"]
    assert (recorded.body["format"], recorded.body["to"], recorded.study) == (name, "", "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    elsewhere = Path(shutil.copytree(out, tmp_path / "auditor"))
    shown = verified(home, elsewhere)
    assert shown["mode"] == "export"
    assert verified(home, elsewhere / "export.json")["proved"] == shown["proved"]
    beside = verified(home, elsewhere, "--log", home)
    assert [s["status"] for s in beside["steps"]] == ["ok"] * 6
    assert f"that it recorded this export in its log, as entry {before}" in beside["asserted"][MEMBER]


def test_what_a_person_reads(home: Path, tmp_path: Path) -> None:
    done = call("log", "export", home, "--key", home / "keys/agent.key", "--out", tmp_path / "out")
    assert "signed with the log's key; recorded as entry" in done.output
    assert "stays in the house" in done.output
    shown = call("verify", tmp_path / "out", "--trust", home / "trust.json", "--at", WHEN).output
    for word in ("PROVED", "ASSERTED BY site-a", "NOT COVERED", "verified:", "cosigned the first"):
        assert word in shown


def test_without_a_key_nobody_vouches_and_every_screen_says_so(home: Path, tmp_path: Path) -> None:
    before = (home / "log.db").read_bytes()
    size = read_views(home)[0].size
    done = call("log", "export", home, "--out", tmp_path / "out")
    assert "NOT SIGNED: nobody vouches" in done.output
    assert "2 entries after the last checkpoint are not in it" in done.output
    assert (home / "log.db").read_bytes() == before
    trust = ("--trust", home / "trust.json", "--at", WHEN)
    refused(1, "RSD-5151", "verify", tmp_path / "out", *trust)
    beside = ok("verify", tmp_path / "out", *trust, "--log", home)
    assert (beside["signed"], beside["size"]) == (False, size - 2)
    assert "nobody signed it" in beside["not_covered"][0]


def test_a_filter_and_a_study_by_its_first_digits(home: Path, tmp_path: Path) -> None:
    key = ("--key", home / "keys/agent.key")
    digest = world().study_digest
    made = ok("log", "export", home, *key, "--study", digest[:8], "--kind", "decision", "--kind", "charge",
              "--since", "2026-11-22", "--until", "2027-01-01", "--out", tmp_path / "a")  # fmt: skip
    assert made["selection"] == {
        "study": digest, "kinds": ["charge", "decision"], "since": "2026-11-22T00:00:00Z",
        "until": "2027-01-01T00:00:00Z",
    }  # fmt: skip
    kinds = {json.loads(line)["entry"]["kind"] for line in (tmp_path / "a/entries.jsonl").read_text().splitlines()}
    assert kinds == {"charge", "decision"}
    verified(home, tmp_path / "a", "--log", home / "log.db")
    for wrong in (digest[:7], "ffffffff", "x"):
        refused(3, "RSD-5144", "log", "export", home, "--study", wrong, "--out", tmp_path / "b")
    refused(3, "RSD-2004", "log", "export", home, "--since", "yesterday", "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_who_may_not_sign(home: Path, tmp_path: Path) -> None:
    size = read_views(home)[0].size
    out = ("--out", tmp_path / "out")
    for holder, role, exit_code, code in (
        ("site-b", "agent", 1, "RSD-5031"),  # a key of another log
        (MEMBER, "dpo", 4, "RSD-6008"),
    ):
        folder = tmp_path / f"{holder}-{role}"
        save_signer(world().keys[holder, role], folder)
        refused(exit_code, code, "log", "export", home, "--key", folder / f"{role}.key", *out)
    (tmp_path / "out").mkdir()
    refused(3, "RSD-2009", "log", "export", home, "--key", home / "keys/agent.key", *out)
    assert read_views(home)[0].size == size
    assert not list((tmp_path / "out").iterdir())


def test_what_is_exported_is_one_log_and_what_is_signed_is_the_log_itself(home: Path, tmp_path: Path) -> None:
    for name, data in world().run.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    refused(3, "RSD-5142", "log", "export", tmp_path / "run", "--out", tmp_path / "x")
    evidence = tmp_path / "run/evidence/site-a.json"
    ok("log", "export", evidence, "--out", tmp_path / "from-evidence")
    verified(home, tmp_path / "from-evidence", "--log", tmp_path / "run")
    for path in (evidence, tmp_path / "run/nothing.db"):
        done = call("log", "export", path, "--key", home / "keys/agent.key", "--out", tmp_path / "x")
        assert done.exit_code == 3, done.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("leaves", "exit_code", "code"), [(9, 1, "RSD-50"), (None, 3, "RSD-5004")])
def test_evidence_that_does_not_fit_its_checkpoint_gives_no_export(
    tmp_path: Path, leaves: int | None, exit_code: int, code: str
) -> None:
    evidence = json.loads(world().run["evidence/site-a.json"])
    if leaves is None:
        evidence["checkpoint"] = evidence["checkpoint"].replace("\n", "\nx\n", 1)
    else:
        evidence |= {"leaf_hashes": evidence["leaf_hashes"][:leaves], "entries": evidence["entries"][:leaves]}
    (tmp_path / "site-a.json").write_text(json.dumps(evidence))
    refused(exit_code, code, "log", "export", tmp_path / "site-a.json", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_for_somebody_needs_a_key_and_the_agents_part(home: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused(2, "RSD-5143", "log", "export", home, "--to", "site-b", *out)
    done = call("log", "export", home, "--to", "site-b", "--key", home / "keys/agent.key", *out, obj={})
    assert (done.exit_code, "RSD-7002" in done.stderr) == (7, True)
    assert not (tmp_path / "out").exists()


def test_a_log_itself_is_verified_and_compared_with_what_a_peer_holds(home: Path, tmp_path: Path) -> None:
    for path in (home, home / "log.db"):
        shown = verified(home, path)
        assert (shown["mode"], shown["origin"]) == ("log", world().origin(MEMBER))
        assert "2 entries after the last checkpoint" in " ".join(shown["asserted"][MEMBER])
    held = tmp_path / "held.txt"
    held.write_text(read_views(home)[0].checkpoints[-1], encoding="utf-8")
    assert "the log continues the held checkpoints" in " ".join(verified(home, home, "--against", held)["proved"])
    other = tmp_path / "other.txt"
    other.write_text(world().held[MEMBER][-1], encoding="utf-8")  # of the log before it was made again
    refused(1, "RSD-9031", "verify", home, "--trust", home / "trust.json", "--at", WHEN, "--against", other)
    refused(5, "RSD-6015", "verify", home)


def test_options_and_files_that_do_not_go_together(home: Path, tmp_path: Path) -> None:
    trust = ("--trust", home / "trust.json")
    refused(2, "RSD-9032", "verify", home, *trust, "--log", home)
    refused(2, "RSD-9032", "verify", tmp_path, *trust, "--log", home)
    refused(2, "RSD-9032", "verify", tmp_path, *trust, "--against", home / "trust.json")
    refused(3, "RSD-5140", "verify", home / "trust.json", *trust)
    (tmp_path / "note.txt").write_text("a text\n")
    refused(3, "RSD-5140", "verify", tmp_path / "note.txt", *trust)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        packed.write(home / "trust.json")
    said = refused(3, "RSD-5140", "verify", tmp_path / "b.zip", *trust)
    assert "found a zip file;" in said
    assert "next: unpack it" in said


def test_a_log_that_was_cut_off_is_told_in_the_words_of_a_reader(home: Path, tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes((home / "log.db").read_bytes()[:9000])
    done = call("verify", tmp_path / "t.db", "--trust", home / "trust.json", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["limit"]) == (1, "a whole SQLite file that this user may read")
    assert "if it was cut off or damaged, obtain it again" in error["next"]


def test_a_full_disk_leaves_nothing_and_no_statement(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = read_views(home)[0].size

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compliance.export.folder.os.fsync", full)
    done = call("log", "export", home, "--out", tmp_path / "out")
    assert (done.exit_code, "RSD-7001" in done.stderr) == (7, True)
    assert not (tmp_path / "out").exists()
    assert read_views(home)[0].size == size
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("UPDATE entries SET data = CAST(replace(data, 'salt', 'sbit') AS BLOB) WHERE idx = 5", "RSD-5033"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND i = 5", "RSD-5033"),
        ("DELETE FROM entries WHERE idx = 5", "RSD-50"),
        ("UPDATE checkpoints SET note = replace(note, 'site-a', 'site-b')", "is not signed by a key of site-a"),
    ],
    ids=["an entry", "a leaf", "an entry gone", "a checkpoint"],
)
def test_a_log_that_was_changed_does_not_verify(home: Path, change: str, cause: str) -> None:
    with closing(sqlite3.connect(home / "log.db")) as db, db:
        db.execute(change)
    done = call("verify", home, "--trust", home / "trust.json", "--at", WHEN)
    assert done.exit_code == 1, done.output
    assert "error RSD-9030" in done.stderr
    assert cause in done.stderr


def test_what_cannot_be_recorded_is_not_handed_out(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = LogStore.append

    def full(log: LogStore, kind: str, body: dict[str, Any], study: str = "") -> Appended:
        if kind == "export":
            raise EnvironmentFault("RSD-5030", "the disk is full")
        return append(log, kind, body, study)

    monkeypatch.setattr(LogStore, "append", full)
    done = call("log", "export", home, "--key", home / "keys/agent.key", "--out", tmp_path / "out")
    assert (done.exit_code, "RSD-5030" in done.stderr) == (7, True)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
