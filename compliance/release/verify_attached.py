"""Steps 16 to 19: what a bundle carries for other people's tools says nothing but what the evidence gives."""

from __future__ import annotations

from itertools import zip_longest
from typing import NoReturn

from compliance.canonical import Json, canonical, parse_canonical, parse_json
from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.release import attest, tlog_proof
from compliance.release.bom import BOM_FILE, bill_of_materials
from compliance.release.case import Contents, Context
from compliance.release.model_signature import KEY_FILE, SIGNATURE_FILE, check_model
from compliance.release.report import Found


def statements(contents: Contents, context: Context) -> Found:
    """Step 16: each attestation is the operator's, and is the statement that follows from the evidence."""
    trust, at = context.anchor.trust, parse_time(contents.manifest.created)
    wanted = attest.statements(contents)
    _just_these("RSD-9016", contents, attest.FOLDER, {*wanted, KEY_FILE})
    for path, statement in wanted.items():
        envelope = contents.envelope(path)
        if envelope.payload_type != attest.PAYLOAD_TYPE:
            raise _false("RSD-9016", f"{path} is another kind of file", envelope.payload_type, attest.PAYLOAD_TYPE)
        if not context.anchor.signers(envelope, "operator", trust.operator.name, at):
            held = ", ".join(k.keyid[:12] for k in trust.keys_of("operator", trust.operator.name))
            signed = ", ".join(keyid[:12] for keyid, _ in envelope.signatures)
            raise _false("RSD-9016", f"{path} is not signed by the operator", signed or "nobody", held)
        if envelope.payload != canonical(statement):
            _differs("RSD-9016", path, parse_canonical(envelope.payload, path), statement)
    proved = f"{len(wanted)} in-toto statements by {trust.operator.name} say what the evidence gives, value by value"
    text = "that nothing went into the run but what attestations/provenance.intoto.jsonl names, and the sites' records"
    return Found((proved,), ((trust.operator.name, text),))


def signature(contents: Contents, context: Context) -> Found:
    """Step 17: model.sig is of these files, by the key for which the manifest vouches."""
    del context
    for path in (SIGNATURE_FILE, KEY_FILE):
        contents.file(path)
    key = check_model(contents.files)
    return Found((f"{SIGNATURE_FILE} is of the files of model/, by the key {key[:16]} in {KEY_FILE}",))


def materials(contents: Contents, context: Context) -> Found:
    """Step 18: the bill of materials says what the evidence says."""
    del context
    wanted, found = bill_of_materials(contents), contents.file(BOM_FILE)
    if wanted != found:
        _differs("RSD-9018", BOM_FILE, parse_json(found, BOM_FILE), parse_json(wanted, BOM_FILE))
    return Found((f"{BOM_FILE} follows from study, logs, rosters and the model's files",))


def proved(contents: Contents, context: Context) -> Found:
    """Step 19: the proofs are those that the logs give, byte for byte."""
    del context
    wanted = tlog_proof.proofs(contents)
    _just_these("RSD-9019", contents, tlog_proof.FOLDER, set(wanted))
    for path, data in wanted.items():
        if contents.file(path) != data:
            ours, theirs = data.decode().split("\n"), contents.file(path).decode(errors="replace").split("\n")
            line, pair = next((i, p) for i, p in enumerate(zip_longest(theirs, ours), 1) if p[0] != p[1])
            found, limit = ((text or "no line")[:120] for text in pair)
            raise _false("RSD-9019", f"{path} is not the proof that the log gives (line {line})", found, limit)
    return Found((f"{len(wanted)} inclusion proofs lead from entries to the checkpoints of step 7",))


def _just_these(code: str, contents: Contents, folder: str, wanted: set[str]) -> None:
    found = {f"{folder}/{name}" for name in contents.under(folder)}
    if found != wanted:
        raise _false(code, f"{folder}/ does not hold just its files", sorted(found - wanted), sorted(wanted - found))


def _differs(code: str, path: str, found: Json, wanted: Json) -> NoReturn:
    """Raises CheckFailed that names the first value that differs; two forms of one value differ too."""
    place = "$"
    while found != wanted:
        if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
            key = next(k for k in wanted if found[k] != wanted[k])
            place, found, wanted = f"{place}.{key}", found[key], wanted[key]
        elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
            at = next(i for i, value in enumerate(wanted) if found[i] != value)
            place, found, wanted = f"{place}[{at}]", found[at], wanted[at]
        else:
            break
    raise _false(code, f"{path} does not follow from the evidence ({place})", _short(found), _short(wanted))


def _short(value: Json) -> str:
    return (f"fields {', '.join(sorted(value))}" if isinstance(value, dict) else str(value))[:160]


def _false(code: str, message: str, found: object, limit: object) -> CheckFailed:
    return CheckFailed(code, message, rule="made again from the evidence", found=found, limit=limit)
