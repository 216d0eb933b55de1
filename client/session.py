"""Answers the server's messages: join, round, evaluate, witness, close. Each is judged by what this site holds.

A refusal is logged here before it is answered, and reaches the operator as a code with its reason.
"""

from __future__ import annotations

from pathlib import Path

from client import contribution, evaluation, witnessing
from client.admission import Case, check_answers, check_extract, open_case, own_answers
from client.budget import check_sampler, plan, reserve
from client.closing import settle
from client.data import withdrawals
from client.denial import denied
from client.site import Site, open_site
from compliance.canonical import canonical
from compliance.errors import ResidencyError
from compliance.files import write_durably
from compliance.identity import parse_envelope
from compliance.law.model import Decision
from compliance.law.vocabulary import Artifact
from compliance.log.evidence import build_evidence
from compliance.messages import (
    CloseReply,
    CloseRequest,
    EvaluateRequest,
    JoinReply,
    JoinRequest,
    PeerDecision,
    RoundRequest,
    WitnessRequest,
    decode,
    encode,
    layout_digest,
    refuse_unknown,
)
from compliance.roster import EntryRef
from compliance.software import BUNDLE_SHA256
from compliance.study_transfer import SHOWN
from strategies.wire import Reply, Request, Vector

Message = JoinRequest | RoundRequest | EvaluateRequest | WitnessRequest | CloseRequest
# What a site sends besides updates: decided once at the join, for the whole study.
STANDING: tuple[Artifact, ...] = (
    *("dataset_descriptor", "conformance_report"),
    *("answer", "roster", "log_checkpoint", "log_export"),
)
# What the operator may pass on to a peer: decided for each peer.
DERIVED: tuple[Artifact, ...] = ("aggregate", "released_model")


def approved_bundles() -> frozenset[str]:
    """Digests of app bundles that this installation accepts: the one that it was released with."""
    return frozenset({BUNDLE_SHA256})


def handle(home: Path, request: Request, node_id: int) -> Reply:
    """Answer one message. Raises a ResidencyError for every refusal, after logging it."""
    del node_id  # the transport has authenticated the connection; nothing is decided by a number
    return answer(open_site(home), request)


def answer(site: Site, request: Request) -> Reply:
    """`handle` for an open site. A message that is malformed, or of no known kind, is refused and logged as well."""
    study = ""
    try:
        message = _read(request)
        study = _digest(message.study) if isinstance(message, JoinRequest) else message.study
        return _answered(site, message, request.array)
    except ResidencyError as e:
        site.record_refusal(e, study)
        raise


def _read(request: Request) -> Message:
    if request.kind == "join":
        return decode(JoinRequest, request.body, "join")
    if request.kind == "round":
        return decode(RoundRequest, request.body, "round")
    if request.kind == "evaluate":
        return decode(EvaluateRequest, request.body, "evaluate")
    if request.kind == "witness":
        return decode(WitnessRequest, request.body, "witness")
    if request.kind == "close":
        return decode(CloseRequest, request.body, "close")
    raise refuse_unknown(request.kind)


def _digest(study: str) -> str:
    return parse_envelope(study.encode("utf-8"), "study").digest


def _answered(site: Site, message: Message, array: Vector | None) -> Reply:
    if isinstance(message, JoinRequest):
        return join(site, message)
    if isinstance(message, RoundRequest):
        return contribution.contribute(site, message, array)
    if isinstance(message, EvaluateRequest):
        return evaluation.evaluate(site, message, array)
    if isinstance(message, WitnessRequest):
        return witnessing.witness(site, message)
    return close(site, message)


def join(site: Site, message: JoinRequest) -> Reply:
    """Judge the study whole, prepare the worker, reserve the budget, and log each step before answering.

    Asked again by the same run, after a crash of the server, it judges again, and reserves and records nothing twice.
    """
    data = message.study.encode("utf-8")
    case = open_case(site.home, data, "the proposed study")
    digest = case.digest
    site.check_not_restored(message.known)
    approval = check_answers(case, message.answers)
    check_extract(case)
    site.record_once("study", {"name": case.study.name}, digest)
    answers = own_answers(site.name, message.answers)
    for text in answers:
        _record_own_answer(site, text, digest)
    decisions = decide_all(site, case)
    plan(site.ledger, case)  # before the costly part; what is held is held only once the site can really train
    prepared = site.workbench.prepare(case, withdrawals.fresh_cache(site.home, case))
    check_sampler(case, prepared.layout)
    with site.home.changing_registry():  # a dataset is retired before this, and refused, or after the study was joined
        _judge_again(site, case, data)
        site.record_once("reservation", reserve(site, case), digest)
        write_durably(site.home.study_folder(digest) / "answers.json", canonical(list(answers)))
        write_durably(site.home.study_folder(digest) / "study.json", data)
    body = {
        "run": message.run,
        "approval_policy": approval.policy,
        "law_set": case.law.law_set.digest,
        "device": prepared.device,
        "layout_sha256": layout_digest(prepared.layout),
    }
    site.record_once("join", body, digest)
    reply = JoinReply(
        schema="residency.joined/1",
        site=site.name,
        layout=prepared.layout,
        device=prepared.device,
        decisions=decisions,
        adoption=case.law.adoption.decode("ascii").rstrip("\n"),
        law_advice=case.law.advice.decode("ascii").rstrip("\n"),
        offer=site.offer(),
    )
    return Reply(encode(reply))


def _judge_again(site: Site, case: Case, data: bytes) -> None:
    """Preparing takes its time: what was put into the cache after a withdrawal or a retirement goes.

    Raises what `open_case` raises: the study may be out of question by now.
    """
    stale = True
    try:
        open_case(site.home, data, "the proposed study")
        stale = not withdrawals.is_current(site.home, case)  # the next batch's case is a new one
    finally:
        if stale:
            withdrawals.purge_cache(site.home.study_folder(case.digest) / "cache")


def _record_own_answer(site: Site, text: str, study: str) -> None:
    envelope = parse_envelope(text.encode("utf-8"), "answer")
    statement = envelope.payload_type.removeprefix("application/vnd.residency.").split(".")[0]
    site.record_once("answer", {"statement": statement, "digest": envelope.digest, "site": site.name}, study)


def decide_all(site: Site, case: Case) -> tuple[PeerDecision, ...]:
    """Decide, before anything is trained, who may get what: the update, the metadata, and the models at each peer.

    Raises Refused RSD-3100 when the operator may not have the update or the metadata. A denied peer does not stop the
    study: the site's updates then go only into rounds whose recipients leave that peer out, and the release is not
    cleared for it. Nor does a denied outside witness: the operator may show checkpoints to the others only.
    """
    out, shown = [], list(case.peers())
    operator = case.operator()
    for witness in case.witnesses():
        decision, entry = site.decide(case, SHOWN, witness)
        out.append(peer_decision(decision, entry))
        shown += [witness] if decision.allow and witness not in shown else []
    for artifact in ("dp_update", *STANDING):
        decision, entry = site.decide(case, artifact, operator, tuple(shown) if artifact == SHOWN else ())
        if not decision.allow:
            raise denied(decision)
        out.append(peer_decision(decision, entry))
    for peer in case.peers():
        for artifact in DERIVED:
            decision, entry = site.decide(case, artifact, peer)
            out.append(peer_decision(decision, entry))
    return tuple(out)


def peer_decision(decision: Decision, entry: EntryRef) -> PeerDecision:
    """What the server learns of a decision: enough to leave a denied peer out and to cite the entry."""
    told = decision.transfer
    return PeerDecision(
        recipient=told.recipient, artifact=told.artifact, allow=decision.allow, rule=decision.rule,
        plain=decision.plain, entry=entry,
    )  # fmt: skip


def close(site: Site, message: CloseRequest) -> Reply:
    """The run is over: free what was reserved and not spent, then hand out the evidence of this study.

    The first needs only the join; what leaves is judged whole, as ever. Asked twice, it closes once; the second
    answer's evidence then stands under a checkpoint that others cosigned.
    """
    held, closed = settle(site, message.study)
    site.joined_case(message.study)
    indices = [e.index for e in held if e.index < closed]
    evidence = build_evidence(site.log, [*indices, closed])
    reply = CloseReply(
        schema="residency.closed/1",
        site=site.name,
        evidence=canonical(evidence.model_dump(mode="json")).decode("utf-8"),
        offer=site.offer(),
    )
    return Reply(encode(reply))
