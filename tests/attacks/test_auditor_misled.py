"""What would make an auditor believe more than was checked: another file judged than the one that is meant, keys that
had ended, texts that nobody with a key let go of, records that no table shows, names that drive a terminal."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compliance.canonical import parse_canonical
from compliance.cli import visible
from compliance.dossier.build import build
from compliance.dossier.page import html
from compliance.dossier.regime import regime_called
from compliance.dossier.verify import verify_dossier
from compliance.errors import CheckFailed, InputError
from compliance.export.check import verify_export
from compliance.export.make import EVERYTHING, export
from compliance.export.statement import FormatName, Selection
from compliance.identity import Signer, new_signer, parse_envelope, seal
from compliance.law.model import Party
from compliance.log import checkpoint, expired, fsck, merkle, tree
from compliance.log.entry import Entry, new_entry
from compliance.log.evidence import closing_body
from compliance.log.view import LogView, seen, view_of
from compliance.release import bundle_folder
from compliance.release.case import evidence_bytes
from compliance.release.evidence_check import verify_evidence, verify_log
from compliance.release.proof_check import verify_proof
from compliance.release.tlog_proof import TlogProof
from compliance.trust.root import Anchor, open_trust
from residency import cli
from tests import dossiers, exports
from tests.world import AT, rebuilt, world

A = exports.MEMBER
LATER = AT + timedelta(days=1)


def lay(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def verify(path: Path, *words: object) -> tuple[int, dict[str, Any]]:
    trust = path.parent / "trust.json"
    trust.write_bytes(world().trust)
    call = ["verify", path, "--trust", trust, "--at", LATER.strftime("%Y-%m-%dT%H:%M:%SZ"), "--json", *words]
    done = CliRunner().invoke(cli, list(map(str, call)))
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, json.loads(done.output)


def log() -> LogView:
    return exports.view_of(world(), exports.entries_of(world()))


def signed_export(
    name: FormatName = "jsonl", selection: Selection = EVERYTHING, view: LogView | None = None
) -> dict[str, bytes]:
    return export(view or log(), name, selection, world().log_signer(A))


@pytest.mark.parametrize("sound", ["evidence/site-a.json", "proofs/site-a.close.tlog-proof"])
@pytest.mark.parametrize("name", ["export.json", "checkpoint", "log.db"])
def test_a_folder_is_judged_as_what_its_file_is_called_and_as_nothing_else(
    name: str, sound: str, tmp_path: Path
) -> None:
    files = {**signed_export("csv"), "entries.csv": b"forged", name: world().bundle[sound]}
    code, said = verify(lay(tmp_path / "handed", files if name == "export.json" else {name: world().bundle[sound]}))
    assert (code, said["error"]["code"]) == (3, "RSD-5140")


def test_a_bundle_without_its_manifest_is_no_home_with_a_log(tmp_path: Path) -> None:
    home = exports.home_of(world(), tmp_path / "home")
    files = {p: d for p, d in world().bundle.items() if p != "manifest.json"}
    folder = lay(tmp_path / "bundle", {**files, "log.db": (home / "log.db").read_bytes()})
    code, said = verify(folder)
    assert (code, said["failed_step"]) == (1, 1)
    (folder / "manifest.json").symlink_to(tmp_path / "nowhere")
    assert verify(folder)[0] == 1


def ended() -> tuple[Signer, Anchor]:
    """A key that site-a held the year before, and the trust file that still names it."""
    old = new_signer("agent", A, "2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z")
    said = parse_canonical(parse_envelope(world().trust.rstrip(b"\n"), "trust").payload, "trust")
    said["keys"].append(old.identity.as_json())
    signers = (world().keys[s, "signatory"] for s in ("site-a", "site-b", "site-c"))
    return old, open_trust(seal(said, *signers).encode() + b"\n", "trust")


def test_a_key_that_had_ended_signs_no_later_entry() -> None:
    old, anchor = ended()
    real = log()
    tip = checkpoint.Checkpoint(real.origin, real.size, merkle.root(list(real.leaf_hashes)))
    forged = replace(real, checkpoints=(checkpoint.sign(tip, old.private),))
    files = exports.signed_again(signed_export(view=forged), old, created="2025-06-01T00:00:00Z")
    assert exports.failed(verify_export(files, anchor, LATER)) == (5, "RSD-5155")
    path = tuple(merkle.inclusion_proof(merkle.subtrees_of(list(real.leaf_hashes)), 5, real.size))
    proof = TlogProof(real.entries[5].encode(), 5, path, forged.checkpoints[0])
    assert exports.failed(verify_proof(proof.encode(), anchor, LATER)) == (2, "RSD-9142")
    honest = rebuilt(world(), A, real.entries.values())
    evidence = honest.model_copy(update={"checkpoint": forged.checkpoints[0]})
    assert exports.failed(verify_evidence(evidence_bytes(evidence), (), anchor, LATER)) == (1, "RSD-9030")
    assert verify_evidence(evidence_bytes(honest), (), anchor, LATER).error is None


def with_unsigned_compaction(view: LogView, gone: Iterable[int]) -> LogView:
    """The log without these texts, and behind its checkpoint an entry, unsigned, that says it was on purpose."""
    lost = sorted(gone)
    entry = exports.compaction([view.entries[i] for i in range(view.size)], lost, "decision")
    kept = {i: e for i, e in view.entries.items() if i not in lost} | {entry.index: entry}
    made = seen(view.origin, [*view.leaf_hashes, entry.leaf_hash()], view.checkpoints, kept)
    assert made.whole
    return made


def test_a_line_left_out_is_not_excused_by_a_compaction_that_nobody_signed() -> None:
    real, denial = log(), next(i for i, e in log().entries.items() if e.body.get("effect") == "deny")
    hidden = replace(real, entries={i: e for i, e in real.entries.items() if i != denial})
    beside = with_unsigned_compaction(real, [denial])
    assert exports.failed(exports.judged(world(), signed_export(view=hidden), beside)) == (6, "RSD-5156")
    only = signed_export(selection=Selection(kinds=("decision",)), view=hidden)
    report = exports.judged(world(), only, beside)
    assert report.error is None
    assert any(f"entries {denial} are gone" in text for text in report.asserted()[A])
    assert not [line for r in report.results for line in r.found.proved if "removed, as" in line]


def test_whoever_has_the_file_and_no_key_cannot_have_a_text_called_expired(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(exports.home_of(world(), tmp_path / "home") / "log.db") as held, sqlite3.connect(path) as copy:
        held.backup(copy)
        size = tree.size(copy)
        kept = {e.index: e for e in tree.read(copy, world().origin(A), 0, size)}
        entry = exports.compaction([kept[i] for i in range(size)], [5], "decision")
        tree.insert(copy, size, [entry.encode()])
        copy.execute("UPDATE entries SET data = ? WHERE idx = 5", (expired.mark(size),))
    report = verify_log(path, (), world().anchor, LATER)
    assert report.error is not None
    assert "nobody signed it" in str(report.error.found)
    with sqlite3.connect(path) as copy, pytest.raises(CheckFailed, match="RSD-5062"):
        fsck.check(copy, world().origin(A), world().log_signer(A).private.public_key())


@pytest.mark.parametrize(
    "change",
    ["DELETE FROM log", "UPDATE cosignatures SET size = size + 7", "DELETE FROM checkpoints",
     "UPDATE entries SET data = x'ffffffffffffffff' WHERE idx = 2"],
    ids=["nobodys", "moved", "unsigned", "mark"],
)  # fmt: skip
def test_a_hostile_log_is_a_finding_and_no_crash(change: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(exports.home_of(world(), tmp_path / "home") / "log.db") as held, sqlite3.connect(path) as copy:
        held.backup(copy)
        copy.execute(change)
    assert exports.failed(verify_log(path, (), world().anchor, LATER)) == (1, "RSD-9030")


def test_for_whom_an_export_was_made_is_compared_with_what_the_log_says() -> None:
    to = Party(name="authority", jurisdiction="FR")
    told = to.model_dump(mode="json")
    for recipient, effect, wanted in (
        (told, "allow", None),
        (told, "deny", (6, "RSD-5156")),
        ({**told, "jurisdiction": "CN"}, "allow", (6, "RSD-5156")),
    ):
        body = {"effect": effect, "transfer": {"artifact": "log_export", "recipient": recipient}}
        real = exports.view_of(world(), [*exports.entries_of(world()), new_entry(0, exports.WHEN, "decision", body)])
        claimed = exports.signed_again(signed_export(view=real), world().log_signer(A), to=told, decision=real.size - 1)
        assert exports.failed(exports.judged(world(), claimed, real)) == wanted


def newest(entries: Iterable[Entry], member: str = A) -> LogView:
    """A log of these entries, renumbered, closed and cosigned."""
    kept = [e.model_copy(update={"index": i}) for i, e in enumerate(e for e in entries if e.kind != "close")]
    close = next(e for e in world().entries(member) if e.kind == "close")
    of_study = [e for e in kept if e.study == world().study_digest]
    body = closing_body(of_study, close.body["rosters"])
    return view_of(rebuilt(world(), member, [*kept, close.model_copy(update={"body": body})], ["site-b"]), member)


def changed(kind: str, **fields: Any) -> Callable[[Entry], Entry]:
    return lambda e: e.model_copy(update={"body": {**e.body, **fields}}) if e.kind == kind else e


def test_a_charge_in_another_form_is_not_left_out_of_eps() -> None:
    view = newest(map(changed("charge", note=1), world().entries(A)))
    with pytest.raises(InputError, match="note: unknown field"):
        dossiers.made_of(regime_called("gdpr"), [view])


def test_what_left_by_no_decision_stands_among_the_flows() -> None:
    moved = changed("transfer", decision=0, recipient="site-e", sha256="ee" * 32)
    made = dossiers.made_of(regime_called("us-202"), [newest(map(moved, world().entries(A)))])
    assert dossiers.failed(dossiers.verdict(made)) == (0, "")
    for article in made.articles:
        for table in article.tables:
            if "Left" in table.columns:
                rows = [row.cells for row in table.rows if "NO DECISION" in row.cells]
                assert [(row[2], "ee" * 8 in row[-1]) for row in rows] == [("site-e (CN)", True)] * 2


def test_eps_without_a_delta_is_said_to_be_unknown() -> None:
    entries = [e for e in world().entries(A) if e.kind != "reservation"]
    made = build(regime_called("gdpr"), world().study_digest, [newest(entries)], world().anchor)
    tables = [t for a in made.articles for t in a.tables if "eps spent, at most" in t.columns]
    assert tables
    assert all([row.cells[2] for row in t.rows] == ["not known, no delta is here"] for t in tables)


def test_entries_behind_the_close_that_is_shown_are_nobodys_proof() -> None:
    whole = newest(world().entries(A))
    again = next(e for e in world().entries(A) if e.kind == "decision")
    longer = view_of(rebuilt(world(), A, [*whole.entries.values(), again], ["site-b"]), A)
    made = dossiers.made_of(regime_called("gdpr"), [replace(longer, entries=whole.entries)])
    report = dossiers.verdict(made)
    assert "that after the close here its log holds no entry of the study" in report.asserted()[A]
    beside = dossiers.verdict(made, logs=[with_unsigned_compaction(longer, [longer.size - 1])])
    assert "which of the 1 entries whose text is gone belong here" in beside.asserted()[A]
    assert dossiers.failed(dossiers.verdict(made, logs=[longer]))[0] == 7


def test_a_cosigner_whose_key_ended_before_the_last_entry_does_not_spoil_the_dossier() -> None:
    """Who makes a dossier and who verifies it judge the cosigners at one time: that of the last entry in it."""
    alarm = {"code": "RSD-3065", "about": "clock", "found": "1", "limit": "0", "since": "2026-11-22T10:00:00Z"}
    entries = [*world().entries(A), new_entry(0, "2026-11-23T09:00:00Z", "alarm", alarm)]
    said = parse_canonical(parse_envelope(world().trust.rstrip(b"\n"), "trust").payload, "trust")
    for key in said["keys"]:
        if (key["role"], key["holder"]) == ("agent", "site-b"):
            key["revoked_at"] = "2026-11-23T00:00:00Z"
    signers = (world().keys[s, "signatory"] for s in ("site-a", "site-b", "site-c"))
    anchor = open_trust(seal(said, *signers).encode() + b"\n", "trust")
    view = view_of(rebuilt(world(), A, entries, ["site-b"]), A)
    made = build(regime_called("gdpr"), world().study_digest, [view], anchor)
    assert verify_dossier(made.encode(), anchor, LATER).error is None
    assert made.sources[0].cosigners == ()


def test_the_page_beside_a_dossier_is_the_one_that_follows_from_it(tmp_path: Path) -> None:
    made = dossiers.dossier("gdpr")
    page = html(made).encode()
    folder = lay(tmp_path / "evidence", {"dossier.json": made.encode(), "dossier.html": page})
    code, said = verify(folder / "dossier.json")
    assert (code, any("the page beside it" in line for line in said["proved"])) == (0, True)
    lay(folder, {"dossier.html": page.replace(b"DENY", b"ALLOW", 1)})
    code, said = verify(folder / "dossier.json")
    assert (code, said["failed_step"], said["error"]["code"]) == (1, 6, "RSD-9106")


def test_nothing_asked_for_that_is_there_is_no_empty_list_in_fhir() -> None:
    files = signed_export("fhir", Selection(kinds=("alarm",)))
    assert json.loads(files["audit-events.json"]) == {"resourceType": "Bundle", "type": "collection"}
    assert exports.failed(exports.judged(world(), files, log())) is None


def test_a_file_with_holes_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "manifest.json").open("wb") as f:
        f.truncate(5 << 30)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(CheckFailed, match="too large"):
        bundle_folder.read_folder(tmp_path)


def test_a_name_in_a_folder_drives_no_terminal(tmp_path: Path) -> None:
    folder = lay(tmp_path / "handed", signed_export("csv"))
    Path(os.fsdecode(os.fsencode(folder) + b"/\x1b[2Jx\n\nverified: all\xff")).write_bytes(b"")
    (tmp_path / "trust.json").write_bytes(world().trust)
    at = LATER.strftime("%Y-%m-%dT%H:%M:%SZ")
    call = [sys.executable, "residency.py", "verify", str(folder), "--trust", str(tmp_path / "trust.json"), "--at", at]
    done = subprocess.run(call, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, b"\x1b" in done.stdout + done.stderr) == (1, False)
    assert not [line for line in done.stdout.splitlines() if line.startswith(b"verified")]
    assert visible("a\u202eb\x9bc\n\tü") == "a\\u202eb\\x9bc\n\tü"
