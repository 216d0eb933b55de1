"""What a demo may have found, with invented figures."""

from __future__ import annotations

from demo.attacks import Stopped
from demo.cast import SITES
from demo.outcome import Arrow, Denial, Findings, SiteResult

STUDY = {"name": "thyroid", "privacy": {"inverse_delta": 100_000}}


def finished() -> Findings:
    """A finished demo with invented figures; one name tries to break out of the page."""
    alone = {s.name: {"accuracy": 0.70 + i / 100, "auc": 0.72} for i, s in enumerate(SITES[:4])}
    rows = [SiteResult(s.name, s.jurisdiction, "contributed", 6.8, 8.0, alone[s.name], "") for s in SITES[:4]]
    rows.append(SiteResult("svhd", "CN", "refused", None, 8.0, None, "eu.no-basis: GDPR Art 44"))
    return Findings(
        rounds=2,
        sites=rows,
        denial=Denial("svhd", "eu.no-basis", "GDPR Art 44, GDPR Art 45, GDPR Art 46", "No basis.", "scc and tia"),
        stopped=[Stopped("code in the bundle", "svi", "RSD-1103", "<script>alert(1)</script>", 1.0)],
        scores={
            "released": {"accuracy": 0.8, "auc": 0.84},
            "rounds": [{"round": i, "accuracy": 0.7 + i / 30, "auc": 0.8} for i in range(3)],
            "trained_parameters": {"head": 770, "adapters": 1536},
        },
        baselines={"majority": 0.74, "alone": alone, "pooled": {"accuracy": 0.86, "auc": 0.9}, "head_only": None},
        arrows=[Arrow("coordinator", "svhd", "aggregate", "deny", "eu.no-basis")],
        steps=[{"number": 1, "name": "manifest", "status": "ok", "proved": ["an operator signed"]}],
        verified=True,
        verified_where="here",
        trust_digest="ab" * 32,
        tamper_caught=True,
        run_seconds=30.0,
    )
