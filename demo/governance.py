"""From nothing to an approved study, by public commands: keys, trust, law, policies, data, study, advice, approval."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from demo.cast import CONSORTIUM, OPERATOR, OPERATOR_JURISDICTION, SITES, Folders, Site
from demo.crew import Crew, each
from demo.papers import DATASET, Terms, adapt_policy, study, write_papers, write_yaml

THRESHOLD: Final = 3
_WORKERS: Final = 2
DATA_EXPIRES: Final = "2099-12-31"  # invented, as the papers are


def free_ports(count: int) -> list[int]:
    """Ports of the loopback, different ones, that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


def init_operator(crew: Crew, folders: Folders) -> None:
    """The operator makes its home: its key, the consortium's CA, three doors."""
    fleet, governance, enrolment = (f"127.0.0.1:{port}" for port in free_ports(3))
    crew.done(
        "consortium", "init", CONSORTIUM, "--operator", OPERATOR, "--jurisdiction", OPERATOR_JURISDICTION,
        "--threshold", str(THRESHOLD), "--server", fleet, "--governance", governance, "--enrolment", enrolment,
        "--home", folders.coordinator,
    )  # fmt: skip


def found_consortium(crew: Crew, folders: Folders) -> None:
    """Each site makes its keys and enrols at the running server; each signatory signs the trust file."""
    home = folders.coordinator
    each(_WORKERS, SITES, lambda site: _enrol(crew, folders, site))
    draft = folders.out / "trust.draft.json"
    crew.done("consortium", "admit", "--home", home, "--out", draft)
    for site in SITES:
        crew.done("consortium", "sign", draft, "--key", folders.office(site.name) / "signatory.key")
    crew.done("consortium", "admit", "--install", draft, "--home", home)
    shutil.copyfile(home / "trust.json", folders.trust)


def _enrol(crew: Crew, folders: Folders, site: Site) -> None:
    office = folders.office(site.name)
    for role in ("signatory", "dpo"):
        crew.done("key", "new", "--role", role, "--holder", site.name, "--out", office)
    invitation = folders.out / "invitations" / f"{site.name}.json"
    crew.done(
        "consortium", "invite", site.name, "--jurisdiction", site.jurisdiction,
        "--home", folders.coordinator, "--out", invitation,
    )  # fmt: skip
    crew.done(
        "agent", "enroll", invitation, "--home", folders.home(site.name), "--signatory", office / "signatory.pub.json",
        "--dpo", office / "dpo.pub.json",
    )  # fmt: skip


def equip_sites(crew: Crew, folders: Folders, model: Path, say: Callable[[str], None]) -> str:
    """Law set and policy on advice, trust, data and model at each site; returns the digest of the model folder."""

    def equip(site: Site) -> str:
        digest = _equip(crew, folders, site, model)
        say(f"{site.name}: law set adopted and policy signed on the DPO's advice; trust, data and model registered")
        return digest

    return str(each(_WORKERS, SITES, equip)[0])


def _equip(crew: Crew, folders: Folders, site: Site, model: Path) -> str:
    home, office = folders.home(site.name), folders.office(site.name)
    added = crew.done("agent", "model", "add", model, "--home", home, "--json").json()
    law = adopt_law(crew, office, site)
    draft, advice, signed = office / "policy.yaml", office / "policy.advice.json", office / "policy.json"
    crew.done("policy", "init", "--law", law, "--out", draft)
    adapt_policy(draft, str(added["sha256"]))
    crew.done(
        "policy", "advise", draft, "--key", office / "dpo.key", "--favourable", "--text", "Limits are adequate.",
        "--out", advice,
    )  # fmt: skip
    crew.done("policy", "sign", draft, "--key", office / "signatory.key", "--advice", advice, "--out", signed)
    crew.done(
        "agent", "enroll", "--home", home, "--trust", folders.trust, "--law", law,
        "--law-advice", office / "law.advice.json", "--policy", signed,
    )  # fmt: skip
    crew.done(
        "agent", "dataset", "add", DATASET, "--home", home, "--path", folders.table(site.name),
        "--source", f"{site.name}-thyroid", "--id-column", "patient_id", "--legal-basis", "9(2)(j)",
        "--purpose", "scientific_research", "--expires", DATA_EXPIRES,
    )  # fmt: skip
    return str(added["sha256"])


def adopt_law(crew: Crew, office: Path, site: Site) -> Path:
    """The law packs that bind the site, adopted by its signatory on the DPO's advice; returns the signed file."""
    law_set, advice, adopted = office / "law-set.json", office / "law.advice.json", office / "law.json"
    crew.done("law", "init", "--site", site.name, "--jurisdiction", site.jurisdiction, "--out", law_set)
    crew.done(
        "law", "advise", law_set, "--key", office / "dpo.key", "--favourable", "--text", "The packs that bind us.",
        "--out", advice,
    )  # fmt: skip
    crew.done("law", "adopt", law_set, "--key", office / "signatory.key", "--advice", advice, "--out", adopted)
    return adopted


def sign_study(crew: Crew, folders: Folders, terms: Terms, out: Path) -> Path:
    """Write, complete and sign a study file by the operator; the papers lie beside it."""
    write_papers(folders.papers)
    source = folders.out / f"{terms.name}.yaml"
    write_yaml(source, study(terms))
    crew.done("study", "sign", source, "--key", folders.operator_key, "--out", out, limit_s=180)
    return out


def propose(crew: Crew, folders: Folders, signed: Path) -> dict[str, Any]:
    """The operator proposes the study; it goes into its log."""
    return crew.done("study", "propose", signed, "--home", folders.coordinator, "--json").json()


def answer(crew: Crew, folders: Folders, signed: Path, say: Callable[[str], None]) -> None:
    """At each site the DPO advises and the signatory approves; the agent hands their answers to the operator."""

    def one(site: Site) -> None:
        office = folders.office(site.name)
        advice = office / "advice.json"
        crew.done(
            "study", "advise", signed, "--key", office / "dpo.key", "--favourable",
            "--text", "Proportionate: one update a round, epsilon 8 in all, no record leaves.", "--out", advice,
        )  # fmt: skip
        crew.done(*approval(folders, site.name, signed, advice))
        crew.done("agent", "deliver", advice, office / "approval.json", "--home", folders.home(site.name))
        say(f"{site.name}: advised by the DPO, approved by the signatory")

    each(_WORKERS, SITES, one)


def approval(folders: Folders, site: str, signed: Path, advice: Path) -> tuple[str | Path, ...]:
    """The command with which a signatory approves."""
    office = folders.office(site)
    return (
        "study", "approve", signed, "--key", office / "signatory.key", "--advice", advice,
        "--policy", office / "policy.json", "--trust", folders.trust,
        "--out", office / "approval.json",
    )  # fmt: skip
