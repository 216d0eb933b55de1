"""A small consortium for tests: keys, trust file, study and policy, in memory or made by the public commands."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec

from compliance.clock import now, rfc3339
from compliance.identity import Envelope, Role, Signer, load_signer, new_signer, save_signer, seal
from compliance.trust.enrol import make_request, open_invitation
from compliance.trust.root import Anchor, open_trust
from residency import cli

SITES = {"berlin": "DE", "leeds": "GB", "osaka": "JP"}
OPERATOR, CONSORTIUM = "hub", "thyroid"


def day(days: int) -> str:
    """RFC 3339 that many days from now."""
    return rfc3339(now() + timedelta(days=days))


def signer(role: Role, holder: str, start: int = -10, end: int = 300) -> Signer:
    """A key valid from `start` to `end`, days from now."""
    return new_signer(role, holder, day(start), day(end))


def node_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True)
class Consortium:
    """Keys of everybody, in memory."""

    operator: Signer
    agents: dict[str, Signer]
    signatories: dict[str, Signer]
    dpos: dict[str, Signer]

    def trust_record(self, **changes: Any) -> dict[str, Any]:
        """The statement of a trust file, threshold 2."""
        people = [*self.agents.values(), *self.signatories.values(), *self.dpos.values()]
        return {
            "schema": "residency.trust/1",
            "consortium": CONSORTIUM,
            "version": 1,
            "previous": "",
            "issued": day(-1),
            "expires": day(700),
            "threshold": 2,
            "operator": {"name": OPERATOR, "jurisdiction": "IE", "node_key": ""},
            "sites": [{"name": n, "jurisdiction": j, "node_key": ""} for n, j in SITES.items()],
            "keys": [s.identity.as_json() for s in (self.operator, *people)],
            **changes,
        }

    def trust(self, *sites: str, **changes: Any) -> Envelope:
        """The trust file, signed by the signatories of `sites`."""
        return seal(self.trust_record(**changes), *(self.signatories[s] for s in sites))

    def anchor(self) -> Anchor:
        """The trust file, opened."""
        return open_trust(self.trust("berlin", "leeds").encode(), "trust")


def consortium() -> Consortium:
    """Fresh keys."""
    return Consortium(
        signer("operator", OPERATOR),
        {s: signer("agent", s) for s in SITES},
        {s: signer("signatory", s) for s in SITES},
        {s: signer("dpo", s) for s in SITES},
    )


_STUDY: dict[str, Any] = {
    "schema": "residency.study/1",
    "name": "thyroid-one",
    "consortium": CONSORTIUM,
    "purpose": "scientific_research",
    "description": "A study for tests.",
    "operator": {"name": OPERATOR, "jurisdiction": "IE"},
    "controllers": list(SITES),
    "dataset": "thyroid",
    "task": {
        "kind": "sequence_classification",
        "labels": ["none", "finding"],
        "label_column": "target",
        "label_values": {"-": "none"},
        "label_other": "finding",
        "template": "[age {age}.]",
        "max_tokens": 32,
    },
    "model": {
        "name": "tiny",
        "sha256": "ab" * 32,
        "pooling": "mean",
        "adapters": None,
        "features": None,
        "feature_norm_milli": 4000,
    },
    "training": {"rounds": 5, "steps": 2, "head_rate_milli": 4000, "adapter_rate_milli": 500, "physical_batch": 64},
    "privacy": {"unit": "record", "inverse_delta": 100_000, "clip_micro": 1_000_000, "spare_rounds": 1},
    "aggregation": {"rule": "fedavg"},
    "quorum": {"sites": 2},
    "round_deadline_s": 60,
}


def study_raw(**changes: Any) -> dict[str, Any]:
    """A raw study as an operator writes it, with everything but papers' files, noise, software and issue."""
    raw = copy.deepcopy(_STUDY)
    raw["starts"], raw["ends"] = day(-1), day(100)
    raw["documents"] = [
        {"id": k.split("_")[0], "kind": k, "title": k, "sha256": "cd" * 32, "expires": day(200)}
        for k in ("dpia", "art6_basis", "art9_basis", "ethics")
    ]
    raw["sites"] = [
        {"name": s, "jurisdiction": j, "records_public": 1000, "batch": 100, "weight": 1, "epsilon_milli": 8000}
        for s, j in SITES.items()
    ]
    return {**raw, **changes}


def full_study(**changes: Any) -> dict[str, Any]:
    """A raw study with every field; the noise is about epsilon 1.7 for these numbers."""
    raw = study_raw(issued=day(0), software={"version": "0", "bundle_sha256": "ef" * 32})
    for site in raw["sites"]:
        site["noise_multiplier_micro"] = 1_500_000
    return {**raw, **changes}


def policy_raw(site: str = "berlin", **changes: Any) -> dict[str, Any]:
    """A raw policy that `full_study` lies within."""
    return {
        "schema": "residency.policy/1",
        "site": site,
        "jurisdiction": SITES[site],
        "issued": day(-1),
        "expires": day(200),
        "purposes": ["scientific_research"],
        "tasks": ["sequence_classification"],
        "units": ["record"],
        "epsilon_milli_at_most": 8000,
        "inverse_delta_at_least": 100_000,
        "rounds_at_most": 60,
        "sites_at_least": 2,
        "operators": [OPERATOR],
        "required_documents": ["dpia", "art6_basis", "art9_basis", "ethics"],
        "models": [],
        "ledger": {"epsilon_milli": 20_000, "inverse_delta": 100_000},
        "law_set": "12" * 32,
        **changes,
    }


def write_yaml(path: Path, value: dict[str, Any]) -> Path:
    """JSON is YAML: one field a line, so that lines mean something."""
    path.write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in value.items()))
    return path


def run(*args: object) -> Result:
    """Call `residency ARGS` in this process."""
    return CliRunner().invoke(cli, [str(a) for a in args])


def ok(*args: object) -> dict[str, Any]:
    """Call it with --json, insist on exit 0, and return the object."""
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def refused(exit_code: int, code: str, *args: object) -> dict[str, str]:
    """Call it for people (exactly two lines on stderr) and in JSON; insist on both codes and return the error."""
    text = run(*args)
    assert text.exit_code == exit_code, text.output
    first, second = text.stderr.splitlines()
    assert first.startswith(f"error {code}: "), first
    assert second.startswith("  next: ")
    found = run(*args, "--json")
    assert found.exit_code == exit_code, found.output
    error: dict[str, str] = json.loads(found.stdout)["error"]
    assert error["code"] == code
    return error


@dataclass(frozen=True)
class Office:
    """A consortium made by the public commands below `root`; sites' offices are root/SITE."""

    root: Path

    @property
    def home(self) -> Path:
        """The operator's folder."""
        return self.root / "hub"

    @property
    def trust(self) -> Path:
        """The installed trust file."""
        return self.home / "trust.json"

    @property
    def operator_key(self) -> Path:
        """The operator's key."""
        return self.home / "keys" / "operator.key"

    def key(self, site: str, role: str) -> Path:
        """A private key of a site."""
        return self.root / site / f"{role}.key"


def make_office(root: Path) -> Office:
    """Keys, invitations and requests of all sites; no trust file yet."""
    office = Office(root)
    ok("consortium", "init", CONSORTIUM, "--operator", OPERATOR, "--jurisdiction", "IE", "--threshold", 2,
       "--server", "127.0.0.1:9092", "--home", office.home)  # fmt: skip
    for site, jurisdiction in SITES.items():
        ok("consortium", "invite", site, "--jurisdiction", jurisdiction, "--home", office.home,
           "--out", root / site / "invitation.json")  # fmt: skip
        enrol(office, site)
    return office


def enrol(office: Office, site: str) -> Path:
    """The site's keys and its enrolment request, as the agent makes it."""
    folder = office.root / site
    for role in ("signatory", "dpo"):
        ok("key", "new", "--role", role, "--holder", site, "--out", folder)
    agent = new_signer("agent", site, rfc3339(now()), day(300))
    save_signer(agent, folder / "agent")
    invitation = open_invitation((folder / "invitation.json").read_bytes())
    signatory, dpo = (load_signer(office.key(site, r)).identity for r in ("signatory", "dpo"))
    request = make_request(invitation, agent, signatory, dpo, node_key())
    (folder / "request.json").write_bytes(request.encode() + b"\n")
    return folder / "request.json"


def make_trusted_office(root: Path) -> Office:
    """An office with an installed trust file."""
    office = make_office(root)
    draft = root / "draft.json"
    requests = [root / site / "request.json" for site in SITES]
    ok("consortium", "admit", *requests, "--home", office.home, "--out", draft)
    for site in ("berlin", "leeds"):
        ok("consortium", "sign", draft, "--key", office.key(site, "signatory"))
    ok("consortium", "admit", "--install", draft, "--home", office.home)
    return office


def sealed(path: Path, record: dict[str, Any], by: Signer) -> Path:
    """Write a signed statement."""
    path.write_bytes(seal(record, by).encode() + b"\n")
    return path
