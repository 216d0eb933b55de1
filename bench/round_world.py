"""Residency's side of `residency bench round` before it starts: two sites, enrolled and equipped by public commands.

The commands run in this process: what they do is the product's, and no interpreter has to start for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file

from client.training.model_folder import model_digest
from compliance.clock import now
from compliance.errors import RunFailed
from compliance.files import write_durably
from compliance.validation import read_yaml
from demo.governance import DATA_EXPIRES, free_ports

CONSORTIUM: Final = "bench"
OPERATOR: Final = "hub"
SITES: Final = {"site-1": "DE", "site-2": "FR"}
DATASET: Final = "rows"
_ROWS: Final = 200
_SIGMA_MICRO: Final = 100_000_000  # each round costs next to nothing: the ledgers hold for as many as one likes
_DEADLINE_S: Final = 3600  # a site waits at the bench's gate while the other side has its turn
_PAPERS: Final = ("dpia", "art6_basis", "art9_basis", "ethics")


@dataclass(frozen=True)
class World:
    """Where the operator's and the sites' things lie."""

    root: Path

    @property
    def hub(self) -> Path:
        """The operator's home."""
        return self.root / OPERATOR

    def home(self, site: str) -> Path:
        """The agent's home."""
        return self.root / site

    def office(self, site: str) -> Path:
        """Where the site's signatory and data-protection officer keep their keys."""
        return self.root / f"{site}-office"

    def study(self, name: str) -> Path:
        """A signed study."""
        return self.root / f"{name}.json"

    def answers(self, name: str) -> Path:
        """The folder of the signed answers to a study."""
        return self.root / f"{name}-answers"


def done(*args: str | Path) -> str:
    """Run `residency ARGS` in this process; what it printed. Raises RunFailed RSD-8502 unless it succeeds."""
    from residency import cli  # noqa: PLC0415 - the command tree imports this package

    words = [str(a) for a in args]
    outcome = CliRunner().invoke(cli, words, obj={"dry_run": "client.dry_run:dry_run"})
    if outcome.exit_code:
        told = " | ".join(outcome.output.strip().splitlines()[-4:]) or repr(outcome.exception)
        raise RunFailed(
            "RSD-8502",
            f"residency {' '.join(words[:3])}: {told[-600:]}",
            rule="each step of the bench's preparation succeeds",
            found=f"exit {outcome.exit_code}",
            limit="exit 0",
            next="run the command by itself: residency " + " ".join(words),
        )
    return str(outcome.stdout)


def build_world(root: Path) -> World:
    """A consortium of two sites, each with its keys, certificate, trust file, policy, rows and base model."""
    world = World(root)
    server, governance, enrolment = (f"127.0.0.1:{port}" for port in free_ports(3))
    done(
        "consortium", "init", CONSORTIUM, "--operator", OPERATOR, "--jurisdiction", "IE", "--threshold", "2",
        "--server", server, "--governance", governance, "--enrolment", enrolment, "--home", world.hub,
    )  # fmt: skip
    requests = [_enrol(world, site, where) for site, where in SITES.items()]
    draft = root / "trust.draft.json"
    done("consortium", "admit", *requests, "--home", world.hub, "--out", draft)
    for site in SITES:
        done("consortium", "sign", draft, "--key", world.office(site) / "signatory.key")
    done("consortium", "admit", "--install", draft, "--home", world.hub)
    model = _model_folder(root / "model")
    for site, where in SITES.items():
        _equip(world, site, where, model)
    return world


def _enrol(world: World, site: str, jurisdiction: str) -> Path:
    office, home = world.office(site), world.home(site)
    for role in ("signatory", "dpo"):
        done("key", "new", "--role", role, "--holder", site, "--out", office)
    invitation, request = world.root / f"{site}.invitation.json", world.root / f"{site}.request.json"
    done("consortium", "invite", site, "--jurisdiction", jurisdiction, "--home", world.hub, "--out", invitation)
    done(
        "agent", "enroll", invitation, "--home", home, "--signatory", office / "signatory.pub.json",
        "--dpo", office / "dpo.pub.json", "--out", request,
    )  # fmt: skip
    return request


def _model_folder(folder: Path) -> Path:
    """A base model that is never loaded, of a type that sites take: the stand-in for training has none."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}\n', encoding="utf-8")
    save_file({"weight": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def _equip(world: World, site: str, jurisdiction: str, model: Path) -> None:
    home, office = world.home(site), world.office(site)
    rows = world.root / f"{site}.csv"
    lines = [f"{site}-{i},{i % 7},{'yes' if i % 2 else 'no'}" for i in range(_ROWS)]
    rows.write_text("\n".join(["patient_id,value,label", *lines]) + "\n", encoding="utf-8")
    said = ("--favourable", "--text", "A measurement on invented rows.")
    law_set, law, law_advice = office / "law-set.json", office / "law.json", office / "law.advice.json"
    done("law", "init", "--site", site, "--jurisdiction", jurisdiction, "--out", law_set)
    done("law", "advise", law_set, "--key", office / "dpo.key", *said, "--out", law_advice)
    done("law", "adopt", law_set, "--key", office / "signatory.key", "--advice", law_advice, "--out", law)
    draft, signed = office / "policy.yaml", office / "policy.json"
    done("policy", "init", "--law", law, "--out", draft)
    policy = dict(read_yaml(draft, "policy").value)
    policy |= {
        "purposes": ["scientific_research"],
        "units": ["record"],
        "rounds_at_most": 1000,
        "sites_at_least": 2,
        "operators": [OPERATOR],
        "required_documents": sorted(_PAPERS),
        "models": [],
    }
    write_durably(draft, yaml.safe_dump(policy).encode())
    advice = office / "policy.advice.json"
    done("policy", "advise", draft, "--key", office / "dpo.key", *said, "--out", advice)
    done("policy", "sign", draft, "--key", office / "signatory.key", "--advice", advice, "--out", signed)
    trust = world.hub / "trust.json"
    certificate = world.hub / "certificates" / f"{site}.crt"
    done(
        "agent", "enroll", "--home", home, "--certificate", certificate, "--trust", trust, "--law", law,
        "--law-advice", law_advice, "--policy", signed,
    )  # fmt: skip
    done(
        "agent", "dataset", "add", DATASET, "--home", home, "--path", rows, "--source", site,
        "--id-column", "patient_id", "--legal-basis", "9(2)(j)", "--purpose", "scientific_research",
        "--expires", DATA_EXPIRES,
    )  # fmt: skip
    done("agent", "model", "add", model, "--home", home)


def answered_study(world: World, name: str, rounds: int) -> None:
    """Sign a study of so many rounds, propose it, and have both sites advise on it and approve it."""
    source, signed, answers = world.root / f"{name}.yaml", world.study(name), world.answers(name)
    write_durably(world.root / "paper.md", b"INVENTED FOR A MEASUREMENT. No institution wrote or signed this.\n")
    write_durably(source, yaml.safe_dump(bench_study(name, rounds, model_digest(world.root / "model"))).encode())
    done("study", "sign", source, "--key", world.hub / "keys" / "operator.key", "--out", signed)
    done("study", "propose", signed, "--home", world.hub)
    answers.mkdir()
    for site in SITES:
        office, advice = world.office(site), answers / f"{site}.advice.json"
        said = ("--favourable", "--text", "A measurement on invented rows.")
        done("study", "advise", signed, "--key", office / "dpo.key", *said, "--out", advice)
        done(
            "study", "approve", signed, "--key", office / "signatory.key", "--advice", advice,
            "--policy", office / "policy.json", "--trust", world.hub / "trust.json",
            "--out", answers / f"{site}.approval.json",
        )  # fmt: skip


def bench_study(name: str, rounds: int, model_sha256: str) -> dict[str, Any]:
    until = (now() + timedelta(days=60)).date().isoformat()
    papers = [{"id": kind.replace("_", "-"), "kind": kind} for kind in _PAPERS]
    return {
        "schema": "residency.study/1",
        "name": name,
        "consortium": CONSORTIUM,
        "purpose": "scientific_research",
        "description": "How long a round takes; invented rows and papers.",
        "operator": {"name": OPERATOR, "jurisdiction": "IE"},
        "controllers": list(SITES),
        "documents": [{**p, "title": f"Invented {p['id']}", "file": "paper.md", "expires": until} for p in papers],
        "starts": (now() - timedelta(days=1)).date().isoformat(),
        "ends": (now() + timedelta(days=30)).date().isoformat(),
        "dataset": DATASET,
        "task": {
            "kind": "sequence_classification",
            "labels": ["no", "yes"],
            "label_column": "label",
            "label_values": {"no": "no", "yes": "yes"},
            "template": "value {value}",
            "max_tokens": 8,
        },
        "model": {
            "name": "none",
            "sha256": model_sha256,
            "pooling": "mean",
            "adapters": None,
            "features": None,
            "feature_norm_milli": 1000,
        },
        "training": {
            "rounds": rounds,
            "steps": 1,
            "head_rate_milli": 1000,
            "adapter_rate_milli": 0,
            "physical_batch": 16,
        },
        "privacy": {"unit": "record", "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1},
        "aggregation": {"rule": "fedavg"},
        "sites": [
            {
                "name": site,
                "jurisdiction": where,
                "records_public": _ROWS,
                "batch": 20,
                "weight": 1,
                "epsilon_milli": 1000,
                "noise_multiplier_micro": _SIGMA_MICRO,
            }
            for site, where in SITES.items()
        ],
        "quorum": {"sites": len(SITES)},
        "round_deadline_s": _DEADLINE_S,
    }
