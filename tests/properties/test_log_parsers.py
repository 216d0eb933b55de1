"""Every parser of the log on anything, and on what was once valid: an error of ours, or exactly the bytes that it read.

A form that is accepted has one encoding: else two files that differ would pass for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import b64encode, parse_json
from compliance.errors import ResidencyError
from compliance.log import checkpoint, cosign, merkle, note, tiles, witness_protocol
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import decode, new_entry
from compliance.log.evidence import EvidenceEntry, LogEvidence, check_evidence
from compliance.log.view import view_of
from compliance.release import tlog_proof
from compliance.validation import load_model
from tests.log_drafts import policy_body

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ORIGIN = "residency/nordic/anna"
PEERS = {"residency/nordic/berta/witness": PEER.public_key()}
ENTRIES = [
    new_entry(n, f"2026-11-21T10:00:0{n}Z", "policy", policy_body(n)).model_copy(update={"salt": f"{n:032x}"})
    for n in range(7)
]
LEAVES = [e.leaf_hash() for e in ENTRIES]
TEXT = Checkpoint(ORIGIN, 7, merkle.root(LEAVES)).text()
COSIGNED = note.with_signature(
    note.parse(checkpoint.sign(checkpoint.parse_text(TEXT), KEY)),
    cosign.cosign(TEXT, "residency/nordic/berta/witness", PEER, 1_700_000_000),
).encode()
PROOF = merkle.inclusion_proof(merkle.subtrees_of(LEAVES), 4, 7)
EVIDENCE = LogEvidence(
    origin=ORIGIN,
    checkpoint=COSIGNED,
    earlier=(),
    leaf_hashes=tuple(h.hex() for h in LEAVES),
    entries=tuple(EvidenceEntry(index=e.index, entry=b64encode(e.encode())) for e in ENTRIES),
)
FILES = tiles.files_of(view_of(EVIDENCE, "evidence"), entries=True)
TOKENS = [
    *(b"\n", b"\n\n", b" ", b"\t", b"\r", b"\r\n", b"\0", b"=", b"+", b"0", b"-1", b"00", b"1e3", b"9" * 17, b"\xff"),
    *(s.encode() for s in ("— ", "\u2028", "\x85", "\u0663", "é", "é", "\ufeff", '"', "{", "[" * 70, "null")),
]


def text_of(data: bytes) -> str:
    """What no UTF-8 is becomes characters that no text may hold."""
    return data.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


@dataclass(frozen=True)
class Parser:
    """`parse` reads bytes, `encode` writes what it made; `valid` is one input that is good."""

    valid: bytes
    parse: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


PARSERS = {
    "note": Parser(COSIGNED.encode(), lambda d: note.parse(text_of(d)), lambda n: n.encode().encode()),
    "signature-line": Parser(
        COSIGNED.splitlines(keepends=True)[-1].encode(),
        lambda d: note.parse_line(text_of(d)),
        lambda s: bytes_of(s.line()),
    ),
    "checkpoint": Parser(
        TEXT.encode(), lambda d: checkpoint.parse_text(text_of(d)), lambda c: c.text().encode(errors="surrogateescape")
    ),
    "entry": Parser(ENTRIES[3].encode(), decode, lambda e: e.encode()),
    "witness-request": Parser(
        witness_protocol.Request(3, merkle.consistency_proof(merkle.subtrees_of(LEAVES), 3, 7), COSIGNED).encode(),
        witness_protocol.parse_request,
        lambda r: r.encode(),
    ),
    "tlog-proof": Parser(
        tlog_proof.TlogProof(ENTRIES[4].encode(), 4, PROOF, COSIGNED).encode(), tlog_proof.parse, lambda p: p.encode()
    ),
}
OTHER_FORMS = {
    "note": [("\n", "\r\n"), ("— ", "- "), ("— ", "—  "), ("witness ", "witness\u00a0"), ("=\n—", "\n—")],
    "signature-line": [("\n", ""), ("— ", "–– "), (" ", "  "), ("\n", " \n"), ("=", "")],
    "checkpoint": [("\n7\n", f"\n{n}\n") for n in ("07", "+7", "-7", " 7", "7 ", "7.0", "\u0667", "", "0x7", "7_0")],
    "entry": [
        *(('{"at"', '{ "at"'), (',"salt"', ', "salt"'), ('"index":3', '"index":3.0'), ('"index":3', '"index":03')),
        *(('"v":1', '"v":1,"v":1'), ('"v":1', '"v":1,"w":1'), ('"policy"', '"pol\\u0069cy"'), ('"v":1', '"v":true')),
        *(("Z", "+00:00"), ("T10:00:03", "T10:00:03.0"), ('"study":""', '"study":null')),
    ],
    "witness-request": [("old 3", f"old {n}") for n in ("03", "+3", "-3", "3 ", " 3", "\u0663", "9" * 16, "", "3\r")],
    "tlog-proof": [
        *(("index 4", f"index {n}") for n in ("04", "+4", "-4", "4 ", " 4", "\u0664", "")),
        *(("@v1", "@v2"), ("extra ", "extra  "), ("\n\n", "\n"), ("index", "Index")),
    ],
}
Edit = tuple[int, int, bytes]
places = st.integers(0, 10**6)
edits = st.lists(
    st.tuples(places, st.integers(0, 40), st.sampled_from(TOKENS) | st.binary(max_size=3)), min_size=1, max_size=3
)


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """Each change puts bytes in place of some others."""
    for where, gone, new in changes:
        at = where % (len(data) + 1)
        data = data[:at] + new + data[at + gone % 5 :]
    return data


def holds(name: str, data: bytes) -> None:
    parser = PARSERS[name]
    try:
        made = parser.parse(data)
    except ResidencyError:
        return
    assert parser.encode(made) == data


@pytest.mark.parametrize("name", PARSERS)
def test_the_valid_input_is_read_and_written_again(name: str) -> None:
    parser = PARSERS[name]
    assert parser.encode(parser.parse(parser.valid)) == parser.valid


@pytest.mark.parametrize("name", PARSERS)
def test_what_means_the_same_is_not_the_same(name: str) -> None:
    """Forms that a lenient parser takes for the valid one."""
    text = PARSERS[name].valid.decode()
    for old, new in OTHER_FORMS[name]:
        other = text.replace(old, new, 1).encode()
        assert other != PARSERS[name].valid
        with pytest.raises(ResidencyError):
            PARSERS[name].parse(other)


@pytest.mark.parametrize("name", PARSERS)
@settings(deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(str.encode), changes=edits)
def test_a_parser_reads_one_form_or_refuses(name: str, data: bytes, changes: list[Edit]) -> None:
    holds(name, data)
    holds(name, edited(PARSERS[name].valid, changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@settings(deadline=None, max_examples=10_000)
@given(data=st.binary(max_size=2000) | st.text(max_size=1000).map(str.encode), changes=edits)
def test_a_parser_reads_one_form_or_refuses_at_length(name: str, data: bytes, changes: list[Edit]) -> None:
    holds(name, data)
    holds(name, edited(PARSERS[name].valid, changes))


def evidence_holds(data: bytes) -> None:
    """Read and checked: refused, or no more than the evidence says."""
    try:
        read = load_model(LogEvidence, parse_json(data, "evidence"), "RSD-9041", "evidence")
        checked = check_evidence(read, KEY.public_key(), PEERS, 1)
    except ResidencyError:
        return
    assert checked.size == 7
    assert all(ENTRIES[i] == entry for i, entry in checked.entries.items())


def tiles_hold(path: str, other: str, changes: list[Edit]) -> None:
    """A file changed and perhaps renamed: refused, or the same log, of which less may be shown."""
    files = {p: d for p, d in FILES.items() if p != path} | {other: edited(FILES[path], changes)}
    try:
        view = tiles.read_files(files)
        opened = checkpoint.open_signed(view.checkpoints[-1], KEY.public_key(), ORIGIN)
    except ResidencyError:
        return
    assert opened.checkpoint.text() == TEXT
    assert view.leaf_hashes == LEAVES
    assert all(ENTRIES[i] == entry for i, entry in view.entries.items())


names = st.sampled_from([*FILES, "tile/0/000", "tile/entries/000.p/3", "tile/1/000.p/1", "../x", "tile/0/000.p/7/x"])


@settings(deadline=None)
@given(changes=edits)
def test_evidence_is_refused_or_says_the_same(changes: list[Edit]) -> None:
    evidence_holds(edited(EVIDENCE.model_dump_json().encode(), changes))


@settings(deadline=None)
@given(path=st.sampled_from(sorted(FILES)), other=names | st.text(max_size=20), changes=edits, same=st.booleans())
def test_tiles_are_refused_or_say_the_same(path: str, other: str, changes: list[Edit], same: bool) -> None:
    tiles_hold(path, path if same else other, changes)


@pytest.mark.slow
@settings(deadline=None, max_examples=10_000)
@given(path=st.sampled_from(sorted(FILES)), other=names | st.text(max_size=20), changes=edits, same=st.booleans())
def test_evidence_and_tiles_at_length(path: str, other: str, changes: list[Edit], same: bool) -> None:
    evidence_holds(edited(EVIDENCE.model_dump_json().encode(), changes))
    tiles_hold(path, path if same else other, changes)


numbers = st.integers(-3, 300) | st.integers(-(2**70), 2**70)
hashes = st.sampled_from(LEAVES) | st.binary(max_size=40)


@given(index=numbers, size=numbers, leaf=hashes, root=hashes, proof=st.lists(hashes, max_size=70))
def test_no_proof_of_any_shape_escapes(index: int, size: int, leaf: bytes, root: bytes, proof: list[bytes]) -> None:
    trivial = not proof and leaf == root and len(leaf) == 32
    for check, so in (
        (lambda: merkle.verify_inclusion(leaf, index, size, proof, root), (index, size) == (0, 1)),
        (lambda: merkle.verify_consistency(index, size, leaf, root, proof), 0 < index == size),
    ):
        try:
            check()
        except ResidencyError:
            assert not (trivial and so)
        else:
            assert trivial
            assert so
