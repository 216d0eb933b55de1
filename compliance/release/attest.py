"""What a release says of itself to other people's tools: in-toto statements v1, each under the operator's key.

An attestation is a DSSE envelope (`compliance.identity`) on one line, payload type application/vnd.in-toto+json. Its
subjects are the released files of the model. The names that begin with urn:residency are names, not addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from compliance.canonical import Json, canonical, sha256_hex
from compliance.identity import Envelope, Signer, countersign
from compliance.privacy.events import PrivacyEvent
from compliance.release.case import Contents
from compliance.release.model_signature import signed_files
from compliance.release.report import STEPS
from compliance.release.verify_privacy import charged

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
SUMMARY: Final = "https://slsa.dev/verification_summary/v1"
LEDGER: Final = "urn:residency:spec:privacy-ledger:1"
POLICY: Final = "urn:residency:spec:release-steps:1"
TRAINING: Final = "urn:residency:spec:federated-training:1"
FOLDER: Final = "attestations"
_SIGNED: Final = ("answers", "law", "rosters", "evidence", "histograms")
_JUDGED: Final = 15  # the steps that a summary is about; those after them judge what is made from the same evidence


def attestations(contents: Contents, operator: Signer) -> dict[str, bytes]:
    """Path in the bundle -> bytes: the statements, signed. Ed25519 is deterministic."""
    unsigned = {p: Envelope(PAYLOAD_TYPE, canonical(s), ()) for p, s in statements(contents).items()}
    return {path: countersign(envelope, operator).encode() + b"\n" for path, envelope in unsigned.items()}


def statements(contents: Contents) -> dict[str, dict[str, Json]]:
    """Path in the bundle -> statement. A function of the evidence, the model's files and privacy.json."""
    made: dict[str, tuple[str, Callable[[Contents], dict[str, Json]]]] = {
        "provenance": (PROVENANCE, _provenance),
        "privacy": (LEDGER, _ledger),
        "verification": (SUMMARY, _summary),
    }
    subjects: list[dict[str, Json]] = [_file(f"model/{n}", data) for n, data in signed_files(contents.files).items()]
    return {
        f"{FOLDER}/{name}.intoto.jsonl": {
            "_type": STATEMENT,
            "subject": subjects,
            "predicateType": kind,
            "predicate": predicate(contents),
        }
        for name, (kind, predicate) in made.items()
    }


def release_name(contents: Contents) -> str:
    """The name of this release: by consortium, study and run."""
    return f"urn:residency:{contents.study.consortium}:release:{contents.study_digest}:{contents.rosters[0].roster.run}"


def _provenance(contents: Contents) -> dict[str, Json]:
    """SLSA provenance v1: the run as a build. No SLSA level is claimed: the sites build, and the operator signs."""
    study = contents.study
    external = {
        "study": contents.study_digest,
        "rounds": study.training.rounds,
        "sites": [s.name for s in study.sites],
        "contributed": list(contents.contributing),
    }
    return {
        "buildDefinition": {
            "buildType": TRAINING,
            "externalParameters": external,
            "internalParameters": {},
            "resolvedDependencies": _dependencies(contents),
        },
        "runDetails": {
            "builder": {
                "id": f"urn:residency:{study.consortium}:operator:{study.operator.name}",
                "version": {"residency": study.software.version},
            },
            "metadata": {
                "invocationId": release_name(contents),
                "startedOn": min(e.at for log in contents.logs.values() for e in log.entries.values()),
                "finishedOn": contents.last_logged,
            },
        },
    }


def _dependencies(contents: Contents) -> list[dict[str, Json]]:
    """What went into the run and is known by its digest. The sites' records are not: no digest of them leaves."""
    study = contents.study
    base = "description" if study.model.built_in else "folder"
    return [
        _named(study.model.name, study.model.sha256, residency=f"base model, digest of its {base}"),
        _named("study.json", contents.study_digest, residency="digest of the signed statement"),
        _named("app-bundle", study.software.bundle_sha256, residency="the Flower app bundle, which holds no code"),
        _file("layout.json", contents.file("layout.json")),
        _file("regions.yaml", contents.file("regions.yaml")),
        *(_file(f"packs/{name}", data) for name, data in contents.under("packs").items()),
    ]


def _ledger(contents: Contents) -> dict[str, Json]:
    """privacy.json, with the charged events that it adds up to, site by site."""
    claims = contents.claims.model_dump(mode="json", by_alias=True)
    sites = [{**row, "events": _events(contents, row["site"])} for row in claims["sites"]]
    return {**claims, "study": contents.study_digest, "sites": sites}


def _events(contents: Contents, site: str) -> list[dict[str, Json]]:
    """Equal events are told once, with how many attempts were charged for them."""
    counted: dict[PrivacyEvent, int] = {}
    for _, charge in charged(contents, site):
        counted[charge.event] = counted.get(charge.event, 0) + 1
    return [{"event": event.model_dump(mode="json"), "times": times} for event, times in counted.items()]


def _summary(contents: Contents) -> dict[str, Json]:
    """SLSA verification summary v1. `release build` puts a bundle in place only after all steps held."""
    study, name = contents.study, release_name(contents)
    signed = ["study.json", *(["evaluation.json"] if contents.evaluation else [])]
    signed += [f"{folder}/{file}" for folder in _SIGNED for file in contents.under(folder)]
    return {
        "verifier": {"id": f"urn:residency:{study.consortium}:operator:{study.operator.name}"},
        "timeVerified": contents.last_logged,
        "resourceUri": name,
        "policy": {"uri": POLICY, "digest": {"sha256": policy_digest()}},
        "inputAttestations": [{"uri": f"{name}#{p}", "digest": _digest(contents.file(p))} for p in sorted(signed)],
        "verificationResult": "PASSED",
        "verifiedLevels": [f"RESIDENCY_STEPS_1_TO_{_JUDGED}"],
    }


def policy_digest() -> str:
    """SHA-256 of the canonical list of the judged steps, by number and name."""
    return sha256_hex(canonical([[step.number, step.name] for step in STEPS[:_JUDGED]]))


def _file(path: str, data: bytes) -> dict[str, Json]:
    return {"name": path, "digest": _digest(data)}


def _digest(data: bytes) -> dict[str, str]:
    return {"sha256": sha256_hex(data)}


def _named(name: str, digest: str, **annotations: str) -> dict[str, Json]:
    return {"name": name, "digest": {"sha256": digest}, "annotations": dict(annotations)}
