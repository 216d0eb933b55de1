"""`residency study advise|approve|refuse|withdraw`: a site's signed answers, each made where that person's key is."""

from __future__ import annotations

from pathlib import Path

import click

from compliance.answers import (
    APPROVAL,
    REFUSAL,
    WITHDRAWAL,
    Approval,
    Refusal,
    Withdrawal,
    check_approval,
    check_policy_owner,
    open_advice,
    open_approval,
)
from compliance.canonical import parse_canonical
from compliance.cli import Result, command
from compliance.clock import now, rfc3339
from compliance.commands.advised import Told, check_against, seal_advice, told_options
from compliance.commands.shared import FILE, key_option, load_role, must_sign_at, out_option, signature, trust_option
from compliance.errors import CheckFailed, Refused
from compliance.files import read_bytes, refuse_existing, write_new
from compliance.identity import Signer, seal
from compliance.policy import check_study
from compliance.policy_file import open_policy
from compliance.study import SiteTerms, Study, open_study
from compliance.study_desk import check_members, check_noise, not_ended
from compliance.study_file import signed_envelope
from compliance.trust.root import Anchor, load_anchor
from compliance.validation import load_model


@click.command("advise")
@click.argument("file", type=FILE)
@key_option
@told_options
@trust_option
@out_option
@command("residency.study.advise/1")
def advise(file: Path, key_file: Path, told: Told, trust_file: Path | None, out: Path) -> Result:
    """Sign the data-protection officer's advice on a signed study; the officer advises and does not decide.

    \b
    Example: residency study advise study.json --key dpo.key --favourable --text "Proportionate." \\
               --trust trust.json --out advice.json
    """
    signer = load_role(key_file, "dpo", "advise")
    study, digest, judged = _read(file, trust_file)
    _own_terms(study, signer)
    envelope = seal_advice(signer, "study", digest, told)
    write_new(out, envelope.encode() + b"\n")
    said = f"{told.word} advice of {signer.identity.holder} on study {study.name} {digest[:12]}: {out}"
    lines = [said, *judged.lines]
    return Result({"digest": envelope.digest, "study": digest, "file": str(out), **judged.fields}, lines)


@click.command("approve")
@click.argument("file", type=FILE)
@key_option
@click.option("--advice", "advice_file", type=FILE, required=True, help="The DPO's signed advice on this study.")
@click.option("--policy", "policy_file", type=FILE, required=True, help="The site's signed policy.")
@click.option("--trust", "trust_file", type=FILE, required=True, help="The consortium's trust file.")
@click.option(
    "--against-advice", "against", metavar="REASON", default="", help="Why unfavourable advice is not followed."
)
@out_option
@command("residency.study.approve/1")
def approve(
    file: Path, key_file: Path, advice_file: Path, policy_file: Path, trust_file: Path, against: str, out: Path
) -> Result:
    """Sign the site's approval of a study that lies inside the site's policy, with the DPO's advice before you.

    \b
    Example: residency study approve study.json --key signatory.key --advice A --policy P --trust T --out approval.json
    """
    signer = load_role(key_file, "signatory", "approve a study")
    refuse_existing(out)
    anchor = load_anchor(trust_file, now())
    study, digest = open_study(anchor, read_bytes(file, "study"), str(file), now())
    policy_digest = _inside_policy(anchor, study, signer, policy_file)
    advice = open_advice(anchor, read_bytes(advice_file, "advice"), str(advice_file), "study", now())
    check_against(advice.advice, against)
    record = {
        "schema": APPROVAL,
        "subject": "study",
        "digest": digest,
        "site": signer.identity.holder,
        "at": must_sign_at(signer, rfc3339(now())),
        "advice": advice.digest,
        "against_advice_reason": against,
        "policy": policy_digest,
        "software": study.software.model_dump(mode="json"),
    }
    approval = load_model(Approval, record, "RSD-2206", "approval")
    check_approval(approval, digest, study, signer.identity.holder, policy_digest, advice)
    envelope = seal(approval.as_json(), signer)
    data = envelope.encode() + b"\n"
    # Nobody would accept an approval by a key that trust.json does not list.
    open_approval(anchor, data, str(out), now())
    write_new(out, data)
    lines = [
        f"approved   study {study.name} {digest[:12]} for {signer.identity.holder}, under policy {policy_digest[:12]}"
    ]
    return Result({"digest": envelope.digest, "study": digest, "file": str(out)}, [*lines, f"file       {out}"])


@click.command("refuse")
@click.argument("file", type=FILE)
@key_option
@click.option("--reason", required=True, help="Why the site does not take part.")
@trust_option
@out_option
@command("residency.study.refuse/1")
def refuse(file: Path, key_file: Path, reason: str, trust_file: Path | None, out: Path) -> Result:
    """Sign the site's refusal of a study, with the reason; it is final for that study.

    \b
    Example: residency study refuse study.json --key signatory.key --reason "No ethics opinion." --out refusal.json
    """
    return _declined(file, trust_file, load_role(key_file, "signatory", "refuse a study"), reason, out, Refusal)


@click.command("withdraw")
@click.argument("file", type=FILE)
@key_option
@click.option("--reason", required=True, help="Why the site's approval is taken back.")
@trust_option
@out_option
@command("residency.study.withdraw/1")
def withdraw(file: Path, key_file: Path, reason: str, trust_file: Path | None, out: Path) -> Result:
    """Sign the withdrawal of the site's approval of a study, with the reason; it is final for that study.

    \b
    Example: residency study withdraw study.json --key signatory.key --reason "Incident at our site." --out back.json
    """
    signer = load_role(key_file, "signatory", "withdraw from a study")
    return _declined(file, trust_file, signer, reason, out, Withdrawal)


def _declined(
    file: Path,
    trust_file: Path | None,
    signer: Signer,
    reason: str,
    out: Path,
    model: type[Refusal] | type[Withdrawal],
) -> Result:
    schema, done = {Refusal: (REFUSAL, "refused"), Withdrawal: (WITHDRAWAL, "withdrawn")}[model]
    study, digest, judged = _read(file, trust_file)
    _own_terms(study, signer)
    record = {
        "schema": schema,
        "subject": "study",
        "digest": digest,
        "site": signer.identity.holder,
        "at": must_sign_at(signer, rfc3339(now())),
        "reason": reason,
    }
    envelope = seal(load_model(model, record, "RSD-2206", "answer").as_json(), signer)
    write_new(out, envelope.encode() + b"\n")
    lines = [f"{done:<10} study {study.name} {digest[:12]} for {signer.identity.holder}: {out}", *judged.lines]
    return Result({"digest": envelope.digest, "study": digest, "file": str(out), **judged.fields}, lines)


def _read(file: Path, trust_file: Path | None) -> tuple[Study, str, Result]:
    """A study that somebody signed, its digest, and what is to be said of the signature.

    With a trust file it must be the operator's; without one nobody judges whose it is. Raises what `open_study` raises,
    CheckFailed RSD-6011 for a study without a signature.
    """
    if trust_file is not None:
        study, digest = open_study(load_anchor(trust_file, now()), read_bytes(file, "study"), str(file), now())
        return study, digest, signature(holds=True)
    envelope = signed_envelope(file)
    if not envelope.signatures:
        raise CheckFailed(
            "RSD-6011",
            f"nobody signed {file}",
            rule="people answer to a study that its operator signed",
            found="no signature",
            limit="the operator's signature",
            next="ask the operator for the file that residency study sign wrote",
        )
    study = load_model(Study, parse_canonical(envelope.payload, str(file)), "RSD-2007", str(file))
    return study, envelope.digest, signature(holds=False)


def _inside_policy(anchor: Anchor, study: Study, signer: Signer, policy_file: Path) -> str:
    """Digest of the site's policy, if the study lies inside it and is otherwise as the trust file says."""
    site = signer.identity.holder
    terms = _own_terms(study, signer)
    check_members(study, anchor.trust)
    not_ended(study)
    policy, digest = open_policy(anchor, read_bytes(policy_file, "policy"), str(policy_file), site, now())
    check_policy_owner(policy, site, anchor.trust.site(site).jurisdiction)
    check_study(policy, study)
    check_noise(study, terms)
    return digest


def _own_terms(study: Study, signer: Signer) -> SiteTerms:
    terms = study.site(signer.identity.holder)
    if terms is None:
        raise Refused(
            "RSD-2102",
            f"study {study.name} does not list site {signer.identity.holder}",
            rule="a site answers about itself",
            found=", ".join(s.name for s in study.sites),
            limit=signer.identity.holder,
            next="ask the operator for a study that names this site",
        )
    return terms
