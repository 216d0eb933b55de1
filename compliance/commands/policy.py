"""`residency policy`: the limits of one site."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources
from pathlib import Path

import click

from compliance.answers import check_policy_owner
from compliance.canonical import Json
from compliance.cli import Result, command, table
from compliance.clock import now, rfc3339
from compliance.commands.advised import Given, Told, given_options, ground, seal_advice, told_options
from compliance.commands.shared import FILE, key_option, load_role, mistakes_result, must_sign_at, out_option
from compliance.errors import Refused
from compliance.files import read_bytes, refuse_existing, write_all_new, write_new
from compliance.identity import seal
from compliance.policy import SitePolicy
from compliance.policy_file import DECISION, PolicyDecision, check_policy_file, open_policy, policy_digest
from compliance.validation import load_model


@click.group()
def policy() -> None:
    """The limits of a site: init, check, advise, sign, show.

    \b
    Example: residency policy check policy.yaml
    """


@policy.command("init")
@click.option("--law", "law_file", type=FILE, required=True, help="The site's adopted law set: residency law adopt.")
@out_option
@command("residency.policy.init/1")
def init(law_file: Path, out: Path) -> Result:
    """Write a commented policy to start from, for the site, jurisdiction and law set of an adoption.

    \b
    Example: residency policy init --law law.json --out policy.yaml
    """
    from compliance.law.law_adoption import read_adoption  # noqa: PLC0415 - loads the law engine

    law_set = read_adoption(read_bytes(law_file, "law set"), str(law_file)).law_set
    start = now()
    template = (resources.files("compliance") / "templates" / "policy.yaml").read_text(encoding="utf-8")
    text = template.format(
        site=law_set.site,
        jurisdiction=law_set.jurisdiction,
        issued=rfc3339(start),
        expires=rfc3339(start + timedelta(days=365)),
        law_set=law_set.digest,
    )
    refuse_existing(out)
    write_new(out, text.encode())
    lines = [f"policy     {out} (law set {law_set.digest[:12]}; the numbers are an example: set your own)"]
    return Result({"file": str(out), "law_set": law_set.digest}, lines)


@policy.command("check")
@click.argument("file", type=FILE)
@command("residency.policy.check/1")
def check(file: Path) -> Result:
    """List every mistake in a policy with its line and field.

    \b
    Example: residency policy check policy.yaml
    """
    mistakes, found = check_policy_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    digest = policy_digest(found)
    return Result({"mistakes": [], "digest": digest}, [f"{file}: no mistakes; digest {digest}"])


@policy.command("show")
@click.argument("file", type=FILE)
@command("residency.policy.show/1")
def show(file: Path) -> Result:
    """Show the limits of a policy file, signed or not.

    \b
    Example: residency policy show policy.json
    """
    mistakes, found = check_policy_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    rows = [(name, _plain(value)) for name, value in found.as_json().items() if name != "schema"]
    digest = policy_digest(found)
    return Result({"policy": found.as_json(), "digest": digest}, [*table(["limit", "value"], rows), f"digest {digest}"])


@policy.command("advise")
@click.argument("file", type=FILE)
@key_option
@told_options
@out_option
@command("residency.policy.advise/1")
def advise(file: Path, key_file: Path, told: Told, out: Path) -> Result:
    """Sign the data-protection officer's advice on a policy; the officer advises and does not decide.

    \b
    Example: residency policy advise policy.yaml --key office/dpo.key --favourable --text "Adequate." --out advice.json
    """
    signer = load_role(key_file, "dpo", "advise")
    mistakes, found = check_policy_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    _must_be_own(found, signer.identity.holder)
    envelope = seal_advice(signer, "policy", policy_digest(found), told)
    write_new(out, envelope.encode() + b"\n")
    lines = [f"{told.word} advice on policy of {found.site}: {out}"]
    return Result({"digest": envelope.digest, "file": str(out)}, lines)


@policy.command("sign")
@click.argument("file", type=FILE)
@key_option
@given_options("policy")
@out_option
@command("residency.policy.sign/1")
def sign(file: Path, key_file: Path, given: Given, out: Path) -> Result:
    """Sign a policy. Beside --out, OUT.decision.json keeps, signed, on which advice or for which reason.

    \b
    Example: residency policy sign policy.yaml --key office/signatory.key --advice advice.json --out policy.json
    """
    signer = load_role(key_file, "signatory", "sign a policy")
    mistakes, found = check_policy_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    _must_be_own(found, signer.identity.holder)
    must_sign_at(signer, found.issued)
    on = ground("policy", policy_digest(found), found.site, given)
    record = {
        "schema": DECISION,
        "policy": policy_digest(found),
        "site": found.site,
        "at": rfc3339(now()),
        "advice": on.advice,
        "favourable": on.favourable,
        "reason": on.reason,
    }
    decision = load_model(PolicyDecision, record, "RSD-2206", "decision")
    reasons = seal(decision.as_json(), signer)
    signed = seal(found.as_json(), signer)
    data = signed.encode() + b"\n"
    if on.anchor:
        open_policy(on.anchor, data, str(out), found.site, now())
        check_policy_owner(found, found.site, on.anchor.trust.site(found.site).jurisdiction)
    beside = out.with_suffix(".decision.json")
    write_all_new({beside: reasons.encode() + b"\n", out: data})
    lines = [f"policy     {out}, digest {signed.digest}", f"decision   {beside}{on.judged}"]
    return Result({"digest": signed.digest, "file": str(out), "decision_file": str(beside)}, lines)


def _must_be_own(found: SitePolicy, holder: str) -> None:
    if found.site != holder:
        raise Refused(
            "RSD-2204",
            "this policy belongs to another site than the key",
            rule="a site decides about itself",
            found=f"key of {holder}",
            limit=found.site,
            next="give the key of the policy's own site",
        )


def _plain(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "any"
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    return str(value)
