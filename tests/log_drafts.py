"""Bodies of log entries for tests that care about the log and not about what it says."""

from __future__ import annotations

from typing import Any

from compliance.log.store import Draft
from compliance.privacy.ledger import Ledger
from compliance.privacy.ledger_records import LogHead

DIGEST = "0" * 64
CLOSE: dict[str, Any] = {"rounds": 0, "rosters": [], "entries": 0, "entries_sha256": DIGEST}


def commit_body(n: int = 0, pad: int = 0) -> dict[str, Any]:
    """The `n`th body of its kind; about `pad` bytes longer than the shortest."""
    return {"round": n + 1, "attempt": 1, "update_sha256": DIGEST, "conformance": {"x" * pad: True}}


def commit(n: int = 0, pad: int = 0, study: str = "") -> Draft:
    """A draft with `commit_body`."""
    return Draft("commit", commit_body(n, pad), study)


def policy_body(n: int = 0) -> dict[str, Any]:
    """The `n`th body of its kind."""
    return {"policy": f"{n:064x}", "at": "2026-11-21T10:00:00Z"}


def refusal_body(n: int = 0) -> dict[str, Any]:
    """The `n`th body of its kind: small, and of text."""
    said = {"message": f"refusal {n}", "rule": "", "found": "", "limit": "", "next": ""}
    return {"code": "RSD-3100", **said}


def charge_body(n: int = 0) -> dict[str, Any]:
    """The `n`th charge of one data source."""
    event = {
        "mechanism": "poisson_gaussian",
        "noise_multiplier_micro": 1_000_000,
        "sample_numerator": 1,
        "sample_denominator": 10,
        "steps": 1,
        "unit": "record",
    }
    place = {"source": "a-clinic", "round": 1, "attempt": n + 1, "seq": n + 1}
    return {**place, "event": event, "head": DIGEST, "base_sha256": DIGEST}


def decided(peer: str, *, allow: bool) -> dict[str, Any]:
    """A decision about `peer` by the real engine: a roster within Europe, or an update that lacks every paper."""
    from compliance.law.decide import Engine, builtin_packs
    from compliance.law.model import Party, Transfer
    from compliance.law.regions import load_regions
    from compliance.release.bodies import decision_body

    packs = builtin_packs()
    artifact = "roster" if allow else "dp_update"
    transfer = Transfer(
        artifact=artifact,  # type: ignore[arg-type]
        exporter=Party(name="anna", jurisdiction="DE"),
        recipient=Party(name=peer, jurisdiction="FR"),
        purpose="study_administration",
        study="",
        at="2026-11-22T12:00:00Z",
    )
    decision = Engine({"eu": packs["eu"]}, {"eu": packs["eu"].digest}, regions=load_regions()).decide(transfer)
    assert decision.allow == allow
    return decision_body(decision, 0, peer)


_TIME, _SITE = "2026-11-22T10:00:00Z", "anna"
_EVENT = charge_body()["event"]
EXAMPLES: dict[str, list[dict[str, Any]]] = {  # one body of every shape but a decision's
    "consortium": [
        {"act": "trust", "digest": DIGEST, "version": 1},
        {"act": "trust", "trust": DIGEST, "version": 2},
        {"act": "certificate", "ends": _TIME},
        {"act": "certificate", "site": _SITE, "serial": "1f", "until": _TIME},
        {"act": "invite", "site": _SITE, "jurisdiction": "FR", "invitation": DIGEST},
        {"act": "enrolment", "site": _SITE, "request": DIGEST},
        {"act": "draft", "draft": DIGEST, "joining": [_SITE]},
        {"act": "renewal", "site": _SITE},
        {"act": "renew", "days": 90},
        {"act": "suspend", "site": _SITE, "reason": "left", "suspension": DIGEST, "draft": ""},
        {"act": "lift", "site": _SITE, "reason": "back"},
    ],
    "policy": [policy_body()],
    "law": [{"law_set": DIGEST, "at": _TIME}, {"site": _SITE, "law_set": DIGEST, "digest": DIGEST}],
    "study": [{"name": "thyroid"}, {"act": "proposed", "study": DIGEST, "name": "thyroid"}],
    "answer": [
        {"statement": "approval", "digest": DIGEST, "site": _SITE},
        {"act": "queued", "statement": "leave", "digest": DIGEST, "study": ""},
        {"statement": "advice", "digest": DIGEST, "site": _SITE, "study": DIGEST},
    ],
    "join": [
        {"run": "r1", "approval_policy": DIGEST, "law_set": DIGEST, "device": "cpu", "layout_sha256": DIGEST},
    ],
    "reservation": [{"source": "a-clinic", "study_epsilon_milli": 3000, "inverse_delta": 100_000, "event": _EVENT}],
    "charge": [charge_body()],
    "commit": [commit_body()],
    "count": [{"rows": 1, "head": DIGEST}],
    "transfer": [
        {"artifact": "dp_update", "recipient": "hub", "round": 1, "attempt": 1, "sha256": DIGEST, "decision": 0},
    ],
    "roster": [{"round": 1, "digest": DIGEST}],
    "cosign": [{"origin": "residency/tiny/berta", "size": 1, "root": DIGEST}],
    "release": [{"manifest": DIGEST, "model": DIGEST}],
    "refusal": [refusal_body(), {**refusal_body(), "site": _SITE}],
    "failure": [{**refusal_body(), "round": 1, "attempt": 1}],
    "close": [CLOSE],
    "calls": [
        {"calls": [{"surface": "door", "method": "x", "site": "", "outcome": "ok", "at": _TIME}]},
        {"calls": [{"surface": "door", "method": "x", "site": "", "outcome": "ok", "count": 3}]},
    ],
    "dataset": [
        {
            "action": "register",
            "dataset": "clinic",
            "source": "a-clinic",
            "inherited": False,
            "declared": 100,
            "declared_patients": 100,
            "several_rows": True,
            "commitment": DIGEST,
            "legal_basis": "gdpr-9-2-j",
            "purposes": ["scientific_research"],
            "expires": "2027-11-22",
        },
        {"action": "retire", "dataset": "clinic", "source": "a-clinic"},
    ],
    "withdrawal": [{"number": 1, "ground": "consent", "subjects": "fewer than 10", "named": DIGEST}],
    "cancel": [{"run": "r1", "reason": "no power"}],
    "evaluation": [
        {"digest": DIGEST, "model_sha256": DIGEST, "conformance": {"finite": True}},
        {"digest": DIGEST, "model_sha256": DIGEST},
    ],
    "alarm": [{"code": "RSD-5040", "about": "residency/tiny/berta", "found": "", "limit": "", "since": _TIME}],
    "export": [
        {
            "format": "csv",
            "filter_sha256": DIGEST,
            "size": 9,
            "entries": 3,
            "sha256": DIGEST,
            "to": "",
            "decision": None,
        },
        {
            "format": "jsonl",
            "filter_sha256": DIGEST,
            "size": 9,
            "entries": 0,
            "sha256": DIGEST,
            "to": "a",
            "decision": 8,
        },
    ],
    "compaction": [
        {
            "record_class": "access",
            "before": _TIME,
            "ranges": [[0, 1]],
            "leaves_sha256": DIGEST,
            "policy": "at least 10 days by eu",
            "law_set": DIGEST,
        },
    ],
}


def charged(ledger: Ledger, log: LogHead) -> None:
    """One more charge of the last study that holds room in it, which finds the log as `log`; no log tells of it."""
    source = ledger.sources()[0]
    held = ledger.reservations(source)[-1]
    one = held.event.model_copy(update={"steps": 1, "tv_error_femto": 0})
    rounds = [c.round for c in ledger.charges(held.study)]
    ledger.charge(source, held.study, max(rounds, default=0) + 1, 1, one, log)
