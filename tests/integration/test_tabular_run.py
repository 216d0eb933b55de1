"""A table over two sites as processes, with a perceptron that no folder holds and the patient as the unit.

The release verifies and works alone; each site paid for patients, by the study's own figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from client import enrolment, registration
from client.home import AgentHome
from compliance.identity import parse_envelope
from compliance.training_spec import BuiltIn
from tests.federation import DATA_TERMS, Live, consortium, residency, scratch

pytestmark = pytest.mark.slow  # half a minute of an idle machine

SITES = ("a", "b")
MLP = BuiltIn(kind="mlp", hidden=(4,), activation="tanh", init_seed=5)
TASK = {
    "kind": "tabular",
    "labels": ["no", "yes"],
    "label_column": "sick",
    "label_values": {"0": "no", "1": "yes"},
    "ranges_source": "invented",
    "numeric": [
        {"column": "age", "centre_micro": 50_000_000, "half_width_micro": 30_000_000, "missing_micro": [-1_000_000]}
    ],
    "categorical": [{"column": "pain", "categories": ["none", "typical"]}],
}  # fmt: skip
MODEL = {
    "name": "small network", "sha256": MLP.sha256, "pooling": "none", "adapters": None, "features": None,
    "feature_norm_milli": None, "built_in": MLP.model_dump(mode="json"),
}  # fmt: skip


PATIENTS, VISITS = 90, 200
PRIVACY = {
    "unit": "patient", "group_column": "patient_id", "records_per_unit": 3, "inverse_delta": 100_000,
    "clip_micro": 1_000_000, "spare_rounds": 1,
}  # fmt: skip


def write_rows(path, seed, rows=VISITS):
    """Sick people are older and have typical pain; most patients came twice or more."""
    rng = np.random.default_rng(seed)
    lines = ["age,pain,sick,patient_id,visit"]
    for i in range(rows):
        sick = int(rng.integers(0, 2))
        age = -1 if i % 9 == 0 else int(rng.integers(20, 50) + 30 * sick)
        lines.append(f"{age},{'typical' if sick else 'odd'},{sick},{7000 + i % PATIENTS},{i}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def ran():
    live = Live(consortium())
    made = live.made
    for seed, site in enumerate(SITES):
        home = AgentHome(made.home(site))
        policy = made.root / f"{site}.rows.json"
        policy.write_bytes(made.sign_policy(site, tasks=["tabular"], models=[MLP.sha256], units=["patient"]))
        enrolment.install_policy(home, policy)
        registration.add_dataset(
            home, "rows", write_rows(made.root / f"{site}.rows.csv", seed), f"{site}-rows", ["patient_id", "visit"],
            DATA_TERMS, ["patient_id"],
        )  # fmt: skip
    terms = [s | {"records_public": 80, "batch": 8} for s in made.study()["sites"] if s["name"] in SITES]
    training = {**made.study()["training"], "head_rate_milli": 4000, "adapter_rate_milli": 4000, "steps": 3}
    study = made.sign_study(
        task=TASK, model=MODEL, sites=terms, dataset="rows", controllers=list(SITES), training=training, privacy=PRIVACY
    )
    file, answers = study.write(scratch("study"), study.answers(*SITES))
    try:
        live.start(SITES)
        done = live.end_run(live.begin_run(file, answers), 120)
    finally:
        live.stop()
    return SimpleNamespace(done=done, made=made, folder=done.json.get("folder"))


def test_the_sites_train_and_the_release_verifies_and_predicts_without_us(ran):
    assert ran.done.code == 0, ran.done
    bundle = scratch("bundle") / "bundle"
    key = ran.made.hub / "keys" / "operator.key"
    built = residency("release", "build", ran.folder, "--key", key, "--out", bundle, "--json")
    assert built.code == 0, built
    verified = residency("verify", bundle, "--trust", ran.made.trust, "--json")
    assert verified.json["ok"], verified
    assert "mlp (digest of its description" in (bundle / "model" / "README.md").read_text()
    config = json.loads((bundle / "model" / "network.json").read_text())
    assert config["cells"] == ["age around 50", "age missing", "pain none", "pain typical", "pain other"]
    w = load_file(bundle / "model" / "network.safetensors")
    cells = np.array([[0.9, 0, 0, 1, 0], [-0.9, 0, 0, 0, 1], [0, 1, 0, 1, 0]], dtype=np.float32)
    hidden = np.tanh(cells @ w["hidden.0.weight"].T + w["hidden.0.bias"])
    scores = hidden @ w["head.weight"].T + w["head.bias"]
    assert scores.shape == (3, 2)
    assert np.isfinite(scores).all()
    assert np.abs(w["head.weight"]).sum() > 0
    assert np.abs(w["hidden.0.weight"]).max() != pytest.approx(5**-0.5), "hidden layers moved from their signs"


def test_each_site_paid_for_patients_and_the_release_says_so(ran):
    assert ran.done.code == 0, ran.done
    for site in SITES:
        (source,) = residency("agent", "ledger", "show", "--home", ran.made.home(site), "--json").json["sources"]
        assert (source["source"], source["units"]) == (f"{site}-rows", ["patient"])
        (study,) = source["studies"]
        (charged,) = study["charged"]
        assert (study["attempts"], charged["unit"], charged["adjacency"]) == (2, "patient", "add_remove")
        assert (charged["sample_numerator"], charged["sample_denominator"], charged["steps"]) == (8, 80, 2 * 3)
        assert 0 < source["epsilon_milli"] <= study["claim_epsilon_milli"]
    rosters = sorted((Path(ran.folder) / "rosters").glob("round-*.json"))
    payloads = [parse_envelope(file.read_bytes().rstrip(b"\n"), "roster").payload for file in rosters]
    assert [json.loads(payload)["unit"] for payload in payloads] == ["patient"] * 2
