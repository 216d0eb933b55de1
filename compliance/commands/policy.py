"""`residency policy`: the limits of one site."""

from __future__ import annotations

import re
from datetime import timedelta
from importlib import resources
from pathlib import Path

import click

from compliance.answers import ADVICE, Advice, open_advice, read_advice
from compliance.canonical import Json
from compliance.cli import Result, command, table
from compliance.clock import now, rfc3339
from compliance.commands.shared import FILE, key_option, load_role, mistakes_result, must_sign_at, out_option
from compliance.errors import InputError, Refused
from compliance.files import read_bytes, refuse_existing, write_new
from compliance.identity import seal
from compliance.policy import SitePolicy
from compliance.policy_file import DECISION, PolicyDecision, check_policy_file, open_policy, policy_digest
from compliance.trust.root import NAME, Anchor, load_anchor
from compliance.validation import load_model


@click.group()
def policy() -> None:
    """The limits of a site: init, check, advise, sign, show."""


@policy.command("init")
@click.option("--site", required=True, help="Name of the site.")
@click.option("--jurisdiction", required=True, help="Country of the site and its data, e.g. DE.")
@out_option
@command("residency.policy.init/1")
def init(site: str, jurisdiction: str, out: Path) -> Result:
    """Write a commented policy to start from, naming the built-in law packs that bind the jurisdiction.

    \b
    Example: residency policy init --site charite --jurisdiction DE --out policy.yaml
    """
    packs = _packs_that_bind(site, jurisdiction)
    start = now()
    adopted = "\n".join(f"  - {{id: {name}, sha256: {digest}}}" for name, digest in sorted(packs.items()))
    template = (resources.files("compliance") / "templates" / "policy.yaml").read_text(encoding="utf-8")
    text = template.format(
        site=site,
        jurisdiction=jurisdiction,
        issued=rfc3339(start),
        expires=rfc3339(start + timedelta(days=365)),
        law_packs=adopted,
    )
    refuse_existing(out)
    write_new(out, text.encode())
    lines = [f"policy     {out} (law packs: {', '.join(sorted(packs))}; the numbers are an example: set your own)"]
    return Result({"file": str(out), "law_packs": packs}, lines)


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
@click.option("--favourable/--unfavourable", default=None, help="What the DPO advises; give one.")
@click.option("--text", required=True, help="The advice in words.")
@out_option
@command("residency.policy.advise/1")
def advise(file: Path, key_file: Path, favourable: bool | None, text: str, out: Path) -> Result:
    """Sign the data-protection officer's advice on a policy; the officer advises and does not decide.

    \b
    Example: residency policy advise policy.yaml --key office/dpo.key --favourable --text "Adequate." --out advice.json
    """
    if favourable is None:
        raise click.UsageError("give --favourable or --unfavourable")
    signer = load_role(key_file, "dpo", "advise")
    mistakes, found = check_policy_file(file)
    if found is None:
        return mistakes_result(file, mistakes)
    _must_be_own(found, signer.identity.holder)
    record = {
        "schema": ADVICE,
        "subject": "policy",
        "digest": policy_digest(found),
        "site": found.site,
        "at": must_sign_at(signer, rfc3339(now())),
        "favourable": favourable,
        "text": text,
    }
    envelope = seal(load_model(Advice, record, "RSD-2206", "advice").as_json(), signer)
    write_new(out, envelope.encode() + b"\n")
    word = "favourable" if favourable else "unfavourable"
    return Result({"digest": envelope.digest, "file": str(out)}, [f"{word} advice on policy of {found.site}: {out}"])


@policy.command("sign")
@click.argument("file", type=FILE)
@key_option
@click.option("--advice", "advice_file", type=FILE, help="The DPO's signed advice on this policy.")
@click.option("--trust", "trust_file", type=FILE, help="Also check that the site's DPO signed the advice.")
@click.option("--without-advice", "without", metavar="REASON", help="Why there is no advice.")
@click.option("--against-advice", "against", metavar="REASON", help="Why unfavourable advice is not followed.")
@out_option
@command("residency.policy.sign/1")
def sign(
    file: Path,
    key_file: Path,
    advice_file: Path | None,
    trust_file: Path | None,
    without: str | None,
    against: str | None,
    out: Path,
) -> Result:
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
    anchor = load_anchor(trust_file, now()) if trust_file else None
    decision = _decide(found, advice_file, anchor, without, against)
    reasons = seal(decision.as_json(), signer)
    signed = seal(found.as_json(), signer)
    data = signed.encode() + b"\n"
    if anchor:
        open_policy(anchor, data, str(out), found.site, now())
    beside = out.with_suffix(".decision.json")
    for path in (out, beside):
        refuse_existing(path)
    write_new(beside, reasons.encode() + b"\n")
    write_new(out, data)
    judged = "" if anchor else " (the advice's signature was not judged: no --trust)"
    lines = [f"policy     {out}, digest {signed.digest}", f"decision   {beside}{judged}"]
    return Result({"digest": signed.digest, "file": str(out), "decision_file": str(beside)}, lines)


def _packs_that_bind(site: str, jurisdiction: str) -> dict[str, str]:
    """Id and digest of the built-in packs for the jurisdiction. Raises InputError RSD-2007, RSD-2105."""
    from compliance.law.pack import builtin_packs  # noqa: PLC0415 - reads all packs

    if not re.fullmatch(NAME, site):
        raise InputError(
            "RSD-2007",
            "this is no name of a site",
            rule=NAME,
            found=site,
            limit="letters, digits and -",
            next="see trust.json",
        )
    every = builtin_packs()
    packs = {name: pack.digest for name, pack in every.items() if jurisdiction in pack.jurisdictions}
    if not packs:
        raise InputError(
            "RSD-2105",
            f"no built-in law pack binds {jurisdiction}",
            rule="a policy adopts at least one law pack",
            found=jurisdiction,
            limit=", ".join(sorted({j for pack in every.values() for j in pack.jurisdictions})),
            next="write a pack for this jurisdiction with counsel, and name its digest in the policy",
        )
    return packs


def _decide(
    found: SitePolicy, advice_file: Path | None, anchor: Anchor | None, without: str | None, against: str | None
) -> PolicyDecision:
    """Advice on exactly this policy, or a reason. Raises Refused RSD-2202, RSD-2203."""
    digest, favourable = "", False
    if advice_file is not None:
        data = read_bytes(advice_file, "advice")
        opened = (
            open_advice(anchor, data, str(advice_file), "policy", now())
            if anchor
            else read_advice(data, str(advice_file))
        )
        named = (opened.advice.subject, opened.advice.site, opened.advice.digest)
        wanted = ("policy", found.site, policy_digest(found))
        if named != wanted:
            raise _no_advice("the advice is on something else", " ".join(named), " ".join(wanted))
        digest, favourable = opened.digest, opened.advice.favourable
    elif not without:
        raise _no_advice("there is no advice on this policy", "neither", "--advice or --without-advice REASON")
    reason = (without if advice_file is None else against) or ""
    if digest and not favourable and not reason:
        raise Refused(
            "RSD-2203",
            f"signing the policy of {found.site} goes against the DPO's advice without a reason",
            rule="a decision against advice needs a logged reason",
            found="no reason",
            limit="a reason",
            next="give --against-advice REASON, or change the policy",
        )
    record = {
        "schema": DECISION,
        "policy": policy_digest(found),
        "site": found.site,
        "at": rfc3339(now()),
        "advice": digest,
        "favourable": favourable,
        "reason": reason,
    }
    return load_model(PolicyDecision, record, "RSD-2206", "decision")


def _no_advice(message: str, found: str, limit: str) -> Refused:
    return Refused(
        "RSD-2202",
        message,
        rule="GDPR Art 38(1): the DPO is involved in time",
        found=found,
        limit=limit,
        next="residency policy advise, then sign with --advice",
    )


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
