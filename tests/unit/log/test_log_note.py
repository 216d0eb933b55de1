"""Signed notes, checkpoints and cosignatures: strict forms, and which key vouches for what."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.errors import CheckFailed, InputError
from compliance.log import checkpoint, cosign, merkle, note
from compliance.log.checkpoint import Checkpoint

LOG = Ed25519PrivateKey.generate()
PEER = Ed25519PrivateKey.generate()
ORIGIN = "anna.example/log"
POINT = Checkpoint(ORIGIN, 7, merkle.leaf_hash(b"any"))
SIGNED = checkpoint.sign(POINT, LOG)


def test_a_signed_checkpoint_opens() -> None:
    opened = checkpoint.open_signed(SIGNED, LOG.public_key(), ORIGIN)
    assert opened.checkpoint == POINT
    assert opened.note.encode() == SIGNED


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\tb", "a\nb", "a\x00b", "a\u200bb"], ids=repr
)
def test_names_that_no_key_may_have(name: str) -> None:
    with pytest.raises(InputError, match="RSD-5003"):
        note.check_name(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n[:-1],
        lambda n: n + "\n",
        lambda n: n.replace("\n", "\r\n"),
        lambda n: n.replace("\n\n", "\n"),
        lambda n: n.replace("\u2014 ", "- "),
        lambda n: n.replace("\u2014 ", "\u2014  "),
        lambda n: n.replace("=\n", "\n"),
        lambda n: n + n.split("\n\n")[1],
        lambda n: n.split("\n\n")[0] + "\n\n",
        lambda n: n + "\u2014 x.example AAAA\n",
        lambda n: n.replace("anna", "an\tna"),
        lambda n: n.replace("anna", "an\ud800na"),
        lambda n: "x" * 70000 + n,
        lambda n: n + "".join(f"\u2014 x{i}.example AAAAAAAA\n" for i in range(100)),
        lambda n: n[:0],
    ],
)
def test_malformed_notes_are_refused(change: object) -> None:
    with pytest.raises(InputError, match=r"RSD-(5001|2003)"):
        note.parse(change(SIGNED))  # type: ignore[operator]


def test_a_note_with_empty_lines_keeps_them() -> None:
    signed = note.sign("one\n\ntwo\n", "a.example", LOG)
    assert note.parse(signed).text == "one\n\ntwo\n"
    note.verify(note.parse(signed), "a.example", LOG.public_key())


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n7\n",
        POINT.text() + "extension\n",
        POINT.text().replace("\n7\n", "\n07\n"),
        POINT.text().replace("\n7\n", "\n-7\n"),
        POINT.text().replace("\n7\n", "\n+7\n"),
        POINT.text().replace("\n7\n", "\n\u0667\n"),
        POINT.text().replace("\n7\n", "\n9007199254740992\n"),
        POINT.text().replace("\n7\n", "\n0\n"),
        f"{ORIGIN}\n7\nAAAA\n",
        POINT.text().replace(ORIGIN, "anna example"),
        POINT.text().replace("=\n", "\n"),
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"RSD-(5003|5004|2003)"):
        checkpoint.parse_text(text)


def test_a_checkpoint_of_another_key_or_log_is_refused() -> None:
    with pytest.raises(CheckFailed, match="RSD-5002"):
        checkpoint.open_signed(SIGNED, PEER.public_key())
    with pytest.raises(CheckFailed, match="RSD-5005") as e:
        checkpoint.open_signed(SIGNED, LOG.public_key(), "berta.example/log")
    assert (e.value.found, e.value.limit) == (ORIGIN, "berta.example/log")
    other_name = note.sign(POINT.text(), "berta.example/log", LOG)
    with pytest.raises(CheckFailed, match="RSD-5002"):
        checkpoint.open_signed(other_name, LOG.public_key())


def test_changing_any_line_of_a_checkpoint_breaks_its_signature() -> None:
    for old, new in [("anna", "berta"), ("\n7\n", "\n8\n")]:
        with pytest.raises(CheckFailed, match="RSD-5002"):
            checkpoint.open_signed(SIGNED.replace(old, new), LOG.public_key())


def test_cosignatures_of_known_witnesses_count_and_others_are_ignored() -> None:
    unknown = Ed25519PrivateKey.generate()
    held = note.parse(SIGNED)
    for name, key in [("berta.example", PEER), ("carl.example", unknown)]:
        held = note.with_signature(held, cosign.cosign(held.text, name, key, 1_700_000_000))
    held = note.parse(held.encode())
    assert cosign.cosigners(held, {"berta.example": PEER.public_key()}) == {"berta.example": 1_700_000_000}
    # the right name with another key is an unknown key
    assert cosign.cosigners(held, {"carl.example": PEER.public_key()}) == {}


def test_a_cosignature_holds_for_one_text_and_one_time() -> None:
    signature = cosign.cosign(POINT.text(), "berta.example", PEER, 1_700_000_000)
    assert cosign.verify(POINT.text(), signature, PEER.public_key()) == 1_700_000_000
    later = note.Signature(signature.name, signature.key_id, (1_700_000_001).to_bytes(8, "big") + signature.value[8:])
    never = note.Signature(signature.name, signature.key_id, b"\xff" * 8 + signature.value[8:])
    short = note.Signature(signature.name, signature.key_id, signature.value[:71])
    for text, forged in [
        (POINT.text(), later),
        (POINT.text(), never),
        (POINT.text(), short),
        (POINT.text().replace("7", "8"), signature),
    ]:
        with pytest.raises(CheckFailed, match="RSD-5002"):
            cosign.verify(text, forged, PEER.public_key())


def test_a_note_signature_is_no_cosignature() -> None:
    signed = note.parse(note.sign(POINT.text(), "berta.example", PEER))
    assert cosign.cosigners(signed, {"berta.example": PEER.public_key()}) == {}
    with pytest.raises(CheckFailed, match="RSD-5002"):
        cosign.verify(signed.text, signed.signatures[0], PEER.public_key())


def test_witnesses_with_one_key_are_refused() -> None:
    peer = PEER.public_key()
    with pytest.raises(InputError, match=r"RSD-5055 b\.example and a\.example"):
        cosign.check_witness_keys({"a.example": peer, "b.example": peer}, LOG.public_key())
    with pytest.raises(InputError, match=r"RSD-5055 a\.example and the log itself"):
        cosign.check_witness_keys({"a.example": peer}, peer)
