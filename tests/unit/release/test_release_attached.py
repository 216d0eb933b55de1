"""What a bundle carries for other people's tools, read by those tools: each is the oracle for what we write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Raw
from model_signing import verifying
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from compliance.canonical import b64decode, canonical, sha256_hex
from compliance.errors import EnvironmentFault
from compliance.evaluation.derive import Figure
from compliance.evaluation.record import SCHEMA
from compliance.identity import Signer, seal
from compliance.release import attest, model_signature
from compliance.release.bom import BOM_FILE, bill_of_materials
from compliance.release.card import card
from compliance.release.case import Contents
from compliance.release.model_signature import KEY_FILE, SIGNATURE_FILE, sign_model
from compliance.release.report import STEPS
from tests.world import CONTRIBUTORS, OPERATOR, build_world, world
from tests.world_plan import Plan

FIGURES = (
    Figure(name="auroc", label="ill", value_micro=812345, low_micro=700000, high_micro=900000),
    Figure(name="accuracy", label="", value_micro=900000, low_micro=880000, high_micro=910000),
    Figure(name="auprc", label="ill", value_micro=None, low_micro=None, high_micro=None),
)


def with_figures(files: Mapping[str, bytes]) -> Contents:
    """A bundle with the record of an evaluation; nothing else of it follows."""
    made = world()
    record = {
        "schema": SCHEMA, "study": made.study_digest, "run": "run-1", "at": "2026-11-22T10:00:00Z",
        "model_sha256": "0" * 64, "recipients": [], "rows": [], "figures": [f.model_dump() for f in FIGURES],
    }  # fmt: skip
    return Contents({**files, "evaluation.json": seal(record, made.operator).encode() + b"\n"})


def of_another_task(kind: str) -> Contents:
    """The bundle as if its study were of another task."""
    made = world()
    raw = made.study.as_json()
    if kind == "causal_lm":
        raw["task"] = {"kind": kind, "template": "{age}", "max_tokens": 16}
        raw["model"] |= {"pooling": "none", "feature_norm_milli": None}
    elif kind == "tabular":
        built_in = {"kind": "logistic_regression", "hidden": [], "activation": None, "init_seed": None}
        described = {**built_in, "start_bias_micro": None}
        raw["task"] = {
            "kind": kind, "ranges_source": "a book", "labels": ["ill", "well"], "label_column": "y",
            "label_values": {"1": "ill"}, "label_other": "well",
            "numeric": [{"column": "age", "centre_micro": 1, "half_width_micro": 1}],
        }  # fmt: skip
        raw["model"] |= {
            "sha256": sha256_hex(canonical(described)), "built_in": described, "adapters": None, "pooling": "none",
        }  # fmt: skip
    return Contents({**made.bundle, "study.json": seal(raw, made.operator).encode() + b"\n"})


@cache
def schema_of_cyclonedx() -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # compiles 39 grammars, which every worker would wait for

    return JsonStrictValidator(SchemaVersion.V1_6)


@pytest.mark.parametrize("kind", ["sequence_classification", "causal_lm", "tabular", "evaluated"])
def test_the_bill_of_materials_is_valid_by_the_schema_of_cyclonedx(kind: str) -> None:
    contents = with_figures(world().bundle) if kind == "evaluated" else of_another_task(kind)
    text = bill_of_materials(contents).decode()
    strict = schema_of_cyclonedx()
    assert strict.validate_str(text) is None
    assert strict.validate_str(text.replace('"version":1', '"version":0')) is not None, "the oracle sees"
    references = {part["bom-ref"] for part in json.loads(text)["components"]}
    assert references == set(json.loads(text)["dependencies"][0]["dependsOn"])


def test_the_bill_names_what_the_evidence_names_and_no_more() -> None:
    files = world().bundle
    bill = json.loads(files[BOM_FILE])
    model = bill["metadata"]["component"]
    shown = {c["name"]: c["hashes"][0]["content"] for c in model["components"]}
    assert shown == {p: sha256_hex(d) for p, d in files.items() if p.startswith("model/") and p != SIGNATURE_FILE}
    held = {
        c["data"][0]["governance"]["custodians"][0]["organization"]["name"] for c in bill["components"] if "data" in c
    }
    assert held == set(CONTRIBUTORS)
    assert bill["metadata"]["timestamp"] == Contents(files).manifest.created
    claims = json.loads(files["privacy.json"])
    said = {p["name"]: p["value"] for p in model["properties"]}
    for row in claims["sites"]:
        assert said[f"residency:privacy:epsilon:{row['site']}"] == f"{row['epsilon_milli'] / 1000:.3f}"
    (risk,) = model["modelCard"]["considerations"]["ethicalConsiderations"]
    assert f"site-a {claims['sites'][0]['epsilon_milli'] / 1000:.3f}" in risk["mitigationStrategy"]
    assert "licenses" not in files[BOM_FILE].decode()
    assert "quantitativeAnalysis" not in model["modelCard"]


def test_published_figures_stand_in_the_bill_and_drowned_ones_do_not() -> None:
    bill = json.loads(bill_of_materials(with_figures(world().bundle)))
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [(m["type"], m["value"], m.get("slice")) for m in metrics] == [
        ("auroc", "0.812345", "ill"),
        ("accuracy", "0.900000", None),
    ]
    assert metrics[0]["confidenceInterval"] == {"lowerBound": "0.700000", "upperBound": "0.900000"}


def _payload(path: str) -> dict[str, Any]:
    return dict(json.loads(Contents(world().bundle).envelope(path).payload))


ATTESTATIONS = ("provenance", "privacy", "verification")


@pytest.mark.parametrize("name", ATTESTATIONS)
def test_statements_are_read_by_in_toto_and_their_envelopes_by_securesystemslib(name: str) -> None:
    made, path = world(), f"attestations/{name}.intoto.jsonl"
    key = SSlibKey.from_crypto(made.operator.private.public_key(), keyid=made.operator.identity.keyid)
    stranger = made.keys["site-a", "agent"]
    other = SSlibKey.from_crypto(stranger.private.public_key(), keyid=made.operator.identity.keyid)
    envelope = Envelope.from_dict(json.loads(made.bundle[path]))
    assert envelope.verify([key], 1)
    with pytest.raises(VerificationError):
        envelope.verify([other], 1)
    statement = json_format.Parse(envelope.payload, Raw())
    Statement.copy_from_pb(statement).validate()
    assert {s.name: s.digest["sha256"] for s in statement.subject} == {
        p: sha256_hex(d) for p, d in made.bundle.items() if p.startswith("model/") and p != SIGNATURE_FILE
    }
    assert envelope.payload_type == "application/vnd.in-toto+json"


def test_the_predicates_of_slsa_have_its_fields() -> None:
    summary, provenance = (_payload(f"attestations/{n}.intoto.jsonl") for n in ("verification", "provenance"))
    assert (summary["predicateType"], provenance["predicateType"]) == (attest.SUMMARY, attest.PROVENANCE)
    levels = summary["predicate"].pop("verifiedLevels")  # a list by the specification; this oracle wants one text
    assert levels == ["RESIDENCY_STEPS_1_TO_15"], "and none that begins with SLSA_"
    read = json_format.ParseDict(summary["predicate"], vsa_pb2.VerificationSummary())
    assert (read.verification_result, read.policy.uri) == ("PASSED", attest.POLICY)
    made = json_format.ParseDict(provenance["predicate"], provenance_pb2.Provenance())
    held = {d.name: d.digest["sha256"] for d in made.build_definition.resolved_dependencies}
    study = world().study
    assert held[study.model.name] == study.model.sha256
    assert {p for p in held if p.startswith("packs/")} == {p for p in world().bundle if p.startswith("packs/")}
    assert made.run_details.builder.id.endswith(f":operator:{OPERATOR}")


def test_the_summary_is_about_the_first_fifteen_steps_and_all_signed_inputs() -> None:
    assert [s.number for s in STEPS[:15]] == list(range(1, 16))
    # Who changes number or name of a step changes the policy: then the name of the policy must change as well.
    assert attest.policy_digest() == "dec4cfa64e4cc65762ae73655acfd94bc32cee53bb040ba66399f98da1765197"
    predicate = _payload("attestations/verification.intoto.jsonl")["predicate"]
    inputs = {i["uri"].removeprefix(f"{predicate['resourceUri']}#") for i in predicate["inputAttestations"]}
    folders = ("answers/", "law/", "rosters/", "evidence/")
    assert inputs == {p for p in world().bundle if p == "study.json" or p.startswith(folders)}


def test_the_ledger_statement_counts_failed_attempts() -> None:
    made = build_world(Plan(failed_first=True))
    contents = Contents(made.bundle)
    predicate = attest.statements(contents)["attestations/privacy.intoto.jsonl"]["predicate"]
    rows = {row["site"]: row for row in predicate["sites"]}
    assert {s: sum(e["times"] for e in row["events"]) for s, row in rows.items()} == {
        s.site: s.charges for s in contents.claims.sites
    }
    assert rows["site-a"]["charges"] == rows["site-b"]["charges"] + 1
    assert predicate["inverse_delta"] == made.study.privacy.inverse_delta


def test_no_measured_bound_is_attested_while_none_is_measured() -> None:
    assert {p for p in world().bundle if p.endswith(".intoto.jsonl")} == {
        f"attestations/{name}.intoto.jsonl" for name in ATTESTATIONS
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """model/ and the key beside it, as a person finds them in a bundle."""
    for path, data in world().bundle.items():
        if path.startswith(("model/", "attestations/")):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(data)
    return tmp_path / "model"


def _verify_model(model: Path) -> None:
    key = model.parent / KEY_FILE
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, model / "model.sig")


def test_the_model_is_verified_by_openssf_model_signing(model: Path) -> None:
    _verify_model(model)


@pytest.mark.parametrize("change", ["weights", "card", "config", "extra", "missing", "signature", "key"])
def test_model_signing_refuses_a_changed_model(model: Path, change: str) -> None:
    files = {"weights": "head.safetensors", "card": "README.md", "config": "adapter_config.json"}
    if change in files:
        data = bytearray((model / files[change]).read_bytes())
        data[len(data) // 2] ^= 1
        (model / files[change]).write_bytes(data)
    elif change == "extra":
        (model / "modeling.py").write_text("x = 1")
    elif change == "missing":
        (model / "README.md").unlink()
    elif change == "signature":
        bundle = json.loads((model / "model.sig").read_bytes())
        signature = b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"], "signature")
        other = sign_model({"model/x": b"y"}, world().operator)[SIGNATURE_FILE]
        bundle["dsseEnvelope"]["signatures"] = json.loads(other)["dsseEnvelope"]["signatures"]
        assert signature != b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"], "signature")
        (model / "model.sig").write_text(json.dumps(bundle))
    else:
        (model.parent / KEY_FILE).write_bytes(sign_model({}, world().keys["site-a", "agent"])[KEY_FILE])
    with pytest.raises((ValueError, InvalidSignature)):
        _verify_model(model)


def test_the_model_key_follows_from_the_operators_key_alone() -> None:
    made = world()
    fixed = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))), made.operator.identity)
    first, second = (sign_model({"model/a": b"1"}, fixed) for _ in range(2))
    assert first == second
    assert sha256_hex(first[KEY_FILE]) == "2b0d990cbd0b7dcb3b6de0d036dea3c329e5e28e3199b401300f4005acf021c1"
    assert first[KEY_FILE] != made.bundle[KEY_FILE]
    seed = made.operator.private.private_bytes_raw()
    assert not any(seed in data or seed.hex().encode() in data for data in made.bundle.values())


def test_without_deterministic_nonces_nothing_is_signed() -> None:
    def too_old(*_: object, **__: object) -> None:
        raise UnsupportedAlgorithm("deterministic ECDSA")

    with patch.object(model_signature.ec, "ECDSA", too_old), pytest.raises(EnvironmentFault) as caught:
        sign_model({"model/a": b"1"}, world().operator)
    assert caught.value.code == "RSD-9143"


def test_the_card_is_read_by_the_library_of_the_hub() -> None:
    plain = ModelCard(world().bundle["model/README.md"].decode()).data
    assert (plain.base_model, plain.library_name, plain.pipeline_tag) == ("tiny-bert", "peft", "text-classification")
    assert plain.to_dict()["base_model_relation"] == "adapter"
    assert plain.eval_results is None
    assert plain.license is None
    told = ModelCard(card(with_figures(world().bundle)).decode()).data
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in told.eval_results] == [
        ("auroc", "auroc (ill)", 0.812345),
        ("accuracy", "accuracy", 0.9),
    ]
    assert {(r.task_type, r.dataset_type) for r in told.eval_results} == {("text-classification", "thyroid")}
    assert told.model_name == "thyroid-one"


def test_the_card_says_whose_law_packs_decided() -> None:
    text = world().bundle["model/README.md"].decode()
    assert "which the sites adopted" not in text
    (eu,) = [line for line in text.splitlines() if line.startswith("- eu version")]
    assert eu.endswith("adopted by site-a, site-b; applied by coordinator")
    own = build_world(Plan(operator_law=True)).bundle["model/README.md"].decode()
    (eu,) = [line for line in own.splitlines() if line.startswith("- eu version")]
    assert eu.endswith("adopted by coordinator, site-a, site-b")
