"""bom.cdx.json: the release as a CycloneDX 1.6 bill of materials with a model card, made from the evidence alone.

Where the study says nothing, such as a licence, nothing stands here either. Data are named, never described by a value.
"""

from __future__ import annotations

import uuid
from typing import Final

from compliance.canonical import Json, canonical, sha256_hex
from compliance.release.attest import release_name
from compliance.release.card import PIPELINES, limitations
from compliance.release.case import Contents
from compliance.release.model_signature import signed_files
from compliance.task_spec import labels_of

BOM_FILE: Final = "bom.cdx.json"
_MODEL, _BASE, _SOFTWARE, _APP = "model", "base-model", "residency", "app-bundle"


def bill_of_materials(contents: Contents) -> bytes:
    """The bytes of bom.cdx.json: canonical JSON and a newline. A function of the evidence and the model's files."""
    datasets = [_dataset(contents, site) for site in contents.contributing]
    parts = [_base(contents), *_software(contents), *datasets]
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(contents)}",
        "version": 1,
        "metadata": {
            "timestamp": contents.last_logged,
            "lifecycles": [{"phase": "post-build"}],
            "tools": {"components": [{"type": "application", "name": _SOFTWARE}]},
            "component": _model(contents),
        },
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": sorted(part["bom-ref"] for part in parts)},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }
    return canonical(bill) + b"\n"


def _serial(contents: Contents) -> uuid.UUID:
    """UUID version 5 of the release's name and of the model's files."""
    digests = {name: sha256_hex(data) for name, data in signed_files(contents.files).items()}
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{release_name(contents)}:{sha256_hex(canonical(digests))}")


def _model(contents: Contents) -> dict[str, Json]:
    study = contents.study
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": study.name,
        "version": contents.rosters[0].roster.run,
        "description": study.description,
        "supplier": {"name": study.operator.name},
        "components": [
            {"type": "file", "bom-ref": f"model/{name}", "name": f"model/{name}", "hashes": _hash(sha256_hex(data))}
            for name, data in signed_files(contents.files).items()
        ],
        "modelCard": {
            "modelParameters": _parameters(contents),
            **_analysis(contents),
            "considerations": {
                "useCases": [f"Purpose named in the study: {study.purpose.replace('_', ' ')}"],
                "technicalLimitations": limitations(contents),
                "ethicalConsiderations": [_privacy(contents)],
            },
        },
        "properties": _properties(contents),
    }


def _parameters(contents: Contents) -> dict[str, Json]:
    task, model = contents.study.task, contents.study.model
    learning = "self-supervised" if task.kind == "causal_lm" else "supervised"
    family = model.built_in.kind.replace("_", " ") if model.built_in else "pretrained network, fine-tuned"
    outputs = [{"format": f"one of: {', '.join(labels_of(task))}"}] if labels_of(task) else [{"format": "text"}]
    return {
        "approach": {"type": learning},
        "task": PIPELINES[task.kind],
        "architectureFamily": family,
        "modelArchitecture": model.name,
        "datasets": [{"ref": _dataset_ref(site)} for site in contents.contributing],
        "outputs": outputs,
    }


def _analysis(contents: Contents) -> dict[str, Json]:
    """The published figures of the evaluation; nothing without them."""
    record = contents.evaluation[0] if contents.evaluation else None
    metrics: list[dict[str, Json]] = []
    for figure in (record.figures or ()) if record else ():
        if figure.value_micro is None or figure.low_micro is None or figure.high_micro is None:
            continue
        interval = {"lowerBound": _decimal(figure.low_micro), "upperBound": _decimal(figure.high_micro)}
        label = {"slice": figure.label} if figure.label else {}
        value = _decimal(figure.value_micro)
        metrics.append({"type": figure.name, "value": value, **label, "confidenceInterval": interval})
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


def _privacy(contents: Contents) -> dict[str, str]:
    claims = contents.claims
    spent = ", ".join(f"{s.site} {_thousandths(s.epsilon_milli)}" for s in claims.sites)
    return {
        "name": f"What the model tells about one {claims.unit} of a site's data",
        "mitigationStrategy": (
            f"Differential privacy at each site, add or remove one {claims.unit}, delta 1/{claims.inverse_delta}; "
            f"eps, upper bounds: {spent}. No lower bound was measured."
        ),
    }


def _properties(contents: Contents) -> list[dict[str, str]]:
    claims = contents.claims
    said = {
        "residency:study": contents.study_digest,
        "residency:privacy:unit": claims.unit,
        "residency:privacy:adjacency": claims.adjacency,
        "residency:privacy:inverse-delta": str(claims.inverse_delta),
        "residency:privacy:accountant": claims.accountant,
        **{f"residency:privacy:epsilon:{s.site}": _thousandths(s.epsilon_milli) for s in claims.sites},
        **{f"residency:privacy:epsilon-at-sites:{row.sites}": row.text for row in claims.overlap},
    }
    return [{"name": name, "value": value} for name, value in said.items()]


def _base(contents: Contents) -> dict[str, Json]:
    """The base model, or the built-in network by its description. Its digest is not that of one file."""
    model = contents.study.model
    of = (
        "description of the network (canonical JSON)"
        if model.built_in
        else "folder, as `residency agent model add` prints it"
    )
    return {
        "type": "machine-learning-model",
        "bom-ref": _BASE,
        "name": model.name,
        "hashes": _hash(model.sha256),
        "properties": [{"name": "residency:hash-of", "value": of}],
    }


def _software(contents: Contents) -> list[dict[str, Json]]:
    """What the sites approved to run: the package by its version, the app bundle by its digest."""
    software = contents.study.software
    return [
        {"type": "application", "bom-ref": _SOFTWARE, "name": _SOFTWARE, "version": software.version},
        {"type": "application", "bom-ref": _APP, "name": _APP, "hashes": _hash(software.bundle_sha256)},
    ]


def _dataset(contents: Contents, site: str) -> dict[str, Json]:
    study = contents.study
    held = {
        "type": "dataset",
        "name": study.dataset,
        "sensitiveData": list(study.data_categories),
        "governance": {"custodians": [{"organization": {"name": site}}]},
    }
    return {"type": "data", "bom-ref": _dataset_ref(site), "name": f"{study.dataset} at {site}", "data": [held]}


def _dataset_ref(site: str) -> str:
    return f"dataset:{site}"


def _hash(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _decimal(micro: int) -> str:
    return f"{micro / 1e6:.6f}"


def _thousandths(milli: int) -> str:
    return f"{milli / 1000:.3f}"
