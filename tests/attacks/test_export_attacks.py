"""Exports that somebody changed: who has no key, who has the log's own key, and who rebuilt the log."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from compliance.canonical import canonical, parse_canonical, sha256_hex
from compliance.clock import parse_time, rfc3339
from compliance.errors import ResidencyError
from compliance.export.make import EVERYTHING, FORMATS, export
from compliance.export.statement import STATEMENT, Selection
from compliance.identity import Envelope, media_type, parse_envelope
from compliance.log.entry import new_entry
from compliance.log.view import LogView
from compliance.release.bundle_folder import read_folder
from tests.exports import (
    MEMBER,
    OLDER,
    WHEN,
    entries_of,
    failed,
    judged,
    signed_again,
    statement_of,
    statuses,
    view_of,
)
from tests.world import build_world, stopped_clock, world

DENIALS = Selection(kinds=("decision",))


@cache
def log() -> LogView:
    return view_of(world(), entries_of(world()))


@cache
def honest(name: str = "jsonl", selection: Selection = EVERYTHING) -> dict[str, bytes]:
    with stopped_clock():
        return export(log(), name, selection, world().log_signer(MEMBER))


def file_of(name: str) -> str:
    return FORMATS[name].file


def without_line(name: str, index: int) -> bytes:
    """The file without the line of one entry, otherwise in its form."""
    form = FORMATS[name]
    lines = [row.line for row in form.rows(honest(name)[form.file]) if row.index != index]
    return form.head + form.between.join(lines) + (form.between if not form.tail else b"") + form.tail


def ranges_without(index: int) -> dict[str, Any]:
    size = log().size
    ranges = [[a, b] for a, b in ((0, index - 1), (index + 1, size - 1)) if a <= b]
    return {"ranges": ranges, "entries": size - 1}


def a_denial() -> int:
    return next(i for i, e in log().entries.items() if e.kind == "decision" and not e.body["allow"])


@pytest.mark.parametrize("name", FORMATS)
def test_any_changed_byte_is_seen(name: str) -> None:
    files = honest(name)
    assert failed(judged(world(), files)) is None
    for file, data in files.items():
        for at in {*range(0, len(data), max(1, len(data) // 12)), len(data) - 1}:
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            if file == STATEMENT and changed.rstrip(b"\n") == data.rstrip(b"\n"):
                continue  # the newline at the end is no part of what was signed
            assert failed(judged(world(), {**files, file: changed})) is not None, (file, at)
        assert failed(judged(world(), {**files, file: data[:-2]})) is not None


@pytest.mark.parametrize("name", FORMATS)
def test_whoever_has_no_key_can_neither_drop_nor_add_nor_swap_a_line(name: str) -> None:
    files, form = honest(name), FORMATS[name]
    lines = [row.line for row in form.rows(files[form.file])]
    end = (form.between if not form.tail else b"") + form.tail
    for changed in (lines[1:], [*lines, lines[0]], [lines[1], lines[0], *lines[2:]]):
        data = form.head + form.between.join(changed) + end
        assert failed(judged(world(), {**files, form.file: data})) == (2, "RSD-5152")
        forged = signed_again({**files, form.file: data}, world().log_signer(MEMBER))
        assert failed(judged(world(), forged)) == (4, "RSD-5154")  # not even with the log's own key


@pytest.mark.parametrize("who", ["site-b", "coordinator"])
def test_another_members_key_vouches_for_nothing(who: str) -> None:
    forged = signed_again(honest(), world().log_signer(who))
    assert failed(judged(world(), forged)) == (1, "RSD-5151")


def test_neither_another_role_nor_a_foreign_root_nor_no_signature_vouches() -> None:
    forged = signed_again(honest(), world().keys[MEMBER, "dpo"])
    assert failed(judged(world(), forged)) == (1, "RSD-5151")
    foreign = build_world()
    strange = export(view_of(foreign, entries_of(foreign)), "jsonl", EVERYTHING, foreign.log_signer(MEMBER))
    assert failed(judged(world(), strange)) == (1, "RSD-5151")
    said = canonical({**statement_of(honest()), "created": WHEN})
    stripped = {**honest(), STATEMENT: Envelope(media_type("residency.export/1"), said, ()).encode()}
    assert failed(judged(world(), stripped)) == (1, "RSD-5151")
    beside = judged(world(), stripped, log())
    assert statuses(beside) == ["not judged", *["ok"] * 5]
    assert "nobody signed it" in beside.not_covered[0]
    assert MEMBER not in {who for r in beside.results[:1] for who, _ in r.found.asserted}


def test_a_signature_of_another_time_counts_for_nothing() -> None:
    for created in ("2025-12-31T00:00:00Z", "2027-01-01T00:00:00Z"):  # before the key, and in the future
        forged = signed_again(honest(), world().log_signer(MEMBER), created=created)
        assert failed(judged(world(), forged)) == (1, "RSD-5151")


def test_an_export_dated_before_its_own_entries_is_seen() -> None:
    newest = parse_time(max(entry.at for entry in log().entries.values()))
    signer = world().log_signer(MEMBER)
    near, before = (rfc3339(newest - timedelta(minutes=m)) for m in (5, 6))
    assert failed(judged(world(), signed_again(honest(), signer, created=near))) is None
    assert failed(judged(world(), signed_again(honest(), signer, created=before))) == (5, "RSD-5155")


@pytest.mark.parametrize("name", FORMATS)
def test_an_insider_who_leaves_a_denial_out_is_seen_beside_the_log(name: str) -> None:
    index = a_denial()
    files = {**honest(name), file_of(name): without_line(name, index)}
    forged = signed_again(files, world().log_signer(MEMBER), **ranges_without(index))
    alone = judged(world(), forged)
    assert failed(alone) is None
    assert "that nothing that was asked for is left out" in alone.asserted()[MEMBER]
    assert failed(judged(world(), forged, log())) == (6, "RSD-5156")


@pytest.mark.parametrize(("name", "alone"), [("jsonl", (5, "RSD-5155")), ("csv", None), ("fhir", None)])
def test_an_insider_who_rewrites_a_line_is_seen(name: str, alone: tuple[int, str] | None) -> None:
    form, index = FORMATS[name], a_denial()
    entry = log().entries[index]
    lie = entry.model_copy(update={"body": {**entry.body, "allow": True, "effect": "allow"}})
    leaf = log().leaf_hashes[index].hex()
    lines = [
        form.write(lie, leaf, log().origin) if r.index == index else r.line for r in form.rows(honest(name)[form.file])
    ]
    data = form.head + form.between.join(lines) + (form.between if not form.tail else b"") + form.tail
    forged = signed_again({**honest(name), form.file: data}, world().log_signer(MEMBER))
    report = judged(world(), forged)
    assert failed(report) == alone
    if alone is None:  # a table cannot be hashed: what it says is the member's word, and the report says that
        assert report.results[4].status == "not judged"
    assert failed(judged(world(), forged, log())) == (5, "RSD-5155")


def test_another_filter_cannot_be_claimed() -> None:
    signer = world().log_signer(MEMBER)
    denials = DENIALS.model_dump(mode="json")
    assert failed(judged(world(), signed_again(honest(), signer, selection=denials))) == (5, "RSD-5155")
    everything = EVERYTHING.model_dump(mode="json")
    narrowed = signed_again(honest("jsonl", DENIALS), signer, selection=everything)
    assert failed(judged(world(), narrowed, log())) == (6, "RSD-5156")
    for name in ("csv", "fhir"):
        claimed = signed_again(honest(name), signer, selection=denials)
        assert failed(judged(world(), claimed, log())) == (5, "RSD-5155")


def test_a_smaller_tree_an_older_checkpoint_and_a_longer_list_are_seen() -> None:
    signer, size = world().log_signer(MEMBER), log().size
    small = view_of(world(), entries_of(world())[:-5])
    smaller = statement_of(export(small, "jsonl", EVERYTHING, signer))
    for changes in (
        {"size": size - 5, "root": smaller["root"]},
        {"checkpoint": smaller["checkpoint"]},
        {"size": size - 5, "root": smaller["root"], "checkpoint": smaller["checkpoint"]},
    ):
        claimed = {**changes, "ranges": [[0, size - 6]], "entries": size - 5}
        assert failed(judged(world(), signed_again(honest(), signer, **claimed))) == (3, "RSD-5153")
    # The whole export of a smaller tree is an honest older export, until somebody shows what came after.
    older = export(small, "jsonl", EVERYTHING, signer)
    assert failed(judged(world(), older)) is None
    held = log().checkpoints[-1]
    assert failed(judged(world(), older, against=[held])) == (3, "RSD-5153")
    assert failed(judged(world(), honest(), against=[held, small.checkpoints[-1]])) is None


def test_a_log_that_was_rebuilt_without_a_denial_is_convicted_by_the_peer() -> None:
    kept = [e for e in entries_of(world()) if e.index != a_denial()]
    rebuilt = view_of(world(), kept)
    forged = export(rebuilt, "jsonl", EVERYTHING, world().log_signer(MEMBER))
    assert failed(judged(world(), forged)) is None  # by itself it cannot be told
    assert failed(judged(world(), forged, against=[log().checkpoints[-1]])) == (3, "RSD-5153")
    assert failed(judged(world(), forged, log())) == (5, "RSD-5155")
    assert failed(judged(world(), honest(), rebuilt)) == (5, "RSD-5155")


def test_a_log_of_somebody_else_or_a_shorter_one_proves_nothing() -> None:
    other = view_of(world(), entries_of(world(), "site-b"), member="site-b")
    assert failed(judged(world(), honest(), other)) == (5, "RSD-5155")
    assert failed(judged(world(), honest(), other, log())) is None  # a bundle shows several
    assert failed(judged(world(), honest(), view_of(world(), entries_of(world())[:-5]))) == (6, "RSD-5156")


def test_what_is_there_cannot_be_called_expired() -> None:
    index = a_denial()
    files = {**honest(), file_of("jsonl"): without_line("jsonl", index)}
    expired = [{"record_class": "decision", "ranges": [[index, index]]}]
    forged = signed_again(files, world().log_signer(MEMBER), expired=expired, **ranges_without(index))
    alone = judged(world(), forged)
    assert failed(alone) is None
    assert any("had expired" in text for text in alone.asserted()[MEMBER])
    assert failed(judged(world(), forged, log())) == (6, "RSD-5156")


def test_an_expired_entry_is_named_with_its_class_and_its_leaf_is_proven() -> None:
    gone = {3: "transfer", 4: "transfer", 9: "decision"}
    compacted = view_of(world(), entries_of(world()), expired=gone)
    files = export(compacted, "jsonl", EVERYTHING, world().log_signer(MEMBER))
    assert statement_of(files)["expired"] == [
        {"record_class": "decision", "ranges": [[9, 9]]},
        {"record_class": "transfer", "ranges": [[3, 4]]},
    ]
    assert len(files["leaf-hashes.txt"].splitlines()) == compacted.size
    shown = [json.loads(line)["entry"]["index"] for line in files["entries.jsonl"].splitlines()]
    assert not {3, 4, 9} & set(shown)
    beside = judged(world(), files, compacted)
    assert failed(beside) is None
    proved = [line for r in beside.results for line in r.found.proved]
    grounds = f"before {OLDER}, by policy 'the schedule'; their leaves proven"
    for some, name in (("9", "decision"), ("3, 4", "transfer")):
        assert f"entries {some} are removed, as the log says: class {name}, {grounds}" in proved
    assert any("3, 4, 9 had expired" in text for text in beside.asserted()[MEMBER])


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_from_before_a_compaction_still_verifies_beside_the_log(name: str) -> None:
    compacted = view_of(world(), entries_of(world()), expired={3: "transfer", 9: "decision"})
    report = judged(world(), honest(name), compacted)
    assert failed(report) is None
    assert statuses(report) == ["ok"] * 6
    if name != "jsonl":  # what the two lines say can no longer be made again
        assert any("2 lines say" in text for text in report.asserted()[MEMBER])


def test_files_beside_links_and_paths_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    assert failed(judged(world(), {**honest(), "more.txt": b""})) == (2, "RSD-5152")
    for name in ("../entries.jsonl", "/etc/passwd", "a/b"):
        listed = [{**f, "name": name} for f in statement_of(honest())["files"]]
        envelope = parse_envelope(honest()[STATEMENT], STATEMENT)
        said = {**parse_canonical(envelope.payload, STATEMENT), "files": listed}
        forged = {**honest(), STATEMENT: Envelope(envelope.payload_type, canonical(said), ()).encode()}
        assert failed(judged(world(), forged, log())) == (1, "RSD-5151")
    for name, data in honest().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "entries.jsonl").rename(tmp_path.parent / "elsewhere.jsonl")
    (tmp_path / "entries.jsonl").symlink_to(tmp_path.parent / "elsewhere.jsonl")
    with pytest.raises(ResidencyError):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 9000, b"\xff", b"{" + b'"a":' * 90 + b"1", b"null"],
    ids=["nothing", "an object", "deep", "no text", "half", "null"],
)  # fmt: skip
def test_malformed_statements_and_files_are_findings_and_no_crash(data: bytes) -> None:
    assert failed(judged(world(), {**honest(), STATEMENT: data})) == (1, "RSD-5151")
    signer = world().log_signer(MEMBER)
    for name in FORMATS:
        forged = signed_again({**honest(name), file_of(name): data}, signer)
        assert failed(judged(world(), forged)) == (4, "RSD-5154")
        forged = signed_again({**honest(name), "leaf-hashes.txt": data}, signer)
        assert failed(judged(world(), forged)) == (3, "RSD-5153")


def test_an_export_that_the_log_does_not_record_cannot_say_that_it_does() -> None:
    digest = sha256_hex(honest()["entries.jsonl"])
    body = {"format": "jsonl", "filter_sha256": EVERYTHING.digest, "size": log().size, "entries": log().size,
            "to": "", "decision": None}  # fmt: skip
    logged = log().size
    claimed = signed_again(honest(), world().log_signer(MEMBER), logged=logged)
    for sha256, wanted in ((digest, None), ("00" * 32, (6, "RSD-5156"))):
        later = [*entries_of(world()), new_entry(logged, WHEN, "export", {**body, "sha256": sha256})]
        report = judged(world(), claimed, view_of(world(), later))
        assert failed(report) == wanted
    assert failed(judged(world(), claimed, log())) is None  # a copy of the log from before the export


@pytest.mark.parametrize("name", FORMATS)
def test_a_line_with_another_leaf_hash_is_seen_without_the_log(name: str) -> None:
    form, leaf = FORMATS[name], "ab" * 32
    lines = [form.write(log().entries[i], leaf if i == a_denial() else log().leaf_hashes[i].hex(), log().origin)
             for i in range(log().size)]  # fmt: skip
    data = form.head + form.between.join(lines) + (form.between if not form.tail else b"") + form.tail
    forged = signed_again({**honest(name), form.file: data}, world().log_signer(MEMBER))
    assert failed(judged(world(), forged)) == (4, "RSD-5154")
