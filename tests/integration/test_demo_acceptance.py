"""The demo as a person runs it, once: what it prints, what it leaves behind, and what its bundle withstands."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from compliance.clock import now
from compliance.release.bundle_folder import read_folder
from compliance.release.verify import verify_bundle
from compliance.trust.root import load_anchor
from demo.cast import Folders
from tests import netwatch

pytestmark = [pytest.mark.demo, pytest.mark.timeout(1200)]
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("demo")
    out, report = place / "out", place / "network.json"
    command = [str(BIN / "residency"), "demo", "--out", str(out), "--json"]
    if netwatch.possible():
        watch = ["unshare", "-n", sys.executable, str(ROOT / "tests" / "netwatch.py"), str(report)]
        command = [*watch, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    network = json.loads(report.read_text()) if report.exists() else None
    return {**found, "network": network, "screen": done.stderr.splitlines()}


def test_it_learns_above_the_targets_and_the_baselines(shown: dict[str, Any]) -> None:
    accuracy, auc = shown["accuracy"], shown["auc"]
    assert accuracy["federated"] >= 0.76
    assert auc["federated"] >= 0.76
    assert accuracy["federated"] > max(accuracy["majority"], accuracy["site_alone_mean"])
    assert auc["federated"] > auc["site_alone_mean"]
    assert set(accuracy) == {"federated", "pooled", "site_alone_mean", "majority"}
    assert set(auc) == {"federated", "pooled", "site_alone_mean"}
    assert min(shown["trained_parameters"].values()) > 0


def test_four_sites_in_three_jurisdictions_train_and_the_fifth_is_refused(shown: dict[str, Any]) -> None:
    trained = [s for s in shown["sites"] if s["outcome"] == "contributed"]
    assert len(trained) >= 4
    assert len({s["jurisdiction"] for s in trained}) >= 3
    assert all(0 < s["eps"] <= s["eps_budget"] <= 8 for s in trained)
    (refused,) = [s for s in shown["sites"] if s["outcome"] == "refused"]
    assert refused["eps"] is None
    assert shown["denial"]["rule"] == "eu.no-basis"
    assert all(f"Art {n}" in str(shown["denial"]["citation"]) for n in (44, 45, 46))


def test_each_attack_is_stopped_by_its_own_rule(shown: dict[str, Any]) -> None:
    codes = {s["code"] for s in shown["stopped"]}
    assert {"RSD-1103", "RSD-2101", "RSD-4101"} <= codes
    assert len(shown["stopped"]) == 4
    assert shown["tamper_caught"] is True
    assert shown["verified"] is True


def test_it_is_told_in_the_order_that_was_announced(shown: dict[str, Any]) -> None:
    told = (
        "WHAT IS INVENTED", "ADVICE AND APPROVAL", "TRIED, AND STOPPED", "STOPPED  a study that asks for eps 50",
        "STOPPED  code in the bundle", "STOPPED  one more study than the ledger can pay", "LIVE ROUNDS", "THE RESULT",
        "VERIFICATION, OFFLINE", "AN INSIDER", "STOPPED  insider re-signs a cut log", "NOT SHOWN",
    )  # fmt: skip
    lines = [next(i for i, line in enumerate(shown["screen"]) if words in line) for words in told]
    assert lines == sorted(lines)


def test_it_keeps_its_limits_and_leaves_no_process_behind(shown: dict[str, Any]) -> None:
    assert shown["peak_rss_mib"] <= 6144
    out = str(Path(shown["bundle"]).parent)
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if out in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_no_process_of_it_speaks_to_anything_but_the_loopback(shown: dict[str, Any]) -> None:
    seen = shown["network"]
    if seen is None:
        pytest.skip("this machine allows no network namespace with an interface to watch")
    assert seen["control"] == 1, "the watch would not have seen a packet"
    assert seen["looks"] > 100
    assert seen["packets"] == {}
    assert seen["sockets"] == []


def test_the_auditors_installation_verifies_it_without_torch_and_flwr(shown: dict[str, Any]) -> None:
    auditor = ROOT / ".venv-auditor" / "bin"
    if not auditor.is_dir():
        pytest.fail("make setup makes .venv-auditor")
    absent = subprocess.run([auditor / "python", "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0
    command = [auditor / "residency", "verify", shown["bundle"], "--trust", shown["trust"], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert {s["status"] for s in json.loads(done.stdout)["steps"]} == {"ok"}


def test_its_logs_verify_in_another_folder_with_the_trust_file_alone(shown: dict[str, Any], tmp_path: Path) -> None:
    out = Path(shown["bundle"]).parent
    trust = shutil.copy(shown["trust"], tmp_path / "trust.json")
    homes = [Folders(out).coordinator, *(Folders(out).home(site["name"]) for site in shown["sites"])]
    logs = [*(home / "log.db" for home in homes), *sorted((out / "bundle" / "evidence").glob("*.json"))]
    assert len(logs) >= 10

    def verified(number: int) -> subprocess.CompletedProcess[str]:
        alone = tmp_path / str(number)
        alone.mkdir()
        words = ["verify", shutil.copy(logs[number], alone), "--trust", trust]
        command = [ROOT / ".venv-auditor" / "bin" / "residency", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})

    with ThreadPoolExecutor(max_workers=2) as pool:
        for log, done in zip(logs, pool.map(verified, range(len(logs))), strict=True):
            assert done.returncode == 0, (log, done.stdout[-1500:] + done.stderr)


def test_a_flipped_bit_in_any_file_fails_the_bundle(shown: dict[str, Any]) -> None:
    files, anchor = read_folder(Path(shown["bundle"])), load_anchor(Path(shown["trust"]))
    assert verify_bundle(files, anchor, now()).error is None
    rng = random.Random(20261121)  # noqa: S311 - which bits are flipped is no secret
    for path, data in files.items():
        at = rng.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        error = verify_bundle({**files, path: bytes(flipped)}, anchor, now()).error
        assert error is not None, (path, at)
        assert error.exit_code == 1, (path, at)


def test_the_report_needs_nothing_from_outside(shown: dict[str, Any]) -> None:
    report = (Path(shown["bundle"]).parent / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report or "data:image/png;base64," in report
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href', "@import", '<script src="'):
        assert outside not in report
