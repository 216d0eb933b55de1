"""Named entities over two sites as processes: server, agents, training tasks; the release verifies and loads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from client import enrolment, registration
from client.home import AgentHome
from client.tasks.base import task_of
from compliance.task_spec import TokenClassification
from compliance.training_spec import ModelSpec
from compliance.validation import load_model
from tests.federation import DATA_TERMS, Live, consortium, residency, scratch

pytestmark = pytest.mark.slow  # half a minute of an idle machine

SITES = ("a", "b")
TASK = {
    "kind": "token_classification",
    "labels": ["O", "B-lab", "I-lab"],
    "tokens_column": "words",
    "tags_column": "tags",
    "max_tokens": 12,
}


def write_notes(path, seed, rows=200):
    """`tsh` and the word after it are the span."""
    rng = np.random.default_rng(seed)
    with path.open("w") as out:
        for i in range(rows):
            before = rng.choice(["age", "low", "high"], int(rng.integers(0, 4))).tolist()
            words = [*before, "tsh", str(rng.integers(0, 9)), "."]
            tags = [*["O"] * len(before), "B-lab", "I-lab", "O"]
            out.write(json.dumps({"words": words, "tags": tags, "patient_id": 7000 + i}) + "\n")
    return path


@pytest.fixture(scope="module")
def ran():
    live = Live(consortium())
    made = live.made
    for seed, site in enumerate(SITES):
        home = AgentHome(made.home(site))
        policy = made.root / f"{site}.notes.json"
        policy.write_bytes(made.sign_policy(site, tasks=["token_classification"]))
        enrolment.install_policy(home, policy)
        table = write_notes(made.root / f"{site}.jsonl", seed)
        registration.add_dataset(home, "notes", table, f"{site}-notes", ["patient_id"], DATA_TERMS)
    model = {**made.model, "pooling": "none"}
    terms = [s for s in made.study()["sites"] if s["name"] in SITES]
    training = {**made.study()["training"], "head_rate_milli": 4000, "steps": 3}
    study = made.sign_study(
        task=TASK, model=model, sites=terms, dataset="notes", controllers=list(SITES), training=training
    )
    file, answers = study.write(scratch("study"), study.answers(*SITES))
    try:
        live.start(SITES)
        done = live.end_run(live.begin_run(file, answers), 120)
    finally:
        live.stop()
    return SimpleNamespace(done=done, made=made, study=study, folder=done.json.get("folder"), model=model)


def test_the_sites_train_and_the_release_verifies(ran):
    assert ran.done.code == 0, ran.done
    bundle = scratch("bundle") / "bundle"
    key = ran.made.hub / "keys" / "operator.key"
    built = residency("release", "build", ran.folder, "--key", key, "--out", bundle, "--json")
    assert built.code == 0, built
    verified = residency("verify", bundle, "--trust", ran.made.trust, "--json")
    assert verified.json["ok"], verified
    text = (bundle / "model" / "README.md").read_text()
    assert "token classification into O, B-lab, I-lab" in text
    task = load_model(TokenClassification, TASK, "RSD-2007", "task")
    top = task_of(task.kind).top(load_model(ModelSpec, ran.model, "RSD-2007", "model"), task, ran.made.root / "model")
    head = load_file(bundle / "model" / "head.safetensors")
    adapter = load_file(bundle / "model" / "adapter_model.safetensors")
    assert head["head.weight"].shape == (3, 32)
    assert torch.isfinite(head["head.weight"]).all()
    assert head["head.weight"].abs().sum() > 0
    assert {e.name for e in top.layout()} <= {*head, *adapter}
