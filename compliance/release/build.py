"""Build a release from a run folder: choose files, recompute model, privacy claims and card, list, sign, verify."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compliance.canonical import Json, canonical, parse_canonical, parse_json, sha256_hex
from compliance.clock import parse_time
from compliance.errors import InputError, Refused
from compliance.evaluation.record import FILE, FOLDER
from compliance.identity import Signer, parse_envelope, seal
from compliance.release import manifest as manifests
from compliance.release.attest import attestations
from compliance.release.bom import BOM_FILE, bill_of_materials
from compliance.release.card import CARD_FILE, card
from compliance.release.case import Contents
from compliance.release.model_files import WEIGHTS
from compliance.release.model_signature import sign_model
from compliance.release.tlog_proof import proofs
from compliance.release.verify_decisions import cleared
from compliance.release.verify_model import released
from compliance.release.verify_privacy import claims
from compliance.trust.root import NAME, Anchor
from compliance.validation import load_model

_FOLDERS = re.compile(r"(rosters|evidence)/[^/]+")


class _Answer(BaseModel):
    """What tells where an answer belongs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_: Literal["residency.advice/1", "residency.approval/1", "residency.refusal/1"] = Field(alias="schema")
    subject: str
    digest: str
    site: str = Field(pattern=NAME)


class _Result(BaseModel):
    """What a release needs of result.json; the run records more there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str
    study: str
    outcome: str


def build_bundle(run: Mapping[str, bytes], operator: Signer, anchor: Anchor) -> dict[str, bytes]:
    """Path -> bytes of the bundle of a run folder's files. A function of its arguments: no clock, no chance.

    `created` is the time of the last entry that the evidence shows; all signatures are deterministic. Judges
    nothing: `verify_bundle` does. Raises InputError RSD-904x for what is malformed or missing, Refused RSD-9022 for a
    run that did not finish, RSD-6008 for a key that is no operator's, EnvironmentFault RSD-9143.
    """
    if operator.identity.role != "operator":
        raise Refused(
            "RSD-6008", "only the operator signs a release", found=operator.identity.role, limit="operator",
            next="give the operator's key",
        )  # fmt: skip
    contents = Contents(run)
    result = _finished(contents)
    files = {path: data for path, data in run.items() if _FOLDERS.fullmatch(path)}
    files |= _answers(contents) | _law(contents)
    for path in ("study.json", "layout.json", "regions.yaml"):
        files[path] = contents.file(path)
    if not contents.rosters:
        raise InputError("RSD-9040", "the run has no rosters", found="no file", limit="rosters/round-001.json")
    for signed in contents.rosters[-contents.study.aggregation.average_last_rounds :]:
        path = f"snapshots/round-{signed.roster.round:03d}.f32"
        files[path] = contents.file(path)
    files |= _evaluation(contents)
    files["privacy.json"] = canonical(claims(contents)) + b"\n"
    files |= released(contents)
    files |= _attached(files, operator)
    files[manifests.PATH] = seal(_statement(contents, files, anchor, result.run), operator).encode() + b"\n"
    return files


def _attached(files: dict[str, bytes], operator: Signer) -> dict[str, bytes]:
    """What is made from the rest of the bundle: the card, and what other people's tools read."""
    whole = dict(files)
    contents = Contents(whole)
    whole[CARD_FILE] = card(contents)
    whole |= sign_model(whole, operator)
    whole[BOM_FILE] = bill_of_materials(contents)
    return whole | attestations(contents, operator) | proofs(contents)


def _answers(contents: Contents) -> dict[str, bytes]:
    """The answers to this study under the names that a bundle gives them. Raises InputError RSD-9043."""
    out: dict[str, bytes] = {}
    for name, data in contents.under("answers").items():
        what = f"answers/{name}"
        answer = load_model(_Answer, parse_canonical(parse_envelope(data, what).payload, what), "RSD-9041", what)
        if (answer.subject, answer.digest) != ("study", contents.study_digest):
            continue
        kind = answer.schema_.removeprefix("residency.").split("/")[0]
        path = f"answers/{answer.site}.{kind}.json"
        if out.setdefault(path, data) != data:
            raise InputError(
                "RSD-9043", f"site {answer.site} has two answers of kind {kind}", found=name, limit="one answer",
                next="keep the one that is meant in the run folder",
            )  # fmt: skip
    return out


def _law(contents: Contents) -> dict[str, bytes]:
    """The adoptions of the sites whose logs are shown, the advice on them, and the packs adopted or named by decisions.

    Others stay in the run folder. A pack is chosen by its digest.
    """
    paths = [f"law/{site}.{kind}.json" for site in contents.logs for kind in ("adoption", "advice")]
    shown = {path: contents.files[path] for path in paths if path in contents.files}
    named = {pack.sha256 for site, a in contents.adoptions.items() if site in contents.logs for pack in a.law_set.packs}
    named |= {d for m in contents.logs for _, x in contents.decisions(m) for d in x.decision.packs.values()}
    packs = {f"packs/{name}": data for name, data in contents.under("packs").items() if sha256_hex(data) in named}
    return shown | packs


def _evaluation(contents: Contents) -> dict[str, bytes]:
    """The record, and the sites' signed counts if its figures are published."""
    if contents.evaluation is None:
        return {}
    record, files = contents.evaluation[0], {FILE: contents.file(FILE)}
    paths = [f"{FOLDER}/{site}.json" for site in record.contributed if record.figures is not None]
    return files | {path: contents.file(path) for path in paths}


def _finished(contents: Contents) -> _Result:
    raw = parse_json(contents.file("result.json"), "result.json")
    result = load_model(_Result, raw, "RSD-9041", "result.json")
    if result.outcome != "finished" or result.study != contents.study_digest:
        raise Refused(
            "RSD-9022",
            "only a finished run of this study can be released",
            rule="a run below quorum or stopped has no release",
            found=f"{result.outcome}, study {result.study[:16]}",
            limit=f"finished, study {contents.study_digest[:16]}",
            next="start the run again: residency run start",
        )
    return result


def _statement(contents: Contents, files: Mapping[str, bytes], anchor: Anchor, run: str) -> dict[str, Json]:
    created = contents.last_logged
    parse_time(created)
    return {
        "schema": manifests.SCHEMA,
        "study": contents.study_digest,
        "trust": {"sha256": anchor.digest, "version": anchor.trust.version},
        "run": run,
        "created": created,
        "cleared": list(cleared(contents)),
        "files": manifests.listed(files),
    }


def model_digest(files: Mapping[str, bytes]) -> str:
    """One digest for the model's weights: SHA-256 over the digests of its files, adapters first."""
    return sha256_hex(b"".join(sha256_hex(files[p]).encode() for p in WEIGHTS if p in files))
