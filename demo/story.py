"""The demo from the first screen to the last, in the order in which it is told."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from compliance.canonical import parse_canonical
from compliance.errors import RunFailed
from compliance.files import read_bytes
from compliance.identity import parse_envelope
from demo import attacks, federation, governance, outcome, recipe, verification
from demo.cast import SITES, TRAINING, Folders
from demo.crew import Crew
from demo.data import CALIBRATION_ROWS, find_model, find_table, split_table, write_split
from demo.outcome import Findings
from demo.papers import Terms
from demo.recipe import Recipe
from demo.results import read_json, write_json
from demo.screen import Screen, result_lines

HARNESS_LIMIT_S: Final = 1500.0
_NICE: Final = 10


@dataclass
class Story:
    """One demo: its folders, its processes, its screen, and what it found so far."""

    crew: Crew
    folders: Folders
    screen: Screen
    training: Recipe
    full: bool
    findings: Findings = field(default_factory=Findings)
    model_dir: Path = field(default_factory=find_model)

    def tell(self) -> None:
        """Everything up to the last screen. Raises a ResidencyError when a step does not end as announced."""
        self.screen.invented(self.folders)
        terms, services = self._govern()
        self._attack_before(terms)
        run_folder = self._run(services)
        self._release(run_folder)
        self._results()
        self._verify()
        self._attack_after(terms)
        services.stop()

    def _govern(self) -> tuple[Terms, federation.Federation]:
        screen, crew, folders = self.screen, self.crew, self.folders
        screen.head("ADVICE AND APPROVAL")
        split = split_table(pd.read_csv(find_table()))
        holdout, public = folders.harness / "holdout.csv", folders.harness / "calibration.csv"
        write_split(split, {s.name: folders.table(s.name) for s in SITES}, holdout, public)
        calibration = self._calibrate(public)
        governance.found_consortium(crew, folders)
        screen.say(f"trust file signed by {governance.THRESHOLD} of {len(SITES)} sites, not by the operator")
        sha256 = governance.equip_sites(crew, folders, self.model_dir, screen.say)
        services = federation.start(crew, folders)
        features = self._calibrated(calibration)
        terms = Terms("thyroid", self.training, sha256, features)
        governance.sign_study(crew, folders, terms, folders.study)
        governance.propose(crew, folders, folders.study)
        screen.say("study signed by the operator and proposed: eps 8 for one record, all rounds together")
        governance.answer(crew, folders, folders.study, screen.say)
        services.wait_ready()
        noise = {s["name"]: s["noise_multiplier_micro"] for s in self.study()["sites"]}
        return Terms("thyroid", self.training, sha256, features, noise_micro=noise), services

    def study(self) -> dict[str, Any]:
        """The signed study as JSON."""
        payload = parse_envelope(read_bytes(self.folders.study, "study").rstrip(b"\n"), "study").payload
        study = parse_canonical(payload, "study")
        return study if isinstance(study, dict) else {}

    def _calibrate(self, public: Path) -> subprocess.Popen[bytes]:
        spec = {
            "table": str(public),
            "model_dir": str(self.model_dir),
            "cache": str(self.folders.harness / "cache"),
            "source": f"{CALIBRATION_ROWS} rows of referral source 'other', declared public for this demonstration",
            "threads": 1,
        }
        return self._harness("calibrate", spec, nice=0)

    def _harness(self, name: str, spec: dict[str, Any], nice: int) -> subprocess.Popen[bytes]:
        source, target = (self.folders.harness / f"{name}.{kind}.json" for kind in ("spec", "out"))
        write_json(source, spec)
        process, _, _ = self.crew.start(name, ["-m", f"demo.{name}"], source, target, nice=nice)
        return process

    def _harness_result(self, name: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        try:
            code = process.wait(HARNESS_LIMIT_S)
        except subprocess.TimeoutExpired:
            code = -1
        if code != 0:
            text = (self.crew.logs / f"{name}.err").read_text(encoding="utf-8", errors="replace")
            tail = " | ".join(text.strip().splitlines()[-3:])
            raise RunFailed("RSD-8907", f"the harness's {name} failed: {tail[-500:]}", found=f"exit {code}", limit=0)
        return read_json(self.folders.harness / f"{name}.out.json", name)

    def _calibrated(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        features = self._harness_result("calibrate", process)["features"]
        return features if isinstance(features, dict) else {}

    def _attack_before(self, terms: Terms) -> None:
        self.screen.head("TRIED, AND STOPPED")
        self._stop(attacks.greedy_study(self.crew, self.folders, terms))
        self._stop(attacks.code_in_bundle(self.crew, self.folders, self.folders.study))

    def _stop(self, stopped: attacks.Stopped) -> None:
        self.findings.stopped.append(stopped)
        self.screen.stopped(stopped)

    def _run(self, services: federation.Federation) -> Path:
        del services
        screen, folders, findings = self.screen, self.folders, self.findings
        screen.head(f"LIVE ROUNDS  ({self.training.rounds}, one agent process a site, TLS)")
        self._baselines: subprocess.Popen[bytes] | None = None
        with screen.rounds(self.training.rounds) as live:

            def seen(event: dict[str, Any]) -> None:
                live.seen(event)
                if event.get("event") == "joined" and self._baselines is None:
                    self._baselines = self._start_baselines()

            ended, findings.run_seconds = federation.watched_run(self.crew, folders, folders.study, seen)
        if ended.exit_code != 0:
            raise ended.failure("exit 0")
        record = ended.json()
        findings.rounds = int(record["rounds"])
        self._run_sites: list[dict[str, Any]] = list(record["sites"])
        return Path(str(record["folder"]))

    def _start_baselines(self) -> subprocess.Popen[bytes]:
        spec = {
            **self._files(),
            "tables": {s.name: str(self.folders.table(s.name)) for s in TRAINING},
            "borrow": {s.name: str(self.folders.home(s.name)) for s in TRAINING},
            "head_only": self.full,
        }
        return self._harness("baselines", spec, nice=_NICE)

    def _files(self) -> dict[str, Any]:
        return {
            "study": str(self.folders.study),
            "holdout": str(self.folders.harness / "holdout.csv"),
            "model_dir": str(self.model_dir),
            "cache": str(self.folders.harness / "cache"),
            "threads": 1,
        }

    def _release(self, run_folder: Path) -> None:
        folders, trust = self.folders, self.folders.trust
        evaluation = self._harness("evaluate", {**self._files(), "snapshots": str(run_folder / "snapshots")}, nice=0)
        self.crew.done(
            "release", "build", run_folder, "--key", folders.operator_key, "--trust", trust,
            "--out", folders.bundle,
        )  # fmt: skip
        self.screen.say(f"release built and verified by its builder: {folders.bundle}")
        self.findings.scores = self._harness_result("evaluate", evaluation)

    def _results(self) -> None:
        findings, folders = self.findings, self.folders
        self.screen.head("THE RESULT")
        if self._baselines is None:
            self._baselines = self._start_baselines()
        started = time.monotonic()
        findings.baselines = self._harness_result("baselines", self._baselines)
        waited = time.monotonic() - started
        findings.head_only = findings.baselines["head_only"]
        bodies = outcome.decisions(folders.bundle / "evidence")
        findings.arrows, findings.denial = outcome.arrows(bodies), outcome.denial(bodies)
        findings.sites = outcome.site_results(
            folders.bundle, self._run_sites, self.study(), findings.baselines["alone"]
        )
        self.screen.say(f"baselines of the harness are in (waited {waited:.0f} s for them)")
        self.screen.lines(result_lines(findings))

    def _verify(self) -> None:
        self.screen.head("VERIFICATION, OFFLINE")
        done = verification.verify(self.crew, self.folders)
        findings = self.findings
        findings.verified, findings.verified_where = done.ok, done.place
        findings.steps = done.steps()
        record = done.outcome.json()
        findings.trust_digest = str(record.get("trust", ""))
        if not done.ok:
            raise done.outcome.failure("exit 0")
        self.screen.say(f"VERIFIED {done.tally()} steps, {done.place}", style="green")
        self.screen.lines([f"         {line}" for s in findings.steps for line in s["proved"]][:24])

    def _attack_after(self, terms: Terms) -> None:
        self.screen.head("TRIED AFTER THE RUN, AND STOPPED")
        self._stop(attacks.one_more_study(self.crew, self.folders, terms))
        self.screen.head("AN INSIDER")
        caught = attacks.insider_attack(self.crew, self.folders)
        self._stop(caught)
        self.findings.tamper_caught = True


def recipe_of(full: bool) -> Recipe:
    """The recipe of the plain or the full demo."""
    return recipe.FULL if full else recipe.PLAIN
