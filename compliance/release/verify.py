"""Verify a release offline. In this order; the first check that is false ends it.

 1. manifest: manifest.json is signed by an operator key of trust.json, valid when the bundle was made. Every file of
    the bundle is listed in it, none is missing, none is extra, each has the listed SHA-256 and size.
 2. trust: the manifest names exactly the trust file that was given, which comes from outside the bundle, carries its
    threshold of sites' signatures, and is in force at the time of judging.
 3. study: signed by the operator; of this consortium; its sites and its operator are members with the same
    jurisdictions; the bundle is not older than the study.
 4. answers: each contributing site has an approval by its signatory of exactly this study, on advice by its
    data-protection officer. Refusals are shown, and who refused has not contributed.
 5. software: each approval is for the package version and the bundle digest that the study names.
 6. packs: each site whose log is shown joined under a law set that its own signatory adopted, for its jurisdiction, on
    its data-protection officer's advice or with a reason, as the operator saw it; its decisions used exactly the packs
    and region sets of that set. Every pack and region set that a decision names is shown, by digest, and no pack had
    expired when it allowed. If the study names the verifier's own version, packs that bind and region sets are the
    installed ones; those of another version are the member's word.
 7. logs: the operator's and every contributing site's are shown. Each checkpoint is signed by its member's key and
    cosigned by as many as the study asks for who are neither the log's owner nor the operator; all leaf hashes lead
    to the root of each checkpoint; opened entries are what was hashed, and exactly those of the study that its last
    `close` entry counts; what other members logged as cosigned is a prefix; every entry that a roster names is there,
    with its leaf hash. Each contributing site joined this run; the manifest bears the time of the last entry, none is
    of the future.
 8. rosters: rounds 1 to the last without a gap, in term, signed by the operator and by the agent of every
    contributing site, a row for every site of the study, the study's privacy unit; the digest of each base is that of
    the result before, and those of the last results are those of the snapshots. The operator closed the study with
    these rosters; each contributing site logged them where it contributed, and no others; keys were valid then too.
 9. order: in each site's log approval < charge < commit < transfer and decision < transfer, for one round and attempt
    and one digest; one charge per attempt; no site's log holds a commit or transfer that a roster leaves out, that was
    not charged, or whose noise did not pass its checks. The operator sent each base to the roster's recipients. Study,
    advice and approval were logged before the first charge, with keys that were valid then too.
10. decisions: each transfer was allowed by both evaluators, about this exporter, recipient and artifact; each
    decision, taken again with the packs and region sets in the bundle, comes out the same. Each contribution's decision
    was told of all recipients of its round. No decision contradicts itself, and no rule of the engine allows.
    What was decided on is what the study says: parties and who can reach what they hold, papers, controllers,
    categories, groups and guarantees; each count of persons that is due is there, the edge of a bucket, of no fewer
    than the study says. It was decided for a time in the study's term, at most 15 minutes before the entry. An outside
    witness that cosigned a log whose owner denied it then is named, as the owner's word.
11. denials: whom a signed refusal or a shown decision denies the model is a recipient in no round, and no shown log
    records a transfer to it, whatever the rosters call it. The manifest clears the release for just those sites of the
    study whom the last decision of the operator, and of each contributing site about another, allows it, and of whom
    the decision on every update of a contributing site, and on every published count, was told.
12. privacy: each charge is of the study's noise, sampling rate and steps, within the reservation; eps over all charges
    of the study, failed attempts included, equals privacy.json and is at most the study's; so does the eps of a unit
    that k of the sites hold, composed of the same charges.
13. model: the layout is the one with which each contributing site joined; files equal, byte for byte, those made from
    the mean of the last snapshots; all values finite.
14. card: the model card equals, byte for byte, the one made from the evidence.
15. evaluation: there is one exactly if the study asks for it. Its record is signed and logged by the operator, is of
    the released model, and has a row for every site; each site in the sum signed its noised counts, charged, logged,
    decided and sent them once, with one digest; no shown log holds counts that the record leaves out without a reason;
    the figures and their intervals, derived again from the signed counts, are the record's, and none below the quorum.
16. statements: attestations/ holds three in-toto statements, each in a DSSE envelope that the operator's key signed,
    valid when the bundle was made: the run as SLSA provenance, the privacy ledger, a summary of steps 1 to 15. Each
    says, value by value, what is made from the evidence.
17. signature: model/model.sig, in the form of OpenSSF model signing, lists every other file of model/ by its SHA-256
    and verifies with attestations/model-signing.pem, for which the manifest vouches and nothing else.
18. materials: bom.cdx.json, a CycloneDX 1.6 bill of materials, equals, byte for byte, the one made from the evidence.
19. proofs: proofs/ holds just the inclusion proofs (C2SP tlog-proof) that the logs of step 7 give: of each log's close,
    the operator's last roster, and each contributing site's last commit and transfer; each leads from the entry's
    bytes to the log's checkpoint with its cosignatures.

Whatever is malformed inside the bundle makes its step false (exit 1). Keys are judged at the time of what they signed
and at that of the entry that records it; the trust file's expiry at the time of judging. Files are read before
(bundle_folder); here is no I/O but for the packs and region sets of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from compliance.canonical import Json, sha256_hex
from compliance.clock import rfc3339
from compliance.errors import CheckFailed, NoTrustAnchor, ResidencyError
from compliance.release import manifest as manifests
from compliance.release import (
    verify_attached,
    verify_decisions,
    verify_evaluation,
    verify_logs,
    verify_model,
    verify_packs,
    verify_privacy,
    verify_rounds,
    verify_signed,
)
from compliance.release.case import Contents, Context
from compliance.release.model_signature import KEY_FILE
from compliance.release.report import STEPS, Found, Report, Step, StepResult, step_error
from compliance.trust.root import Anchor

_CHECKS: tuple[Callable[[Contents, Context], Found], ...] = (
    verify_signed.manifest,
    verify_signed.trust,
    verify_signed.study,
    verify_signed.answered,
    verify_signed.software,
    verify_packs.packs,
    verify_logs.logs,
    verify_rounds.rosters,
    verify_rounds.order,
    verify_decisions.decisions,
    verify_decisions.denials,
    verify_privacy.privacy,
    verify_model.model,
    verify_model.model_card,
    verify_evaluation.evaluation,
    verify_attached.statements,
    verify_attached.signature,
    verify_attached.materials,
    verify_attached.proved,
)


def verify_bundle(
    files: Mapping[str, bytes], anchor: Anchor, at: datetime, told: Callable[[StepResult], None] = lambda _: None
) -> Report:
    """All steps on a bundle in memory. Never raises for what the bundle holds: see `Report.error` (exit code 1).

    `told` is called with each step's result as soon as it is known, in their order.
    """
    contents, context = Contents(files), Context(anchor, at)
    results: list[StepResult] = []
    failed: StepResult | None = None
    for step, check in zip(STEPS, _CHECKS, strict=True):
        if failed is None:
            result = _run(step, lambda check=check: check(contents, context))  # type: ignore[misc]
            failed = result if result.status == "FAIL" else None
        if failed is not None:  # a later step than the one that noticed may be the one that is false
            result = failed if failed.step == step else StepResult(step, "not run")
        results.append(result)
        told(result)
    error = failed.error if failed else None
    facts: dict[str, Json] = {"mode": "full", "at": rfc3339(at), "trust": anchor.digest}
    if error is None:
        sites = {s.site: s.epsilon_milli for s in contents.claims.sites}
        manifest = contents.envelope(manifests.PATH).digest
        facts |= {"study": contents.study_digest, "manifest": manifest, "epsilon_milli": sites}
        facts["model_key"] = sha256_hex(contents.file(KEY_FILE))
    return Report(tuple(results), facts, error)


def verify_integrity(files: Mapping[str, bytes]) -> Report:
    """What can be said without a trust file: the files are those of the manifest, whoever signed it. Exit 5, or 1."""
    contents = Contents(files)

    def intact() -> Found:
        manifests.check_form(contents.file(manifests.PATH))
        manifests.check_files(contents.manifest, files)
        return Found((f"{len(contents.manifest.files)} files are those of manifest.json, whoever signed it",))

    first = _run(STEPS[0], intact)
    if first.error is None:
        first = StepResult(first.step, "not judged", first.found)
    rest = tuple(StepResult(step, "not judged") for step in STEPS[1:])
    error: ResidencyError | None = first.error or NoTrustAnchor(
        "RSD-6015",
        "integrity only: without a trust file nobody's signature can be judged",
        rule="a bundle's own keys never vouch for it",
        found="no --trust",
        limit="trust.json, from a source other than the bundle's",
        next="ask a site of the consortium for trust.json and give --trust FILE",
    )
    return Report((first, *rest), {"mode": "integrity only"}, error)


def _run(step: Step, check: Callable[[], Found]) -> StepResult:
    try:
        return StepResult(step, "ok", check())
    except ResidencyError as e:
        guilty = next((s for s in STEPS if s.code == e.code and s.number > step.number), step)
        return StepResult(guilty, "FAIL", error=step_error(guilty, e))
    except RecursionError:
        nested = CheckFailed(step.code, "a file is nested too deeply to be read", rule="RFC 8259 section 9")
        return StepResult(step, "FAIL", error=step_error(step, nested))
