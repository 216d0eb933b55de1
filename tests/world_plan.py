"""What is fixed about the synthetic world: its members, its study, its layout, and what a test may plan otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from compliance.canonical import sha256_hex
from compliance.privacy.events import PrivacyEvent, Unit
from compliance.software import VERSION
from compliance.study_event import TV_ERROR_FEMTO_PER_ROUND

CONSORTIUM, OPERATOR, REFUSED = "thyroid", "coordinator", "site-e"
WITNESS = "patients-union"
JURISDICTIONS = {"site-a": "DE", "site-b": "FR", "site-c": "GB", "site-d": "JP", REFUSED: "CN"}
CONTRIBUTORS = tuple(name for name in JURISDICTIONS if name != REFUSED)
START = datetime(2026, 11, 22, 10, tzinfo=UTC)
AT = START + timedelta(days=1)
ORDER = ("charge", "commit", "decision", "transfer")
LORA = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight"
LAYOUT = {
    "schema": "residency.layout/1",
    "entries": [
        {"name": "head.weight", "shape": [2, 3]},
        {"name": "head.bias", "shape": [2]},
        {"name": LORA, "shape": [4, 2], "a_width": 4},
    ],
}
SIZE = 16
EVENT = PrivacyEvent(
    noise_multiplier_micro=2_000_000, sample_numerator=64, sample_denominator=1000, steps=2, unit="record",
    tv_error_femto=TV_ERROR_FEMTO_PER_ROUND,
)  # fmt: skip


Change = Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What is special about a world. `order` is the order of log entries of site-a's contribution in round 1.

    `failed_first`: site-a's first attempt of round 1 is charged and fails, the second contributes. `body` changes the
    body of every log entry in place before it is logged, given (member, kind, body); `roster` every roster before it
    is signed by all. `before_close` is called with the run and each member before its log is closed; decisions to send
    an update are told that the model goes on to `told`; `answer` changes a site's answer before it is signed, given
    (site, kind, statement). `unit` is the study's privacy unit. `operator_law`: the operator adopted a law set
    of its own. `software`: the version that the study names. `witnesses`: the study's quorum of them.
    """

    order: tuple[str, ...] = ORDER
    failed_first: bool = False
    self_refusal: bool = False
    skip_denials: bool = False
    noise_multiplier_micro: int = EVENT.noise_multiplier_micro
    rounds: int = 2
    body: Change | None = None
    roster: Callable[[dict[str, Any]], None] | None = None
    before_close: Callable[[Any, str], None] | None = None
    answer: Change | None = None
    told: tuple[str, ...] = CONTRIBUTORS
    unit: Unit = "record"
    operator_law: bool = False
    software: str = VERSION
    witnesses: int = 1


ORDINARY = Plan()
_UNITS: dict[str, dict[str, Any]] = {
    "record": {"unit": "record"},
    "patient": {"unit": "patient", "group_column": "patient", "records_per_unit": 4},
}


def study_json(plan: Plan = ORDINARY) -> dict[str, Any]:
    """The study of the world, as JSON."""
    sites = [
        {
            "name": name,
            "jurisdiction": jurisdiction,
            "records_public": 1000,
            "batch": 64,
            "weight": 1,
            "epsilon_milli": 8000,
            "noise_multiplier_micro": plan.noise_multiplier_micro,
        }
        for name, jurisdiction in JURISDICTIONS.items()
    ]
    return {
        "schema": "residency.study/1",
        "name": "thyroid-one",
        "consortium": CONSORTIUM,
        "purpose": "scientific_research",
        "description": "An invented study.",
        "operator": {"name": OPERATOR, "jurisdiction": "IE"},
        "controllers": ["Invented hospital"],
        "documents": list(documents()),
        "issued": "2026-11-02",
        "starts": "2026-11-01",
        "ends": "2027-03-01",
        "dataset": "thyroid",
        "task": {
            "kind": "sequence_classification",
            "labels": ["ill", "well"],
            "label_column": "target",
            "label_values": {"x": "ill"},
            "label_other": "well",
            "template": "age {age}",
            "max_tokens": 16,
        },
        "model": {
            "name": "tiny-bert",
            "sha256": sha256_hex(b"model"),
            "pooling": "mean",
            "adapters": {"layers": 1, "rank": 2, "scale_milli": 2000, "targets": ["query"], "init_seed": 7},
            "features": None,
            "feature_norm_milli": 1000,
        },
        "training": {
            "rounds": plan.rounds,
            "steps": 2,
            "head_rate_milli": 1000,
            "adapter_rate_milli": 100,
            "physical_batch": 32,
        },
        "privacy": {**_UNITS[plan.unit], "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1},
        "aggregation": {"rule": "fedavg", "average_last_rounds": 2},
        "sites": sites,
        "quorum": {"sites": 3, "witnesses": plan.witnesses},
        "round_deadline_s": 60,
        "software": {"version": plan.software, "bundle_sha256": sha256_hex(b"bundle")},
    }


def documents() -> Iterator[dict[str, Any]]:
    papers = [(kind, "*") for kind in ("dpia", "art6_basis", "art9_basis", "ethics")]
    papers += [("adequacy_confirmation", name) for name in (OPERATOR, *CONTRIBUTORS)]
    for kind, covers in papers:
        name = f"{kind}-{covers}".replace("_", "-").replace("-*", "")
        yield {
            "id": name,
            "kind": kind,
            "title": f"Invented {name}",
            "sha256": sha256_hex(name.encode()),
            "expires": "2027-12-31",
            "from_jurisdiction": "*",
            "to_jurisdiction": "*",
            "covers": covers,
        }
