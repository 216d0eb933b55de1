"""An operator, or whoever gets at a bundle, tampers with what it carries for other people's tools.

The manifest is signed again with the operator's real key: only the named step stands against it. Without that key, step
1 does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from compliance.canonical import canonical
from compliance.identity import Envelope, Signer, countersign, parse_envelope
from compliance.release import attest
from compliance.release import manifest as manifests
from compliance.release.attest import PAYLOAD_TYPE
from compliance.release.bom import BOM_FILE
from compliance.release.case import Contents
from compliance.release.model_signature import KEY_FILE, SIGNATURE_FILE, sign_model
from compliance.release.tlog_proof import parse
from tests.world import Plan, World, build_world, failed, world

Files = dict[str, bytes]
Tamper = Callable[[World, Files], Any]
LEDGER, SUMMARY = "attestations/privacy.intoto.jsonl", "attestations/verification.intoto.jsonl"
COMMIT, CLOSE = "proofs/site-a.commit.tlog-proof", "proofs/site-a.close.tlog-proof"


@cache
def honest() -> Files:
    return world().bundle


def _attested(
    path: str, change: Callable[[Any], Any], by: Callable[[World], Signer], kind: str = PAYLOAD_TYPE
) -> Tamper:
    """The statement after `change`, sealed again by somebody."""

    def tamper(made: World, files: Files) -> None:
        statement = json.loads(parse_envelope(files[path], path).payload)
        change(statement)
        files[path] = countersign(Envelope(kind, canonical(statement), ()), by(made)).encode() + b"\n"

    return tamper


def _operator(made: World) -> Signer:
    return made.operator


def _agent(made: World) -> Signer:
    return made.keys["site-a", "agent"]


def _cheaper(statement: Any) -> None:
    statement["predicate"]["sites"][0]["epsilon_milli"] = 1


def _fewer_events(statement: Any) -> None:
    statement["predicate"]["sites"][0]["events"][0]["times"] = 1


def _of_another_model(statement: Any) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64


def _more_levels(statement: Any) -> None:
    statement["predicate"]["verifiedLevels"].append("SLSA_BUILD_LEVEL_3")


def _unsigned(_: World, files: Files) -> None:
    envelope = parse_envelope(files[SUMMARY], SUMMARY)
    files[SUMMARY] = Envelope(envelope.payload_type, envelope.payload, ()).encode() + b"\n"


def _swapped(_: World, files: Files) -> None:
    files[LEDGER], files[SUMMARY] = files[SUMMARY], files[LEDGER]


def _remove(path: str) -> Tamper:
    return lambda _, files: files.pop(path)


def _signed_before_the_card_changed(made: World, files: Files) -> None:
    files |= sign_model({p: d for p, d in files.items() if p != "model/README.md"}, made.operator)


def _another_key(made: World, files: Files) -> None:
    files[KEY_FILE] = sign_model(files, _agent(made))[KEY_FILE]


def _another_signature(made: World, files: Files) -> None:
    """By another key, under the hint of the key that lies beside the folder."""
    bundle, other = json.loads(files[SIGNATURE_FILE]), json.loads(sign_model(files, _agent(made))[SIGNATURE_FILE])
    bundle["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"]
    files[SIGNATURE_FILE] = canonical(bundle) + b"\n"


def _another_curve(_: World, files: Files) -> None:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    files[KEY_FILE] = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _no_key(_: World, files: Files) -> None:
    files[KEY_FILE] = b"-----BEGIN PUBLIC KEY-----\n"


def _extra_field(_: World, files: Files) -> None:
    files[SIGNATURE_FILE] = canonical({**json.loads(files[SIGNATURE_FILE]), "note": "x"}) + b"\n"


def _bill(change: Callable[[Any], Any]) -> Tamper:
    def tamper(_: World, files: Files) -> None:
        bill = json.loads(files[BOM_FILE])
        change(bill)
        files[BOM_FILE] = canonical(bill) + b"\n"

    return tamper


def _licence(bill: Any) -> None:
    bill["metadata"]["component"]["licenses"] = [{"license": {"id": "MIT"}}]


def _no_limits(bill: Any) -> None:
    bill["metadata"]["component"]["modelCard"]["considerations"]["technicalLimitations"].clear()


def _other_base(bill: Any) -> None:
    bill["components"][0]["hashes"][0]["content"] = "0" * 64


def _pretty(_: World, files: Files) -> None:
    files[BOM_FILE] = json.dumps(json.loads(files[BOM_FILE]), indent=1).encode()


def _without_cosignatures(_: World, files: Files) -> None:
    kept = [line for line in files[COMMIT].decode().split("\n") if "/witness " not in line]
    files[COMMIT] = "\n".join(kept).encode()


def _another_entry(_: World, files: Files) -> None:
    files[COMMIT] = files[CLOSE]


def _of_an_older_tree(made: World, files: Files) -> None:
    """The real entry with the real, cosigned checkpoint of a smaller tree, which lies in the evidence."""
    evidence = json.loads(files["evidence/site-a.json"])
    proof = parse(files[COMMIT])
    files[COMMIT] = proof.encode().replace(proof.signed.encode(), evidence["earlier"][0].encode())


RESIGNED: dict[str, tuple[Tamper, int]] = {
    "less eps": (_attested(LEDGER, _cheaper, _operator), 16),
    "fewer charged events": (_attested(LEDGER, _fewer_events, _operator), 16),
    "of another model": (_attested(SUMMARY, _of_another_model, _operator), 16),
    "a level that nobody verified": (_attested(SUMMARY, _more_levels, _operator), 16),
    "attested by an agent": (_attested(SUMMARY, lambda _: None, _agent), 16),
    "attested by nobody": (_unsigned, 16),
    "of another payload type": (_attested(SUMMARY, lambda _: None, _operator, "application/json"), 16),
    "two statements swapped": (_swapped, 16),
    "no ledger statement": (_remove(LEDGER), 16),
    "no model key": (_remove(KEY_FILE), 16),
    "no model signature": (_remove(SIGNATURE_FILE), 17),
    "signed without the card": (_signed_before_the_card_changed, 17),
    "another model key": (_another_key, 17),
    "another signature": (_another_signature, 17),
    "a key of another curve": (_another_curve, 17),
    "no key at all": (_no_key, 17),
    "a field that nobody reads": (_extra_field, 17),
    "no bill of materials": (_remove(BOM_FILE), 18),
    "a licence that nobody gave": (_bill(_licence), 18),
    "limitations left out": (_bill(_no_limits), 18),
    "another base model": (_bill(_other_base), 18),
    "the bill in another form": (_pretty, 18),
    "no proof": (_remove(COMMIT), 19),
    "a proof without its cosignatures": (_without_cosignatures, 19),
    "a proof of another entry": (_another_entry, 19),
    "a proof to an older tree": (_of_an_older_tree, 19),
    "a proof too many": (lambda _, files: files.update({"proofs/site-a.roster.tlog-proof": files[CLOSE]}), 19),
}


@pytest.mark.parametrize("name", RESIGNED)
def test_a_dishonest_operator_signs_the_manifest_again(name: str) -> None:
    tamper, step = RESIGNED[name]
    files = dict(honest())
    tamper(world(), files)
    assert files != honest()
    assert failed(world().verify(world().resigned(files)))[0] == step


def test_any_changed_byte_of_what_is_attached_is_seen_by_whoever_trusts_the_operator() -> None:
    for path in sorted(p for p in honest() if p.startswith(manifests.ATTACHED)):
        data = bytearray(honest()[path])
        data[len(data) // 2] ^= 1
        number, message = failed(world().verify({**honest(), path: bytes(data)}))
        assert (number, path in message) == (1, True), path


def test_nothing_else_may_lie_where_other_tools_look() -> None:
    for path in (
        "attestations/other.intoto.jsonl",
        "attestations/model-signing.key",
        "proofs/site-a.charge.tlog-proof",
        "proofs/../study.json",
        "model/model.sig.py",
        "bom.json",
    ):
        assert not manifests.ALLOWED.fullmatch(path)
        assert failed(world().verify(world().resigned({**honest(), path: b"x"})))[0] == 1


def test_true_does_not_pass_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes them for equal."""
    made, honest_ones = world(), attest.statements(Contents(honest()))
    wanted = {path: {**s, "predicate": {**s["predicate"], "number": 1}} for path, s in honest_ones.items()}
    monkeypatch.setattr(attest, "statements", lambda _: wanted)
    for said, step in ((1, 0), (True, 16)):
        files = dict(honest())
        for path in wanted:
            _attested(path, lambda s, said=said: s["predicate"].update(number=said), _operator)(made, files)
        assert failed(made.verify(made.resigned(files)))[0] == step


def test_a_bundle_under_a_foreign_root_attests_nothing_here() -> None:
    """The same run, made again in full by somebody with keys of his own: his statements are no operator's."""
    foreign = build_world(Plan())
    assert failed(foreign.verify(foreign.bundle)) == (0, "")
    mixed = {**honest(), **{p: d for p, d in foreign.bundle.items() if p.startswith("attestations/")}}
    assert failed(world().verify(world().resigned(mixed)))[0] == 16
    assert failed(world().verify(foreign.bundle))[0] == 1
