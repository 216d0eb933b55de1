"""Entries: one form, one sequence of bytes, a salt of their own."""

from __future__ import annotations

import json

import pytest

from compliance.errors import InputError
from compliance.log.entry import KINDS, MAX_ENCODED, decode, new_entry

AT = "2026-11-21T10:00:00Z"


def test_an_entry_comes_back_from_its_bytes() -> None:
    entry = new_entry(3, AT, "charge", {"epsilon_milli": 1200, "parts": [1, {"ü": None}], "ok": True}, "ab" * 32)
    assert decode(entry.encode()) == entry
    assert decode(entry.encode()).leaf_hash() == entry.leaf_hash()


def test_equal_bodies_have_different_leaf_hashes() -> None:
    hashes = {new_entry(0, AT, "decision", {"allow": True}).leaf_hash() for _ in range(50)}
    assert len(hashes) == 50


def test_a_body_that_is_changed_later_changes_nothing() -> None:
    body = {"list": [1]}
    entry = new_entry(0, AT, "commit", body)
    before = entry.encode()
    body["list"].append(2)
    assert entry.encode() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", -1),
        ("index", "0"),
        ("at", "2026-11-21"),
        ("at", "2026-11-21T10:00:00+00:00"),
        ("kind", "gossip"),
        ("study", "AB" * 32),
        ("study", "ab" * 32 + "\n"),
        ("salt", "00"),
        ("salt", "0" * 32 + "\n"),
        ("body", []),
        ("body", None),
        ("v", 0),
        ("v", True),
        ("patient", "x"),
    ],
)
def test_malformed_entries_are_refused(field: str, value: object) -> None:
    fields = json.loads(new_entry(0, AT, "commit", {}).encode())
    fields[field] = value
    with pytest.raises(InputError, match=r"RSD-(5020|2004)"):
        decode(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("body", [{"x": 0.5}, {"x": 1 << 60}, {"x": b"y"}, {"x": float("nan")}, {"x": "\ud800"}])
def test_bodies_without_canonical_json_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(InputError, match="RSD-2001"):
        new_entry(0, AT, "commit", body)


def test_other_bytes_for_the_same_entry_are_refused() -> None:
    data = new_entry(0, AT, "commit", {"a": 1}).encode()
    for other in (data + b"\n", data.replace(b":", b": ", 1), data[:-1] + b',"index":0}', b"", b"[]", b"\xff"):
        with pytest.raises(InputError, match=r"RSD-(2002|5020)"):
            decode(other)


def test_the_length_of_an_entry_is_limited() -> None:
    spare = MAX_ENCODED - len(new_entry(0, AT, "commit", {"x": ""}).encode())
    assert len(new_entry(0, AT, "commit", {"x": "y" * spare}).encode()) == MAX_ENCODED
    with pytest.raises(InputError, match="RSD-5021"):
        new_entry(0, AT, "commit", {"x": "y" * (spare + 1)}).encode()
    with pytest.raises(InputError, match="RSD-5021"):
        decode(b" " * (MAX_ENCODED + 1))


def test_every_kind_of_the_architecture_is_there() -> None:
    assert len(KINDS) == len(set(KINDS))
    assert {"decision", "charge", "refusal", "roster", "close", "evaluation", "alarm", "compaction"} < set(KINDS)
