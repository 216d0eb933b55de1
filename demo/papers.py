"""The invented papers of the demo, and the study and policy files that name them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import yaml

from compliance.clock import now
from compliance.files import write_durably
from compliance.validation import read_yaml
from demo import recipe
from demo.cast import CONSORTIUM, OPERATOR, OPERATOR_JURISDICTION, SITES, Site
from demo.recipe import Recipe

DATASET: Final = "thyroid"
_MINE: Final = {"dpia", "art6_basis", "art9_basis", "ethics"}


@dataclass(frozen=True)
class Paper:
    """One invented paper, for one recipient if `covers` is its name; empty `file`: it has a file of its own.

    What is missing on purpose: any transfer basis from the Union to China.
    """

    id: str
    kind: str
    title: str
    from_jurisdiction: str = "*"
    to_jurisdiction: str = "*"
    covers: str = "*"
    file: str = ""

    @property
    def name(self) -> str:
        """The file below the folder of papers; one contract with several recipients is several papers in one."""
        return f"{self.file or self.id}.md"


_ABROAD: Final = {OPERATOR: OPERATOR_JURISDICTION} | {s.name: s.jurisdiction for s in SITES if s.jurisdiction != "CN"}
PAPERS: Final = (
    Paper("dpia", "dpia", "Data-protection impact assessment of the thyroid study"),
    Paper("art6", "art6_basis", "Legal basis of the processing: task in the public interest"),
    Paper("art9", "art9_basis", "Condition for health data: scientific research"),
    Paper("ethics", "ethics", "Opinion of the joint ethics committee"),
    Paper("adequacy-coordinator", "adequacy_confirmation", "The operator falls under the adequacy of Ireland",
          to_jurisdiction=OPERATOR_JURISDICTION, covers=OPERATOR),
    *(Paper(f"adequacy-{s.name}", "adequacy_confirmation", f"Site {s.name} falls under the adequacy of {s.country}",
            to_jurisdiction=s.jurisdiction, covers=s.name)
      for s in SITES if s.jurisdiction != "CN"),
    Paper("basis-cn", "pipl_basis", "Basis other than consent under Chinese law: duty of a public hospital",
          from_jurisdiction="CN"),
    *(Paper(f"contract-cn-{name}", "pipl_contract", "Standard contracts filed for the export from China",
            from_jurisdiction="CN", to_jurisdiction=code, covers=name, file="contracts-cn")
      for name, code in _ABROAD.items()),
)  # fmt: skip


def day(days: int) -> str:
    """The date that many days from now."""
    return (now() + timedelta(days=days)).date().isoformat()


def write_papers(folder: Path) -> None:
    """Write each paper; each says in its first line that it is invented."""
    for paper in PAPERS:
        text = f"INVENTED FOR A DEMONSTRATION. No institution wrote or signed this.\n\n{paper.title}\n"
        write_durably(folder / paper.name, text.encode())


@dataclass(frozen=True)
class Terms:
    """What differs between the studies of the demo."""

    name: str
    training: Recipe
    model_sha256: str
    features: dict[str, Any]
    epsilon_milli: int = recipe.EPSILON_MILLI
    noise_micro: dict[str, int] | None = None  # by site; None: `study sign` computes it


def study(terms: Terms) -> dict[str, Any]:
    """The study file, before `study sign` adds the papers' digests, the software and the noise."""
    training = terms.training
    return {
        "schema": "residency.study/1",
        "name": terms.name,
        "consortium": CONSORTIUM,
        "purpose": "scientific_research",
        "description": "Does a thyroid panel hold a finding? Referral rows as text; invented jurisdictions and papers.",
        "operator": {"name": OPERATOR, "jurisdiction": OPERATOR_JURISDICTION},
        "controllers": [s.name for s in SITES],
        "documents": [_document(p) for p in PAPERS],
        "starts": day(-1),
        "ends": day(30),
        "dataset": DATASET,
        "task": recipe.task(),
        "model": _model(terms),
        "training": {
            "rounds": training.rounds,
            "steps": training.steps,
            "head_rate_milli": training.head_rate_milli,
            "adapter_rate_milli": training.adapter_rate_milli,
            "physical_batch": training.physical_batch,
        },
        "privacy": {
            "unit": "record",
            "inverse_delta": recipe.INVERSE_DELTA,
            "clip_micro": 1_000_000,
            "spare_rounds": training.spare_rounds,
        },
        "aggregation": {"rule": "fedavg", "average_last_rounds": training.average_last_rounds},
        "sites": [_site(s, terms) for s in SITES],
        "quorum": {"sites": len(SITES) - 1},
        "round_deadline_s": 120,
    }


def _site(site: Site, terms: Terms) -> dict[str, Any]:
    noise = {"noise_multiplier_micro": terms.noise_micro[site.name]} if terms.noise_micro else {}
    return {
        "name": site.name,
        "jurisdiction": site.jurisdiction,
        "records_public": site.records,
        "batch": terms.training.batch(site.records),
        "weight": site.weight,
        "epsilon_milli": terms.epsilon_milli,
        **noise,
    }


def _document(paper: Paper) -> dict[str, str]:
    return {
        "id": paper.id,
        "kind": paper.kind,
        "title": paper.title,
        "file": f"papers/{paper.name}",
        "expires": day(365),
        "from_jurisdiction": paper.from_jurisdiction,
        "to_jurisdiction": paper.to_jurisdiction,
        "covers": paper.covers,
    }


def _model(terms: Terms) -> dict[str, Any]:
    training = terms.training
    adapters = {
        "layers": training.layers,
        "rank": training.rank,
        "scale_milli": training.scale_milli,
        "targets": list(training.targets),
        "init_seed": training.init_seed,
    }
    return {
        "name": recipe.MODEL_NAME,
        "sha256": terms.model_sha256,
        "pooling": "mean",
        "adapters": adapters if training.adapters else None,
        "features": terms.features,
        "feature_norm_milli": training.feature_norm_milli,
    }


def write_yaml(path: Path, value: dict[str, Any]) -> None:
    """Write a YAML file whole."""
    write_durably(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).encode("utf-8"))


def adapt_policy(path: Path, model_sha256: str) -> None:
    """Turn the example that `policy init` wrote into this site's limits."""
    policy = dict(read_yaml(path, "policy").value)
    policy |= {
        "purposes": ["scientific_research"],
        "tasks": ["sequence_classification"],
        "units": ["record"],
        "epsilon_milli_at_most": recipe.EPSILON_MILLI,
        "inverse_delta_at_least": recipe.INVERSE_DELTA,
        "rounds_at_most": 60,
        "sites_at_least": 3,
        "operators": [OPERATOR],
        "required_documents": sorted(_MINE),
        "models": [model_sha256],
        "ledger": {"epsilon_milli": recipe.LEDGER_LIMIT_MILLI, "inverse_delta": recipe.INVERSE_DELTA},
    }
    write_yaml(path, policy)
