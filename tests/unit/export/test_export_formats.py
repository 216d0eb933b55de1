"""What stands in an export: whole entries, a table, FHIR audit events. Read here by others' readers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.structuredefinition import StructureDefinition
from hypothesis import given
from hypothesis import strategies as st

from compliance.clock import parse_time
from compliance.export.fhir import PROFILE
from compliance.export.flat import flat
from compliance.export.make import EVERYTHING, FORMATS, export
from compliance.export.statement import Selection, ranges_of, spread
from compliance.export.table import COLUMNS, defused
from compliance.log.entry import Entry, new_entry
from tests.exports import WHEN, entries_of, failed, judged, statement_of, statuses, view_of
from tests.world import AT, stopped_clock, world

POISON = (
    "=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a,b\"c\r\nd", "\u202etxt.exe", "\x00\x1b[2J",
    "{{7*7}}",
)  # fmt: skip


@cache
def view():
    return view_of(world(), entries_of(world()))


@cache
def made(name: str, selection: Selection = EVERYTHING) -> dict[str, bytes]:
    with stopped_clock():
        return export(view(), name, selection, world().log_signer("site-a"))


def poisoned() -> list[Entry]:
    """Entries whose every text is what somebody would like a spreadsheet, a browser or a terminal to run."""
    names = ("rule", "message", "artifact", "recipient", "code", "site", "sha256")
    return [new_entry(i, WHEN, "refusal", dict.fromkeys(names, text)) for i, text in enumerate(POISON)]


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_verifies_alone_and_beside_its_log(name: str) -> None:
    alone = judged(world(), made(name))
    assert failed(alone) is None
    content = "ok" if name == "jsonl" else "not judged"
    assert statuses(alone) == ["ok", "ok", "ok", "ok", content, "not judged"]
    lines = f"what {view().size} lines say: their entries are not shown, or expired in the log; their leaves are proven"
    assert (lines in alone.asserted()["site-a"]) == (name != "jsonl")
    assert "that nothing that was asked for is left out" in alone.asserted()["site-a"]
    beside = judged(world(), made(name), view())
    assert statuses(beside) == ["ok"] * 6
    proved = [line for r in beside.results for line in r.found.proved]
    assert any("nothing that was asked for is left out" in line for line in proved)
    assert "that nothing that was asked for is left out" not in beside.asserted()["site-a"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_log_gives_the_same_files(name: str) -> None:
    with stopped_clock():
        again = export(view(), name, EVERYTHING, world().log_signer("site-a"))
    assert again == made(name)
    with stopped_clock(AT + timedelta(minutes=30)):
        later = export(view(), name, EVERYTHING, world().log_signer("site-a"))
    assert {n for n in later if later[n] != again[n]} == {"export.json"}
    assert {k for k, v in statement_of(later).items() if v != statement_of(again)[k]} == {"created"}


def test_it_is_never_dated_before_an_entry_that_is_in_it() -> None:
    newest = max(entry.at for entry in view().entries.values())
    with stopped_clock(parse_time(newest) - timedelta(minutes=4)):
        files = export(view(), "jsonl", EVERYTHING, world().log_signer("site-a"))
    assert statement_of(files)["created"] == newest
    assert failed(judged(world(), files)) is None


def test_each_line_of_json_hashes_to_its_leaf_with_nothing_but_sha256() -> None:
    leaves = made("jsonl")["leaf-hashes.txt"].decode().splitlines()
    lines = made("jsonl")["entries.jsonl"].decode().splitlines()
    assert len(lines) == len(leaves) == view().size
    for line in map(json.loads, lines):
        leaf = hashlib.sha256(b"\x00" + rfc8785.dumps(line["entry"])).hexdigest()
        assert leaf == line["leaf_sha256"] == leaves[line["entry"]["index"]]


def test_the_table_is_read_by_any_reader_and_has_the_documented_columns() -> None:
    text = made("csv")["entries.csv"].decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == view().size
    assert text.count("\r\n") == text.count("\n") == len(rows) + 1
    page = (Path(__file__).parents[3] / "docs/exports.md").read_text(encoding="utf-8")
    page = page.partition("## CSV")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z0-9_]+)` \|", page, re.MULTILINE) == list(rows[0]) == list(COLUMNS)
    denied = [row for row in rows if row["outcome"] == "deny"]
    assert denied
    for row in denied:
        body = view().entries[int(row["index"])].body
        assert (row["kind"], row["recipient"], row["jurisdiction"]) == ("decision", "site-e", "CN")
        assert (row["rule"], row["artifact"]) == (body["rule"], body["transfer"]["artifact"])
    sent = next(row for row in rows if row["kind"] == "transfer")
    assert view().entries[int(sent["decision"])].kind == "decision"
    assert sent["digest"] == view().entries[int(sent["index"])].body["sha256"]


@given(st.text(max_size=40) | st.text(";=+-@' \"a", max_size=12))
def test_no_cell_is_taken_for_a_formula_and_none_is_lost(cell: str) -> None:
    safe = defused(cell)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert not re.search(r";[\s\"]*[=+\-@]", safe)  # where spreadsheets split at the semicolon
    assert re.sub(r";'(?=[\s\"']*[=+\-@＝＋－＠])", ";", safe.removeprefix("'")) == cell


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_texts_stay_texts_on_their_line(name: str) -> None:
    bad = view_of(world(), poisoned())
    files = export(bad, name, EVERYTHING, world().log_signer("site-a"))
    assert failed(judged(world(), files, bad)) is None
    file = files[FORMATS[name].file]
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]", file)
    if name == "csv":
        rows = list(csv.reader(io.StringIO(file.decode(), newline="")))
        assert len(rows) == len(POISON) + 1
        assert not [cell for row in rows[1:] for cell in row if cell.startswith(("=", "+", "-", "@"))]
        assert "\u202e" not in file.decode()
    if name == "fhir":
        assert len(Bundle.model_validate_json(file).entry) == len(POISON)


def test_every_event_is_fhir_and_keeps_the_profile() -> None:
    bundle = Bundle.model_validate_json(made("fhir")["audit-events.json"])
    assert bundle.type == "collection"
    assert len(bundle.entry) == view().size
    raw = json.loads(made("fhir")["audit-events.json"])
    assert len({e["fullUrl"] for e in raw["entry"]}) == len({e["resource"]["id"] for e in raw["entry"]}) == view().size
    for event in raw["entry"]:
        assert not list(violations(event["resource"])), event
    assert b"Patient" not in made("fhir")["audit-events.json"]


def test_an_event_says_what_its_entry_says() -> None:
    events = {int(e["entity"][0]["what"]["identifier"]["value"].rpartition("#")[2]): e for e in resources_of("fhir")}
    for index, entry in view().entries.items():
        event, row = events[index], flat(entry, "")
        assert event["recorded"] == entry.at
        assert event["subtype"][0]["code"] == entry.kind
        assert event["outcome"] == {"deny": "4", "refused": "4"}.get(row.outcome, "0")
        assert [a["who"]["identifier"]["value"] for a in event["agent"]][1:] == [
            r for r in [row.recipient] if r and r != "site-a"
        ]
    kinds = {e["subtype"][0]["code"]: e["type"]["code"] for e in events.values()}
    assert kinds["transfer"] == "110106"
    assert {e["purposeOfEvent"][0]["coding"][0]["code"] for e in events.values() if "purposeOfEvent" in e} == {"HRESCH"}


def resources_of(name: str) -> list[dict[str, Any]]:
    return [e["resource"] for e in json.loads(made(name)["audit-events.json"])["entry"]]


@cache
def profile() -> dict[str, Any]:
    text = (resources.files("compliance") / "export" / "fhir-profile.json").read_text(encoding="utf-8")
    StructureDefinition.model_validate_json(text)
    return dict(json.loads(text))


def violations(resource: dict[str, Any]) -> Iterator[str]:
    """Where a resource breaks the differential of our profile: cardinalities, fixed values, no patient."""
    assert profile()["url"] == PROFILE
    if PROFILE not in resource.get("meta", {}).get("profile", []):
        yield "meta.profile"
    for element in profile()["differential"]["element"]:
        *parents, last = element["path"].split(".")[1:] or [""]
        for parent in at(resource, parents):
            value = parent.get(last)
            values = [] if value is None else value if isinstance(value, list) else [value]
            most = element.get("max", "*")
            if len(values) < element.get("min", 0) or (most != "*" and len(values) > int(most)):
                yield element["path"]
            if "fixedUri" in element and values != [element["fixedUri"]]:
                yield element["path"]
    if any("1" in {e.get("role", {}).get("code"), e.get("type", {}).get("code")} for e in resource["entity"]):
        yield "residency-1"


def at(node: dict[str, Any], path: list[str]) -> Iterator[dict[str, Any]]:
    if not path:
        yield node
        return
    value = node.get(path[0])
    for child in value if isinstance(value, list) else [value] if value is not None else []:
        yield from at(child, path[1:])


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"action": None}, "AuditEvent.action"),
        ({"period": {"start": WHEN}}, "AuditEvent.period"),
        ({"entity": [{"what": {"reference": "Patient/1"}, "role": {"code": "1"}}]}, "residency-1"),
        ({"agent": [{"who": {"type": "Patient", "identifier": {"value": "x"}}}]}, "AuditEvent.agent.who.type"),
    ],
    ids=["no action", "a period", "a patient", "a patient as agent"],
)
def test_the_profile_refuses_what_it_should(change: dict[str, Any], path: str) -> None:
    good = resources_of("fhir")[0]
    assert path in set(violations({**good, **change}))


@given(st.sets(st.integers(0, 300)))
def test_ranges_and_indices_are_the_same(indices: set[int]) -> None:
    assert list(spread(ranges_of(sorted(indices)))) == sorted(indices)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(kinds=("decision", "transfer")),
        Selection(study="ab" * 32),
        Selection(since="2026-11-22T10:01:00Z"),
        Selection(until="2026-11-22T10:01:00Z"),
        Selection(kinds=("alarm",)),
    ],
    ids=["kinds", "study", "since", "until", "nothing"],
)
def test_a_filter_takes_what_it_says(selection: Selection) -> None:
    if selection.study:
        selection = Selection(study=world().study_digest)
    files = made("jsonl", selection)
    got = [json.loads(line)["entry"]["index"] for line in files["entries.jsonl"].splitlines()]
    wanted = [
        e.index for e in view().entries.values()
        if (selection.study or e.study) == e.study and e.kind in (selection.kinds or {e.kind})
        and (selection.since or e.at) <= e.at and e.at < (selection.until or "9")
    ]  # fmt: skip
    assert got == wanted
    assert failed(judged(world(), files, view())) is None
