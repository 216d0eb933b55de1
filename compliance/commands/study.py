"""`residency study`: write, check, sign and propose a study."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from compliance.canonical import canonical, sha256_hex
from compliance.cli import Result, command, table
from compliance.clock import now
from compliance.commands.dry_run import dry_run
from compliance.commands.shared import (
    FILE,
    home_option,
    key_option,
    load_role,
    mistakes_result,
    must_sign_at,
    need_trust,
    out_option,
    signature,
)
from compliance.commands.study_answers import advise, approve, refuse, withdraw
from compliance.errors import InputError, Refused, ResidencyError
from compliance.files import quoted, read_bytes, refuse_existing, write_all_new, write_new
from compliance.identity import Signer, seal
from compliance.log.store import LogStore
from compliance.policy import check_study
from compliance.policy_file import open_policy
from compliance.statements import received
from compliance.study import PrivacyTerms, Study, open_study
from compliance.study_desk import check_members, not_ended, policy_site
from compliance.study_file import check_file
from compliance.study_template import kinds, template
from compliance.trust.home import OperatorHome
from compliance.trust.root import Trust, load_anchor


@click.group()
def study() -> None:
    """Write, check, sign, propose and answer studies.

    \b
    Example: residency study check study.yaml
    """


study.add_command(advise)
study.add_command(approve)
study.add_command(refuse)
study.add_command(withdraw)


@study.command("init")
@click.option("--out", type=FILE, default=Path("study.yaml"), show_default=True, help="The file to write.")
@click.option("--task", type=click.Choice(kinds()), default=kinds()[0], show_default=True, help="The kind of task.")
@command("residency.study.init/1")
def init(out: Path, task: str) -> Result:
    """Write a commented example for a task over four sites, with its invented papers in papers/.

    \b
    Example: residency study init --out study.yaml --task token_classification
    """
    templates = resources.files("compliance") / "templates"
    papers = {out.parent / "papers" / p.name: p.read_bytes() for p in (templates / "papers").iterdir()}
    write_all_new({**papers, out: template(task)})
    return Result(
        {"file": str(out), "papers": sorted(map(str, papers))},
        [
            f"study      {out}",
            f"papers     {out.parent / 'papers'} (invented)",
            f"next       residency study check {quoted(out)}",
        ],
    )


@study.command("check")
@click.argument("file", type=FILE)
@click.option("--policy", "policy_file", type=FILE, help="Also check the study against this signed site policy.")
@click.option("--trust", "trust_file", type=FILE, help="Judge signatures by this trust file.")
@click.option("--home", type=FILE, help="An agent's folder: the site's whole admission as a dry run.")
@command("residency.study.check/1")
def check(file: Path, policy_file: Path | None, trust_file: Path | None, home: Path | None) -> Result:
    """List every mistake in a study (YAML, or signed JSON) with line and field; with --policy, check it against that.

    \b
    Example: residency study check study.yaml --policy policy.json --trust trust.json
    """
    mistakes, found = check_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    not_ended(found)
    lines = [f"{file}: no mistakes"]
    fields: dict[str, object] = {"mistakes": [], "study": found.name}
    if policy_file is not None:
        anchor = load_anchor(need_trust(trust_file, "a policy"), now())
        data = read_bytes(policy_file, "policy")
        policy, _ = open_policy(anchor, data, str(policy_file), policy_site(data, str(policy_file)), now())
        check_study(policy, found)
        lines.append(f"inside the policy of site {policy.site}")
        fields["inside_policy_of"] = policy.site
    judged = _signature(file)
    if trust_file is not None and file.suffix == ".json":
        anchor = load_anchor(trust_file, now())
        _, fields["digest"] = open_study(anchor, read_bytes(file, "study"), str(file), now())
        check_members(found, anchor.trust)
        lines.append(f"signed by the operator, every site is a member; digest {fields['digest']}")
        judged = signature(holds=True)
    if home is not None:
        more = dry_run(home, file)
        fields |= signature(holds=True).fields  # an agent judges it by its own trust file
        return Result({**fields, **more.fields}, [*lines, *more.lines], more.error)
    return Result({**fields, **judged.fields}, [*lines, *judged.lines])


@study.command("show")
@click.argument("file", type=FILE)
@click.option("--home", type=FILE, help="The operator's folder: also show who has answered what, and why.")
@command("residency.study.show/1")
def show(file: Path, home: Path | None) -> Result:
    """Show a study (YAML or signed JSON): purpose, privacy, papers, each site's terms; with --home, the sites' answers.

    \b
    Example: residency study show study.json --home server
    """
    mistakes, found = check_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    judged = _signature(file)
    shown = {"study": found.as_json(), **judged.fields}
    if home is None:
        return Result(shown, [*_shown(found), *judged.lines])
    answers = _answers(OperatorHome(home), found)
    columns = ("site", "kind", "at", "reason")
    lines = table(["site", "answer", "at", "reason"], [[a[c] for c in columns] for a in answers])
    return Result({**shown, "answers": answers}, [*_shown(found), *judged.lines, *lines])


def _signature(file: Path) -> Result:
    """What is to be said of the signature of a file by whoever did not judge it."""
    return signature(holds=False) if file.suffix == ".json" else Result({"signature": "none"})


def _answers(place: OperatorHome, found: Study) -> list[dict[str, str]]:
    """What each site's people answered, as the operator holds it; a site without a decision waits."""
    digest = sha256_hex(canonical(found.as_json()))
    rows = []
    for one in received(place.anchor(), place.study_folder(digest) / "answers"):
        if isinstance(one, ResidencyError):
            rows.append({"site": "?", "kind": "does not hold", "at": "", "reason": f"{one.code} {one.message}"})
        elif one.study == digest:
            rows.append({"site": one.site, "kind": one.kind, "at": one.at, "reason": one.reason})
    decided = {row["site"] for row in rows if row["kind"] not in ("advice", "does not hold")}
    waits = [s.name for s in found.sites if s.name not in decided]
    return [*rows, *({"site": name, "kind": "waits", "at": "", "reason": ""} for name in waits)]


@study.command("sign")
@click.argument("file", type=FILE)
@key_option
@out_option
@command("residency.study.sign/1")
def sign(file: Path, key_file: Path, out: Path) -> Result:
    """Complete a YAML study (papers' digests, software, noise, time of issue) and sign it as the operator.

    \b
    Example: residency study sign study.yaml --key server/keys/operator.key --out study.json
    """
    signer = load_role(key_file, "operator", "sign a study")
    refuse_existing(out)
    mistakes, found = check_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    _must_be_operator(found, signer)
    not_ended(found)
    must_sign_at(signer, found.issued)
    envelope = seal(found.as_json(), signer)
    write_new(out, envelope.encode() + b"\n")
    lines = [*_shown(found), f"digest     {envelope.digest}", f"signed     {out}"]
    return Result({"digest": envelope.digest, "file": str(out), "study": found.as_json()}, lines)


@study.command("propose")
@click.argument("file", type=FILE)
@home_option
@command("residency.study.propose/1")
def propose(file: Path, home: Path) -> Result:
    """Check a signed study against the trust file, keep it in the operator's folder and record it in the log.

    \b
    Example: residency study propose study.json --home server
    """
    place = OperatorHome(home)
    place.config()
    anchor = place.anchor()
    data = read_bytes(file, "study")
    found, digest = open_study(anchor, data, str(file), now())
    check_members(found, anchor.trust)
    not_ended(found)
    kept = place.study_folder(digest) / "study.json"
    index, fresh = _record(place, anchor.trust, found, digest)
    if not fresh and kept.exists():
        raise InputError(
            "RSD-2009",
            f"study {found.name} was proposed already",
            rule="a study is proposed once",
            found=f"entry {index} of the operator's log",
            limit="a new study",
            next=f"collect the answers to {kept}, or sign another study",
        )
    if not kept.exists():
        write_new(kept, data)
    lines = [f"proposed   {found.name}, digest {digest}", f"kept       {kept}", f"log        entry {index}"]
    return Result({"digest": digest, "file": str(kept), "log_index": index}, lines)


def _record(place: OperatorHome, trust: Trust, found: Study, digest: str) -> tuple[int, bool]:
    """Index of the study's entry in the operator's log, and whether it was written now: a crash repeats nothing."""
    with LogStore.open(place.log_file, trust.log_origin(trust.operator.name), place.signer().private) as log:
        known = log.entries(study=digest, kind="study")
        if known:
            return known[0].index, False
        return log.append("study", {"name": found.name}, study=digest).index, True


def _must_be_operator(found: Study, signer: Signer) -> None:
    if signer.identity.holder != found.operator.name:
        raise Refused(
            "RSD-6008",
            "this key belongs to another operator than the study's",
            rule="a study is signed by its operator",
            found=signer.identity.holder,
            limit=found.operator.name,
            next="correct operator.name, or give that operator's key",
        )


def _unit(privacy: PrivacyTerms) -> str:
    if privacy.unit == "record":
        return "record"
    return f"patient, by column {privacy.group_column}, at most {privacy.records_per_unit} records of one in a step"


def _evaluation(found: Study) -> str:
    terms = found.evaluation
    if terms is None:
        return "none"
    cells = f"in {terms.bins} bins" if terms.bins else "by predicted class"
    noise = f"noise of {terms.noise_multiplier_micro / 1e6:g} counts"
    return f"once, of the final model: each site's counts {cells} with {noise}; its epsilon includes it"


def _reach(found: Study) -> list[str]:
    """Who can reach what a member holds from elsewhere, and who is a covered person."""
    reached = [f"{m.name} from {', '.join(m.access)}" for m in found.members if m.access]
    covered = [m.name for m in found.members if m.covered_person]
    return [
        *([f"access     {'; '.join(reached)}"] if reached else []),
        *([f"covered    {', '.join(covered)} (28 CFR 202.211, as declared)"] if covered else []),
    ]


def _groups(found: Study) -> list[str]:
    """The region groups, and what their sites will say to this study."""
    if not found.groups:
        return []
    return [
        *(f"group      {g.name}: {', '.join(g.sites)}" for g in found.groups),
        "           only sums of a group may leave it, and this version makes none: that takes secure aggregation.",
        "           The sites of a group will refuse the study, by the rule engine.group-export",
    ]


def _shown(found: Study) -> list[str]:
    privacy, training = found.privacy, found.training
    sites = [
        (
            s.name,
            s.jurisdiction,
            s.records_public,
            f"{s.batch}/{s.records_public}",
            f"{s.epsilon_milli / 1000:g}",
            f"{s.noise_multiplier_micro / 1e6:g}",
            s.weight,
        )
        for s in found.sites
    ]
    papers = [(d.id, d.kind, d.sha256[:12], d.expires, d.covers) for d in found.documents]
    return [
        f"study      {found.name} of consortium {found.consortium}: {found.purpose}",
        f"           {found.description}",
        f"operator   {found.operator.name} ({found.operator.jurisdiction})",
        f"term       {found.starts} to {found.ends}, issued {found.issued}",
        f"model      {found.model.name} {found.model.sha256[:12]}, {training.rounds} rounds of {training.steps} steps",
        f"privacy    per {_unit(privacy)} (add/remove one), delta 1/{privacy.inverse_delta}",
        f"           clip {privacy.clip_micro / 1e6:g}, noise pays for {privacy.spare_rounds} spare rounds",
        f"evaluation {_evaluation(found)}",
        f"quorum     {found.quorum.sites} of {len(found.sites)} sites; {found.quorum.witnesses} witnesses of each log",
        f"data       {', '.join(found.data_categories)}; controllers {', '.join(found.controllers)}",
        *_reach(found),
        *_groups(found),
        *table(["site", "in", f"{privacy.unit}s", "q", "epsilon", "noise", "weight"], sites),
        *table(["paper", "kind", "sha256", "expires", "covers"], papers),
    ]
