"""C2SP proofs as files: their form, and what a person who has nothing but one of them and trust.json finds out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from compliance.canonical import b64encode
from compliance.commands.verify import verify
from compliance.errors import InputError, ResidencyError
from compliance.log import checkpoint, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.release.case import Contents
from compliance.release.proof_check import verify_proof
from compliance.release.report import Report
from compliance.release.tlog_proof import TlogProof, parse
from compliance.trust.root import Anchor, open_trust
from tests.world import AT, CONTRIBUTORS, OPERATOR, START, World, resealed, world

CLOSE, COMMIT = f"proofs/{OPERATOR}.close.tlog-proof", "proofs/site-a.commit.tlog-proof"
WHEN = AT.strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def proofs() -> dict[str, bytes]:
    return {p: d for p, d in world().bundle.items() if p.startswith("proofs/")}


def judged(data: bytes, anchor: Anchor | None = None) -> Report:
    return verify_proof(data, anchor or world().anchor, AT)


def test_a_bundle_proves_its_closes_its_last_roster_and_what_was_sent_last() -> None:
    wanted = {f"{OPERATOR}.close", f"{OPERATOR}.roster", *(f"{s}.{k}" for s in CONTRIBUTORS for k in KINDS)}
    assert set(proofs()) == {f"proofs/{name}.tlog-proof" for name in wanted}
    last = Contents(world().run).rosters[-1].roster
    for site in CONTRIBUTORS:
        row = last.row(site)
        assert row is not None
        assert row.commit is not None
        assert parse(proofs()[f"proofs/{site}.commit.tlog-proof"]).index == row.commit.index


KINDS = ("close", "commit", "transfer")


@pytest.mark.parametrize("path", [CLOSE, COMMIT, "proofs/site-d.transfer.tlog-proof"])
def test_a_proof_is_verified_with_the_trust_file_alone(path: str, tmp_path: Path) -> None:
    (tmp_path / "one.tlog-proof").write_bytes(proofs()[path])
    (tmp_path / "trust.json").write_bytes(world().trust)
    words = [str(tmp_path / "one.tlog-proof"), "--trust", str(tmp_path / "trust.json"), "--at", WHEN]
    done = CliRunner().invoke(verify, [*words, "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    member, kind = path.split("/")[1].split(".")[:2]
    assert (shown["mode"], shown["kind"]) == ("proof", kind)
    assert shown["origin"] == world().origin(member)
    assert len(shown["cosigners"]) == 2
    assert member in shown["asserted"]
    assert CliRunner().invoke(verify, words[:1]).exit_code == 5
    (tmp_path / "one.tlog-proof").write_bytes(proofs()[path].replace(b"\n", b"\r\n"))
    changed = CliRunner().invoke(verify, words)
    assert (changed.exit_code, "its line ends were changed" in changed.stderr) == (3, True)


KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=40, unique=True)


@given(LEAVES, st.integers(0, 39))
def test_the_form_is_read_back_and_proves_its_leaf_only(leaves: list[bytes], at: int) -> None:
    index, hashes = at % len(leaves), [merkle.leaf_hash(x) for x in leaves]
    signed = checkpoint.sign(Checkpoint("log", len(leaves), merkle.root(hashes)), KEY)
    path = merkle.inclusion_proof(merkle.subtrees_of(hashes), index, len(leaves))
    proof = TlogProof(leaves[index], index, path, signed)
    assert parse(proof.encode()) == proof
    proof.check_inclusion()
    for wrong in (
        TlogProof(leaves[index] + b"x", index, path, signed),
        TlogProof(leaves[index], index + 1, path, signed),
    ):
        with pytest.raises(ResidencyError):
            wrong.check_inclusion()


def test_the_form_of_the_specification() -> None:
    lines = proofs()[COMMIT].decode().split("\n")
    proof = parse(proofs()[COMMIT])
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == f"extra {b64encode(proof.entry)}"
    assert lines[2] == f"index {proof.index}"
    blank = lines.index("")
    assert lines[3:blank] == [b64encode(h) for h in proof.hashes]
    assert note.parse("\n".join(lines[blank + 1 :])).encode() == proof.signed


MALFORMED = {
    "empty": b"",
    "no text": b"\xff\xfe",
    "another form": b"c2sp.org/tlog-proof@v2\nextra eA==\nindex 0\n\n",
    "no entry": b"c2sp.org/tlog-proof@v1\nindex 0\n\nx\n",
    "no index": b"c2sp.org/tlog-proof@v1\nextra eA==\n\nx\n",
    "index with a zero": b"c2sp.org/tlog-proof@v1\nextra eA==\nindex 01\n\nx\n",
    "negative index": b"c2sp.org/tlog-proof@v1\nextra eA==\nindex -1\n\nx\n",
    "no checkpoint": b"c2sp.org/tlog-proof@v1\nextra eA==\nindex 0\n",
    "short hash": b"c2sp.org/tlog-proof@v1\nextra eA==\nindex 0\neA==\n\nx\n",
    "loose base64": b"c2sp.org/tlog-proof@v1\nextra eB==\nindex 0\n\nx\n",
    "too many hashes": b"c2sp.org/tlog-proof@v1\nextra eA==\nindex 0\n" + b"x\n" * 65 + b"\nx\n",
    "too long": b"c2sp.org/tlog-proof@v1\nextra " + b"A" * 262_144,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_proof_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(MALFORMED[name])
    assert caught.value.code in {"RSD-9140", "RSD-2003"}
    report = judged(MALFORMED[name])
    assert report.error is not None
    assert (report.error.code, report.error.exit_code) == ("RSD-9141", 1)


def test_no_changed_byte_makes_it_say_something_else() -> None:
    """A changed line of a cosigner may become one of an unknown key, which proves less; never more, never other."""
    data, honest = proofs()[COMMIT], judged(proofs()[COMMIT])
    told = {k: v for k, v in honest.facts.items() if k != "cosigners"}
    known: Any = honest.facts["cosigners"]
    survived = 0
    for at in range(len(data)):
        report = judged(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if report.error is None:
            survived += 1
            found: Any = report.facts["cosigners"]
            assert {k: v for k, v in report.facts.items() if k != "cosigners"} == told
            assert set(found) < set(known)
    assert survived < 100  # the names of cosigners and their key ids, no more


def _changed(made: World, change: Any) -> Anchor:
    signers = [made.keys[s, "signatory"] for s in ("site-a", "site-b", "site-c")]
    return open_trust(resealed(made.trust, change, *signers), "trust.json")


def _revoked(role: str, holder: str, at: str) -> Any:
    def change(trust: Any) -> None:
        for key in trust["keys"]:
            if (key["role"], key["holder"]) == (role, holder):
                key["revoked_at"] = at

    return change


def test_keys_are_judged_at_the_time_of_the_entry() -> None:
    before, after = "2026-11-22T09:00:00Z", "2026-11-22T23:00:00Z"
    assert judged(proofs()[COMMIT], _changed(world(), _revoked("agent", "site-a", after))).error is None
    refused = judged(proofs()[COMMIT], _changed(world(), _revoked("agent", "site-a", before))).error
    assert refused is not None
    assert refused.code == "RSD-9142"
    assert START.strftime("%Y-%m-%d") in refused.message + refused.found
    fewer = judged(proofs()[COMMIT], _changed(world(), _revoked("agent", "site-b", before)))
    assert fewer.error is None
    assert len(fewer.facts["cosigners"]) == 1


def test_a_log_that_only_its_owner_and_the_operator_signed_is_asserted() -> None:
    proof = parse(proofs()[COMMIT])
    parsed = note.parse(proof.signed)
    alone = note.Note(parsed.text, parsed.signatures[:1]).encode()
    report = judged(TlogProof(proof.entry, proof.index, proof.hashes, alone).encode())
    assert report.error is None
    assert any("only its owner and the operator" in text for text in report.asserted()["site-a"])


def test_a_proof_of_another_consortium_or_key_or_day_is_refused() -> None:
    proof = parse(proofs()[COMMIT])
    seen = proof.checkpoint
    for origin, signer in (
        ("residency/other/site-a", "site-a"),
        (seen.origin, "site-b"),
    ):
        signed = checkpoint.sign(Checkpoint(origin, seen.size, seen.root), world().log_signer(signer).private)
        report = judged(TlogProof(proof.entry, proof.index, proof.hashes, signed).encode())
        assert report.error is not None
        assert report.error.code == "RSD-9142"
    expired = _changed(world(), lambda trust: trust.update(expires="2026-11-22T12:00:00Z"))
    report = judged(proofs()[COMMIT], expired)
    assert report.error is not None
    assert "expired" in report.error.message


def test_an_entry_that_names_another_index_is_refused() -> None:
    """A member that hashed the bytes of one entry at another place can prove that; it is no entry there."""
    made = world()
    entry = made.entries("site-a")[0].encode()
    hashes = [merkle.leaf_hash(b"x"), merkle.leaf_hash(entry)]
    signed = checkpoint.sign(
        Checkpoint(made.origin("site-a"), 2, merkle.root(hashes)), made.log_signer("site-a").private
    )
    report = judged(TlogProof(entry, 1, (hashes[0],), signed).encode())
    assert report.error is not None
    assert "another index" in report.error.message
