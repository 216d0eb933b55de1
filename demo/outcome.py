"""What a demo found, in one value: the JSON object, the last screens and the report are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compliance.canonical import Json, b64decode, parse_json
from compliance.files import read_bytes
from compliance.law.decide import builtin_packs
from demo.attacks import Stopped
from demo.cast import DENIED, SITES, Folders
from demo.results import read_json


@dataclass(frozen=True)
class SiteResult:
    """One row of the result table."""

    name: str
    jurisdiction: str
    outcome: str
    eps: float | None
    eps_budget: float
    alone: dict[str, float] | None
    reason: str


@dataclass(frozen=True)
class Denial:
    """The rule by which the fifth site was left out."""

    site: str
    rule: str
    citation: str
    plain: str
    would_allow: str


@dataclass(frozen=True)
class Arrow:
    """One decided transfer, as the logs tell."""

    exporter: str
    recipient: str
    artifact: str
    effect: str
    rule: str


@dataclass
class Findings:
    """Filled in as the demo goes on."""

    rounds: int = 0
    sites: list[SiteResult] = field(default_factory=list)
    denial: Denial | None = None
    stopped: list[Stopped] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    verified: bool = False
    verified_where: str = ""
    trust_digest: str = ""
    tamper_caught: bool = False
    head_only: dict[str, float] | None = None
    run_seconds: float = 0.0

    @property
    def alone_mean(self) -> dict[str, float]:
        """Mean accuracy and AUC over the site-alone models."""
        rows = list(self.baselines["alone"].values())
        return {k: round(sum(r[k] for r in rows) / len(rows), 4) for k in ("accuracy", "auc")}

    def measures(self, name: str) -> dict[str, float]:
        """One measure, `accuracy` or `auc`, of the released model and of the baselines."""
        values = {
            "federated": self.scores["released"][name],
            "pooled": self.baselines["pooled"][name],
            "site_alone_mean": self.alone_mean[name],
        }
        return values | ({"majority": self.baselines["majority"]} if name == "accuracy" else {})

    def as_json(self, folders: Folders, seconds: float, peak_mib: int) -> dict[str, Json]:
        """The object of `residency demo --json`."""
        denial = self.denial
        return {
            "rounds": self.rounds,
            "sites": [
                {
                    "name": s.name,
                    "jurisdiction": s.jurisdiction,
                    "outcome": s.outcome,
                    "eps": s.eps,
                    "eps_budget": s.eps_budget,
                    "alone": s.alone["accuracy"] if s.alone else None,
                }
                for s in self.sites
            ],
            "denial": {"rule": denial.rule, "citation": denial.citation} if denial else None,
            "stopped": [s.as_json() for s in self.stopped],
            "accuracy": self.measures("accuracy"),
            "auc": self.measures("auc"),
            "trained_parameters": self.scores["trained_parameters"],
            "seconds_s": round(seconds, 1),
            "peak_rss_mib": peak_mib,
            "tamper_caught": self.tamper_caught,
            "verified": self.verified,
            "bundle": str(folders.bundle),
            "trust": str(folders.trust),
            "report": str(folders.report),
            "seeds": 1,
        } | ({"head_only": self.head_only} if self.head_only else {})


def merge_baselines(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One result out of those of several processes: each baseline stands in exactly one of them."""
    merged = {name: next((p[name] for p in parts if p[name] is not None), None) for name in ("pooled", "head_only")}
    scores = {site: score for part in parts for site, score in part["alone"].items()}
    return {**merged, "majority": parts[0]["majority"], "alone": scores}


def site_results(
    bundle: Path, run_sites: list[dict[str, Any]], study: dict[str, Any], alone: dict[str, Any]
) -> list[SiteResult]:
    """A row for each site of the cast: outcome from the run, eps from the bundle's claim, which verify recomputes."""
    claimed = {row["site"]: row for row in read_json(bundle / "privacy.json", "claims")["sites"]}
    outcomes = {str(s["name"]): s for s in run_sites}
    limits = {s["name"]: s["epsilon_milli"] / 1000 for s in study["sites"]}
    rows = []
    for site in SITES:
        told = outcomes.get(site.name, {})
        eps = claimed[site.name]["epsilon_milli"] / 1000 if site.name in claimed else None
        rows.append(
            SiteResult(
                site.name,
                site.jurisdiction,
                str(told.get("outcome", "unknown")),
                eps,
                limits[site.name],
                alone.get(site.name),
                str(told.get("rule", "")),
            )
        )
    return rows


def decisions(evidence: Path) -> list[dict[str, Any]]:
    """All logged decisions of all members, from a folder of evidence files."""
    found = []
    for path in sorted(evidence.glob("*.json")):
        for held in parse_json(read_bytes(path, "evidence"), str(path))["entries"]:
            entry = parse_json(b64decode(held["entry"], "entry"), "entry")
            if entry["kind"] == "decision":
                found.append(entry["body"])
    return found


def arrows(bodies: list[dict[str, Any]]) -> list[Arrow]:
    """Each decided transfer once."""
    seen = {
        Arrow(
            str(b["transfer"]["exporter"]["name"]), str(b["peer"]), str(b["transfer"]["artifact"]), str(b["effect"]),
            str(b["rule"]),
        ): None
        for b in bodies
    }  # fmt: skip
    return list(seen)


def denial(bodies: list[dict[str, Any]]) -> Denial | None:
    """The first decision that denied the fifth site, with the citations of its rule."""
    for body in bodies:
        if body["effect"] == "deny" and body["peer"] == DENIED and str(body["rule"]).startswith("eu."):
            citation = ", ".join(body["law"]) or _citation(str(body["rule"]))
            return Denial(DENIED, str(body["rule"]), citation, str(body["plain"]), str(body["would_allow"]))
    return None


def _citation(rule: str) -> str:
    for pack in builtin_packs().values():
        for found in pack.rules:
            if found.id == rule:
                return ", ".join(found.law)
    return ""
