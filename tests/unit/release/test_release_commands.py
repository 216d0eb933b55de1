"""`residency verify` and `residency release`, as a person calls them; verification without torch and flwr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compliance.canonical import canonical
from compliance.identity import save_signer
from compliance.log.store import LogStore
from tests.log_drafts import policy_body
from tests.world import AT, Plan, World, build_world, world

WHEN = AT.strftime("%Y-%m-%dT%H:%M:%SZ")
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "flwr", "opacus", "transformers", "peft", "grpc"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
sys.argv = ["residency", *sys.argv[1:]]
import residency
residency.main()
"""


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's home, with a run folder, and a bundle beside it."""
    made, folder = world(), tmp_path_factory.mktemp("home")
    (folder / "trust.json").write_bytes(made.trust)
    save_signer(made.operator, folder / "keys")
    write(folder / "runs/run-1", made.run)
    write(folder / "bundle", made.bundle)
    with operator_log(folder) as log:
        log.append("policy", policy_body())
    return folder


def operator_log(folder: Path) -> LogStore:
    made = world()
    origin = made.anchor.trust.log_origin(made.anchor.trust.operator.name)
    return LogStore.open(folder / "log.db", origin, made.operator.private)


def call(*arguments: object) -> Result:
    from compliance.commands.release import release
    from compliance.commands.verify import verify

    command = {"verify": verify, "release": release}[str(arguments[0])]
    return CliRunner().invoke(command, [str(a) for a in arguments[1:]])


def test_a_bundle_verifies_where_neither_torch_nor_flwr_can_be_imported(home: Path) -> None:
    arguments = ["verify", str(home / "bundle"), "--trust", str(home / "trust.json"), "--at", WHEN, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, cwd=home, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["schema"], shown["ok"], shown["error"]) == ("residency.verify/1", True, None)
    assert [s["status"] for s in shown["steps"]] == ["ok"] * 19


def test_text_for_people(home: Path) -> None:
    done = call("verify", home / "bundle", "--trust", home / "trust.json", "--at", WHEN)
    assert done.exit_code == 0, done.output
    for heading in ("PROVED", "ASSERTED BY", "NOT COVERED", "verified:", " 14. card"):
        assert heading in done.output


def test_without_trust_it_is_integrity_only_and_exits_5(home: Path, tmp_path: Path) -> None:
    done = call("verify", home / "bundle")
    assert done.exit_code == 5
    assert "integrity only" in done.output
    assert "PROVED" in done.output
    files = dict(world().bundle)
    files["study.json"] = files["study.json"][:-2]
    done = call("verify", write(tmp_path / "broken", files), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["failed_step"] == 1


def test_a_false_check_exits_1_and_names_step_and_file(home: Path, tmp_path: Path) -> None:
    files = {p: d for p, d in world().bundle.items() if p != "packs/eu.yaml"}
    done = call("verify", write(tmp_path / "b", files), "--trust", home / "trust.json", "--at", WHEN, "--json")
    assert done.exit_code == 1
    shown = json.loads(done.stdout)
    assert shown["error"]["code"] == "RSD-9001"
    assert "step 1 (manifest): packs/eu.yaml is missing" in shown["error"]["message"]
    assert shown["error"]["next"]


@pytest.mark.parametrize(("path", "trust", "code"), [("nothing", "trust.json", 3), ("bundle", "bundle/study.json", 3)])
def test_wrong_paths_are_input_errors(home: Path, path: str, trust: str, code: int) -> None:
    assert call("verify", home / path, "--trust", home / trust, "--at", WHEN).exit_code == code


def test_an_empty_folder_is_no_bundle(home: Path, tmp_path: Path) -> None:
    done = call("verify", tmp_path, "--trust", home / "trust.json")
    assert done.exit_code == 1
    assert "manifest.json is missing" in done.output


def test_the_evidence_of_one_log(home: Path, tmp_path: Path) -> None:
    evidence = home / "bundle/evidence/site-d.json"
    trust = ("--trust", home / "trust.json", "--at", WHEN)
    assert call("verify", evidence, *trust).exit_code == 0
    assert call("verify", evidence).exit_code == 5
    held = []
    for i, text in enumerate(world().held["site-d"]):
        (tmp_path / f"{i}.txt").write_text(text)
        held += ["--against", tmp_path / f"{i}.txt"]
    done = call("verify", evidence, *trust, *held, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["steps"][1]["status"] == "ok"
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert call("verify", evidence, *trust, "--against", tmp_path / "bad.txt").exit_code == 1
    assert call("verify", home / "bundle", *trust, *held).exit_code == 2


def test_build_verifies_and_renames(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("release", "build", home / "runs/run-1", "--key", home / "keys/operator.key", "--at", WHEN)
    done = call(*arguments, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert len(shown["manifest"]) == len(shown["model_sha256"]) == 64
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == set(world().bundle)
    again = call(*arguments, "--out", out)
    assert again.exit_code == 3
    assert "exists already" in again.output
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    shown = call("release", "show", out, "--json")
    assert json.loads(shown.stdout)["sites"][0] | {"epsilon_milli": 0} == {
        "name": "site-a", "jurisdiction": "DE", "contributed": 2, "epsilon_milli": 0,
    }  # fmt: skip
    assert "not verified" in call("release", "show", out).output
    with operator_log(home) as log:
        (entry,) = log.entries(kind="release")
    built = json.loads(done.stdout)
    assert entry.body == {"manifest": built["manifest"], "model": built["model_sha256"]}


def test_a_release_that_cannot_be_logged_is_not_made(home: Path, tmp_path: Path) -> None:
    save_signer(world().operator, tmp_path / "elsewhere/keys")
    key, trust = tmp_path / "elsewhere/keys/operator.key", ("--trust", home / "trust.json", "--at", WHEN)
    done = call("release", "build", home / "runs/run-1", "--key", key, "--out", tmp_path / "out", *trust, "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["error"]["code"] == "RSD-9044"
    assert [p.name for p in tmp_path.iterdir()] == ["elsewhere"]


def test_build_leaves_nothing_behind_when_the_result_does_not_verify(home: Path, tmp_path: Path) -> None:
    made = world()
    broken = {**made.run, "snapshots/round-002.f32": b"\0" * 64}
    run = write(tmp_path / "run", broken)
    key = home / "keys/operator.key"
    done = call("release", "build", run, "--key", key, "--out", tmp_path / "out", "--at", WHEN)
    assert done.exit_code == 1
    assert "step 8 (rosters)" in done.output
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    (tmp_path / "run/result.json").write_bytes(canonical({"run": "r", "study": made.study_digest, "outcome": "failed"}))
    assert call("release", "build", run, "--key", key, "--out", tmp_path / "out").exit_code == 4


def test_build_needs_a_trust_file(home: Path, tmp_path: Path) -> None:
    made: World = build_world(Plan())
    save_signer(made.operator, tmp_path / "keys")
    done = call(
        "release", "build", home / "runs/run-1", "--key", tmp_path / "keys/operator.key", "--out", tmp_path / "o"
    )
    assert done.exit_code == 5
    stranger = ("--trust", home / "trust.json", "--at", WHEN)
    key = tmp_path / "keys/operator.key"
    done = call("release", "build", home / "runs/run-1", "--key", key, "--out", tmp_path / "o", *stranger)
    assert done.exit_code == 1
    assert "step 1 (manifest)" in done.output
