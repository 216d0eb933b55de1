"""The demo from the first screen to the last, in the order in which it is told."""

from __future__ import annotations

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
from demo.crew import Crew, each
from demo.data import CALIBRATION_ROWS, find_model, find_table, split_table, write_split
from demo.measurements import Harness, Measuring
from demo.outcome import Findings
from demo.papers import Terms
from demo.recipe import Recipe
from demo.screen import Screen, result_lines

_NICE: Final = 10
FIRST_HALF: Final = ["svi", "svhc"]  # two thirds of the rows: its baselines start while the rounds go on


@dataclass
class Story:
    """One demo: its folders, its processes, its screen, and what it found so far."""

    crew: Crew
    folders: Folders
    screen: Screen
    training: Recipe
    full: bool
    findings: Findings = field(default_factory=Findings)
    baselines: list[Measuring] = field(default_factory=list)
    evaluation: Measuring | None = None
    verified: verification.Verified | None = None
    run_sites: list[dict[str, Any]] = field(default_factory=list)
    model_dir: Path = field(default_factory=find_model)
    harness: Harness = field(init=False)

    def __post_init__(self) -> None:
        self.harness = Harness(self.crew, self.folders.harness)

    def tell(self) -> None:
        """Everything up to the last screen. Raises a ResidencyError when a step does not end as announced."""
        self.screen.invented(self.folders)
        terms, services = self._govern()
        self._attack(terms)
        run_folder = self._run(services, terms)
        self._release(run_folder)
        caught = attacks.insider_attack(self.crew, self.folders)  # told last, but tried while the measuring goes on
        self.findings.tamper_caught = True
        self._results()
        self._verify()
        self.screen.head("AN INSIDER")
        self._stop(caught)

    def _govern(self) -> tuple[Terms, federation.Federation]:
        screen, crew, folders = self.screen, self.crew, self.folders
        screen.head("ADVICE AND APPROVAL")
        split = split_table(pd.read_csv(find_table()))
        holdout, public = folders.harness / "holdout.csv", folders.harness / "calibration.csv"
        write_split(split, {s.name: folders.table(s.name) for s in SITES}, holdout, public)
        calibration = self._calibrate(public)
        governance.init_operator(crew, folders)
        server = federation.start_server(crew, folders)
        server.wait_ready()
        governance.found_consortium(crew, folders)
        screen.say(f"trust file signed by all {len(SITES)} sites ({governance.THRESHOLD} needed), not by the operator")
        sha256 = governance.equip_sites(crew, folders, self.model_dir, screen.say)
        services = federation.start_agents(crew, folders, server)
        features = calibration.result()["features"]
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

    def _calibrate(self, public: Path) -> Measuring:
        spec = {
            "table": str(public),
            "holdout": str(self.folders.harness / "holdout.csv"),
            "layers": self.training.layers,
            "model_dir": str(self.model_dir),
            "cache": str(self.folders.harness / "cache"),
            "source": f"{CALIBRATION_ROWS} rows of referral source 'other', declared public for this demonstration",
            "threads": 1,
        }
        return self.harness.measure("calibrate", spec)

    def _attack(self, terms: Terms) -> None:
        self.screen.head("TRIED, AND STOPPED")
        crew, folders = self.crew, self.folders
        tried = (
            lambda: attacks.greedy_study(crew, folders, terms),
            lambda: attacks.code_in_bundle(crew, folders, folders.study),
        )
        for stopped in each(len(tried), tried, lambda attack: attack()):
            self._stop(stopped)

    def _stop(self, stopped: attacks.Stopped) -> None:
        self.findings.stopped.append(stopped)
        self.screen.stopped(stopped)

    def _run(self, services: federation.Federation, terms: Terms) -> Path:
        screen, findings = self.screen, self.findings
        with screen.rounds(self.training.rounds) as live:
            waiting = list[dict[str, Any]]()

            def seen(event: dict[str, Any]) -> None:
                if live.started:
                    live.seen(event)
                    return
                waiting.append(event)
                if event.get("event") == "joined":
                    self._joined(terms)
                    live.start()
                    for earlier in waiting:
                        live.seen(earlier)

            ended, findings.run_seconds = federation.watched_run(self.crew, self.folders, self.folders.study, seen)
        if ended.exit_code != 0:
            raise ended.failure("exit 0")
        self._start_baselines([s.name for s in TRAINING if s.name not in FIRST_HALF], pooled=False)
        self._start_baselines([], pooled=True)
        services.stop()  # what follows needs no server and no agent
        record = ended.json()
        findings.rounds = int(record["rounds"])
        self.run_sites = list(record["sites"])
        return Path(str(record["folder"]))

    def _joined(self, terms: Terms) -> None:
        """Every site has reserved the study's budget: no second one fits beside it."""
        self._start_baselines(FIRST_HALF, pooled=False)
        self._stop(attacks.one_more_study(self.crew, self.folders, terms))
        self.screen.head(f"LIVE ROUNDS  ({self.training.rounds}, one agent process a site, TLS)")

    def _start_baselines(self, alone: list[str], *, pooled: bool) -> None:
        """Three measurements share the baselines: one while the rounds go on, at low priority, two after them."""
        spec = {
            **self._files(),
            "tables": {s.name: str(self.folders.table(s.name)) for s in TRAINING},
            "borrow": {s.name: str(self.folders.home(s.name)) for s in TRAINING},
            "alone": alone,
            "pooled": pooled,
            "head_only": pooled and self.full,
        }
        name = f"baselines-{len(self.baselines)}"
        self.baselines.append(self.harness.measure("baselines", spec, nice=_NICE, name=name))

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
        spec = {**self._files(), "snapshots": str(run_folder / "snapshots")}
        self.evaluation = self.harness.measure("evaluate", spec)
        self.crew.done(
            "release", "build", run_folder, "--key", folders.operator_key, "--trust", trust,
            "--out", folders.bundle,
        )  # fmt: skip
        self.screen.say(f"release built and verified by its builder: {folders.bundle}")
        self.verified = verification.verify(self.crew, folders)

    def _results(self) -> None:
        findings, folders = self.findings, self.folders
        self.screen.head("THE RESULT")
        started = time.monotonic()
        if self.evaluation is not None:
            findings.scores = self.evaluation.result()
        findings.baselines = outcome.merge_baselines([m.result() for m in self.baselines])
        waited = time.monotonic() - started
        findings.head_only = findings.baselines["head_only"]
        bodies = outcome.decisions(folders.bundle / "evidence")
        findings.arrows, findings.denial = outcome.arrows(bodies), outcome.denial(bodies)
        findings.sites = outcome.site_results(folders.bundle, self.run_sites, self.study(), findings.baselines["alone"])
        self.screen.say(f"baselines of the harness are in (waited {waited:.0f} s for them)")
        self.screen.lines(result_lines(findings))

    def _verify(self) -> None:
        self.screen.head("VERIFICATION, OFFLINE")
        done, findings = self.verified, self.findings
        if done is None:
            raise RunFailed("RSD-8902", "nothing was verified", found="no bundle", limit="a bundle")
        findings.verified, findings.verified_where = done.ok, done.place
        findings.steps = done.steps()
        record = done.outcome.json()
        findings.trust_digest = str(record.get("trust", ""))
        if not done.ok:
            raise done.outcome.failure("exit 0")
        self.screen.say(f"VERIFIED {done.tally()} steps, {done.place}", style="green")
        self.screen.lines([f"         {line}" for s in findings.steps for line in s["proved"]][:24])


def recipe_of(full: bool) -> Recipe:
    """The recipe of the plain or the full demo."""
    return recipe.FULL if full else recipe.PLAIN
