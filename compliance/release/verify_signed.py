"""Steps 1 to 5: signatures by people. Each takes the contents and what to judge by, and returns what it proved."""

from __future__ import annotations

from datetime import timedelta

from compliance import answers
from compliance.clock import parse_time, rfc3339
from compliance.errors import CheckFailed
from compliance.release.case import Contents, Context
from compliance.release.manifest import PATH, SCHEMA, check_files, check_form
from compliance.release.report import Found
from compliance.study import open_study

CLOCK_TOLERANCE = timedelta(minutes=10)  # between the clock of the last entry and the verifier's


def manifest(contents: Contents, context: Context) -> Found:
    """Step 1: integrity and the operator's signature, judged when the bundle was made."""
    trust = context.anchor.trust
    created = parse_time(contents.manifest.created, "created of the manifest")
    context.anchor.statement(contents.file(PATH), SCHEMA, PATH, role="operator", holder=trust.operator.name, at=created)
    check_form(contents.file(PATH))
    check_files(contents.manifest, contents.files)
    return Found((f"operator {trust.operator.name} signed {len(contents.manifest.files)} files; they are unchanged",))


def trust(contents: Contents, context: Context) -> Found:
    """Step 2: the bundle names exactly this trust file, which is in force at the time of judging."""
    anchor, claimed = context.anchor, contents.manifest.trust
    if claimed.sha256 != anchor.digest:
        raise _false(
            "RSD-9002",
            "the bundle was made under another trust file",
            rule="a bundle is judged by the trust file under which it was made",
            found=f"version {claimed.version}, {claimed.sha256[:16]}",
            limit=f"version {anchor.trust.version}, {anchor.digest[:16]}",
            next=f"ask the sites, outside this channel, for version {claimed.version} of the trust file and compare",
        )
    if context.at > parse_time(anchor.trust.expires):
        raise _false(
            "RSD-9002",
            "the trust file has expired",
            rule="trust expiry",
            found=rfc3339(context.at),
            limit=anchor.trust.expires,
            next="give --at with the time at which the bundle was relied on, or ask for a newer release",
        )
    if parse_time(contents.manifest.created) > context.at + CLOCK_TOLERANCE:
        raise _false(
            "RSD-9002",
            "the bundle is later than the time of judging",
            rule="no statement from the future",
            found=contents.manifest.created,
            limit=rfc3339(context.at),
            next="correct the clock, or give --at with a later time",
        )
    sites = f"{anchor.trust.threshold} of {len(anchor.trust.sites)} sites"
    return Found((f"trust version {anchor.trust.version} ({anchor.digest[:16]}) is signed by at least {sites}",))


def study(contents: Contents, context: Context) -> Found:
    """Step 3: signed by the operator, in term, its sites and operator are members in their jurisdictions."""
    members, at = context.anchor.trust, parse_time(contents.manifest.created)
    signed, found = open_study(context.anchor, contents.file("study.json"), "study.json")
    pairs: list[tuple[str, object, object]] = [
        ("the manifest is of another study", contents.manifest.study, found),
        ("the operator's jurisdiction differs", signed.operator.jurisdiction, members.operator.jurisdiction),
    ]
    for site in signed.sites:
        member = next((s for s in members.sites if s.name == site.name), None)
        held = member.jurisdiction if member else "no member"
        pairs.append((f"the jurisdiction of site {site.name} differs from the trust file's", site.jurisdiction, held))
    for message, claimed, limit in pairs:
        if claimed != limit:
            raise _false("RSD-9003", message, rule="study and trust file agree", found=claimed, limit=limit)
    if at < parse_time(signed.starts):
        raise _false("RSD-9003", "the bundle is older than the study", found=rfc3339(at), limit=signed.starts)
    who = tuple((s.name, "that it and its data are in the jurisdiction that the study names") for s in signed.sites)
    return Found((f"study {signed.name} ({found[:16]}) is signed by the operator",), who)


def answered(contents: Contents, context: Context) -> Found:
    """Step 4: approvals with advice for every contributing site; refusals are shown, and bind."""
    known = {s.name for s in contents.study.sites}
    for name in contents.under("answers"):
        site = name.split(".")[0]
        if site not in known:
            raise _false("RSD-9004", f"answers/{name} is of no site of the study", found=site, limit=sorted(known))
    proved = [_approved(contents, context, site) for site in contents.contributing]
    for site in sorted(known):
        path = f"answers/{site}.refusal.json"
        if path in contents.files:
            proved.append(_refused(contents, context, site, path))
    return Found(tuple(proved))


def _approved(contents: Contents, context: Context, site: str) -> str:
    path, advised = f"answers/{site}.approval.json", f"answers/{site}.advice.json"
    approval, _ = answers.open_approval(context.anchor, contents.file(path), path)
    advice = answers.open_advice(context.anchor, contents.file(advised), advised, "study")
    if advice.advice.site != site:
        raise _false("RSD-9004", f"{advised} is of another site", found=advice.advice.site, limit=site)
    # Software has a step of its own; the policy stays at the site, its digest stands in the approval.
    same_software = contents.study.model_copy(update={"software": approval.software})
    answers.check_approval(approval, contents.study_digest, same_software, site, approval.policy, advice)
    against = "" if advice.advice.favourable else ", against advice, with a reason"
    return f"the signatory of {site} approved this study on its DPO's advice{against}"


def _refused(contents: Contents, context: Context, site: str, path: str) -> str:
    refusal, _ = answers.open_refusal(context.anchor, contents.file(path), path)
    if (refusal.site, refusal.digest) != (site, contents.study_digest):
        raise _false("RSD-9004", f"{path} refuses something else", found=refusal.site, limit=site)
    if site in contents.contributing:
        raise _false("RSD-9004", f"{site} refused and yet contributed", found=path, limit="no contribution")
    return f"the signatory of {site} refused this study"


def software(contents: Contents, context: Context) -> Found:
    """Step 5: every approval is of the study's package version and of its code-free bundle's digest."""
    wanted = contents.study.software
    for site in contents.contributing:
        path = f"answers/{site}.approval.json"
        approval, _ = answers.open_approval(context.anchor, contents.file(path), path)
        for what, found, limit in (
            ("bundle digest", approval.software.bundle_sha256, wanted.bundle_sha256),
            ("version", approval.software.version, wanted.version),
        ):
            if found != limit:
                message = f"the approval of {site} is for software of another {what}"
                raise _false("RSD-9005", message, rule="an approval holds for one software", found=found, limit=limit)
    asserted = "that it ran version {} unmodified, and that the training code did what it says"
    who = tuple((site, asserted.format(wanted.version)) for site in contents.contributing)
    return Found((f"approvals name version {wanted.version} and bundle {wanted.bundle_sha256[:16]}",), who)


def _false(code: str, message: str, *, rule: str = "", found: object, limit: object, next: str = "") -> CheckFailed:
    return CheckFailed(code, message, rule=rule, found=found, limit=limit, next=next)
