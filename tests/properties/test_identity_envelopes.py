"""Canonical JSON, envelopes and signatures: vectors of the specifications, round trips, and every flipped byte."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.canonical import b64decode, canonical, parse_canonical, parse_json
from compliance.clock import now
from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.identity import (
    PublicIdentity,
    countersign,
    load_public,
    load_signer,
    media_type,
    pae,
    parse_envelope,
    save_signer,
    seal,
)
from compliance.validation import load_model
from tests.desk import consortium, day, signer

CONSORTIUM = consortium()
ANCHOR = CONSORTIUM.anchor()
SCHEMA = "residency.note/1"
STATEMENT = seal({"schema": SCHEMA, "text": "x", "n": 7}, CONSORTIUM.operator).encode() + b"\n"

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def opened(data: bytes) -> object:
    return ANCHOR.statement(data, SCHEMA, "note", role="operator", holder="hub", at=now()).payload


def test_dsse_specification_vector() -> None:
    # secure-systems-lab/dsse, protocol.md, "Test vectors": ECDSA over P-256 with SHA-256 on the PAE.
    encoded = pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    der = _der(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(der, encoded, ec.ECDSA(hashes.SHA256()))


def _der(r: int, s: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    return encode_dss_signature(r, s)


def test_rfc_8785_vectors() -> None:
    # RFC 8785 section 3.2.3 (sorting by UTF-16 code units) and the string of section 3.2.2.
    keys = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7}
    assert list(json.loads(canonical(keys))) == ["\r", "1", "\x80", "ö", "€", "😀", "\ufb33"]
    assert canonical('€$\x0f\nA\'B"\\\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()
    assert canonical({"literals": [None, True, False]}) == b'{"literals":[null,true,false]}'


@given(JSON)
def test_canonical_round_trip(value: object) -> None:
    data = canonical(value)
    assert parse_canonical(data, "x") == value
    assert canonical(parse_json(data, "x")) == data


@pytest.mark.parametrize(
    "data",
    [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1,"a":1}', b"[1.0]", b"[1e2]", b"NaN", b"[Infinity]", b"", b"\xff",
     b'"\\u0041"', b"[" * 100_000, b'"\\ud800"', b"9007199254740993"],
)  # fmt: skip
def test_other_forms_of_json_are_refused(data: bytes) -> None:
    with pytest.raises(InputError) as e:
        parse_canonical(data, "x")
    assert e.value.code in {"RSD-2001", "RSD-2002"}


@pytest.mark.parametrize("text", ["YQ", "YR==", "YQ==\n", "Y Q==", "Y-_=", "ü"])
def test_other_forms_of_base64_are_refused(text: str) -> None:
    with pytest.raises(InputError) as e:
        b64decode(text, "x")
    assert e.value.code == "RSD-2003"


@given(st.dictionaries(TEXT, JSON, max_size=4))
@settings(max_examples=50)
def test_envelope_round_trip(body: dict[str, object]) -> None:
    statement = {**body, "schema": SCHEMA}
    envelope = seal(statement, CONSORTIUM.operator, CONSORTIUM.agents["berlin"])
    again = parse_envelope(envelope.encode(), "x")
    assert again == envelope
    assert parse_canonical(again.payload, "x") == statement
    assert countersign(envelope, CONSORTIUM.operator) == envelope
    assert opened(envelope.encode()) == statement


def test_every_flipped_byte_of_a_signed_statement_is_refused() -> None:
    assert opened(STATEMENT) == {"schema": SCHEMA, "text": "x", "n": 7}
    for i, byte in enumerate(STATEMENT):
        for flip in (0x01, 0x20, 0x80):
            changed = STATEMENT[:i] + bytes([byte ^ flip]) + STATEMENT[i + 1 :]
            with pytest.raises(ResidencyError) as e:
                opened(changed)
            assert e.value.exit_code in {1, 3}, i


@given(st.integers(0, len(STATEMENT) - 2), st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=200)
def test_no_splice_survives(at: int, insert: bytes, cut: int) -> None:
    changed = STATEMENT[:at] + insert + STATEMENT[at + cut :]
    if changed in {STATEMENT, STATEMENT[:-1]}:
        return
    with pytest.raises(ResidencyError):
        opened(changed)


def test_a_statement_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckFailed) as e:
        ANCHOR.statement(STATEMENT, "residency.study/1", "x", role="operator", holder="hub", at=now())
    assert e.value.code == "RSD-6012"
    assert e.value.found == media_type(SCHEMA)


def test_signatures_stand_once_and_in_order() -> None:
    envelope = json.loads(seal({"schema": SCHEMA}, CONSORTIUM.operator, CONSORTIUM.agents["leeds"]).encode())
    first, second = envelope["signatures"]
    for order in ([second, first], [first, first, second]):
        with pytest.raises(InputError) as e:
            parse_envelope(canonical({**envelope, "signatures": order}), "x")
        assert e.value.code == "RSD-2002"


@pytest.mark.parametrize(
    "change",
    [{"not_before": "soon"}, {"not_after": "2020-01-01"}, {"revoked_at": "2026-13-01"}, {"role": "king"},
     {"holder": "A"}, {"extra": 1}],
)  # fmt: skip
def test_malformed_key_records_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError) as e:
        load_model(PublicIdentity, {**CONSORTIUM.operator.identity.as_json(), **change}, "RSD-6003", "key")
    assert e.value.code == "RSD-6003"


def test_key_period_and_revocation() -> None:
    key = signer("agent", "berlin", start=0, end=10).identity
    revoked = key.model_copy(update={"revoked_at": day(5)})
    assert not key.may_sign_at(now() - timedelta(days=1))
    assert key.may_sign_at(now() + timedelta(days=6))
    assert not revoked.may_sign_at(now() + timedelta(days=6))
    assert revoked.may_sign_at(now() + timedelta(days=4))
    assert not key.may_sign_at(now() + timedelta(days=11))


def test_key_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("keys")
    mine, other = signer("dpo", "berlin"), signer("dpo", "berlin")
    private, public = save_signer(mine, folder)
    assert private.stat().st_mode & 0o777 == 0o600
    assert load_public(public) == mine.identity == load_signer(private).identity
    with pytest.raises(InputError, match="exists already"):
        save_signer(other, folder)
    public.write_bytes(canonical(other.identity.as_json()) + b"\n")
    with pytest.raises(InputError) as e:
        load_signer(private)
    assert (e.value.code, e.value.limit) == ("RSD-6005", other.identity.keyid[:12])
    private.write_bytes(b"no key")
    with pytest.raises(InputError, match="not an unencrypted PEM"):
        load_signer(private)
