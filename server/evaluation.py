"""The charged evaluation of the final model: ask the members once, add their noised counts, sign what came of it.

The record's file fixes the evaluation: before it the sites may be asked again, and answer with the same bytes; after it
nothing is decided again. Below the quorum the record says so and holds no figures; the run's model is released all the
same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compliance.canonical import Json, canonical, parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import CheckFailed, PeerUnreachable, Refused, ResidencyError
from compliance.evaluation.histogram import SCHEMA, Histogram
from compliance.evaluation.record import EvaluationRecord, EvaluationRow, derived
from compliance.identity import parse_envelope, seal
from compliance.messages import EvaluateReply, EvaluateRequest, decode, encode
from compliance.release.model_files import released_mean
from compliance.validation import load_model
from server.evaluation_view import below_quorum
from server.grid import Answer
from server.rounds import reason_of, still_members
from server.run_folder import damaged
from strategies.flat import Flat
from strategies.wire import Request

if TYPE_CHECKING:
    from server.coordinator import Run


def begin(r: Run) -> None:
    """Fix who is asked: no site that was removed meanwhile. On disk when this returns."""
    members, left_out = still_members(r)
    r.move("evaluating", members=members, left_out=left_out)


def evaluate(r: Run) -> None:
    """To the signed record, which is logged and in the folder when this returns."""
    fixed = r.folder.evaluation()
    if fixed is None:
        record = _settle(r)
        envelope = seal(record.as_json(), r.signer)
        r.folder.write_evaluation(envelope.encode())
    else:  # a crash came after the record: it stands
        record, envelope = fixed
    r.record("evaluation", {"digest": envelope.digest, "model_sha256": record.model_sha256})
    error = below_quorum(record, r.study.quorum.sites)
    shown: list[Json] = [
        {"site": w.site, "outcome": w.outcome, "reason": w.reason.code if w.reason else ""} for w in record.rows
    ]
    r.folder.event("evaluation", sites=shown, **({"error": error.as_json()} if error else {}))
    r.move("closing")


def _settle(r: Run) -> EvaluationRecord:
    """Ask the members and derive the figures; the histograms are in the folder when this returns."""
    flat, members = _final(r), r.state.members
    digest = sha256_hex(flat.data)
    message = EvaluateRequest(
        schema="residency.evaluate/1", run=r.folder.run, study=r.digest, recipients=members, model_sha256=digest
    )
    r.record("transfer", *(_transfer(r, site, digest) for site in members))
    request, limit_s = Request("evaluate", encode(message), flat), float(r.study.round_deadline_s)
    rows: dict[str, EvaluationRow] = {}
    histograms: dict[str, Histogram] = {}
    for site, answer in r.answers(dict.fromkeys(members, request), limit_s, dict.fromkeys(members, limit_s)):
        rows[site] = _row(r, site, answer, digest, histograms)
        r.folder.event("counted", site=site, outcome=rows[site].outcome)
    return EvaluationRecord(
        schema="residency.evaluation/1",
        study=r.digest,
        run=r.folder.run,
        at=rfc3339(now()),
        model_sha256=digest,
        recipients=members,
        rows=tuple(rows.get(s.name) or _missing(r, s.name) for s in r.study.sites),
        figures=derived(r.study, tuple(histograms.values())),
    )


def _final(r: Run) -> Flat:
    """The flat model that the release will hold: the mean of the last globals."""
    last, globals_ = r.study.training.rounds, []
    for number in range(last - r.study.aggregation.average_last_rounds + 1, last + 1):
        found = r.folder.roster(number)
        if found is None:
            raise damaged(f"the roster of round {number}", "no file", "a roster")
        globals_.append(r.folder.snapshot(number, found[0].result_sha256))
    return released_mean(globals_)


def _transfer(r: Run, site: str, digest: str) -> dict[str, Json]:
    return {
        "artifact": "aggregate",
        "recipient": site,
        "round": r.study.training.rounds + 1,
        "attempt": 1,
        "sha256": digest,
        "decision": r.state.allowed[site].index,
    }


def _row(r: Run, site: str, answer: Answer, digest: str, histograms: dict[str, Histogram]) -> EvaluationRow:
    if isinstance(answer, ResidencyError):
        return _without(r, site, answer)
    try:
        reply = decode(EvaluateReply, answer.body, f"the evaluation of {site}")
        histogram, signed = _opened(r, site, reply, digest)
        entries = (reply.charge, reply.evaluation, reply.decision, reply.transfer)
        r.desk.show(site, reply.offer, *entries)  # a log that does not continue covers nothing
    except ResidencyError as e:  # the site answered, and its answer is rejected here
        return EvaluationRow(site=site, jurisdiction=_jurisdiction(r, site), outcome="failed", reason=reason_of(e))
    r.folder.write_histogram(site, reply.histogram.encode("utf-8"))
    histograms[site] = histogram
    return EvaluationRow(
        site=site,
        jurisdiction=_jurisdiction(r, site),
        outcome="contributed",
        histogram_sha256=signed,
        charge=reply.charge,
        evaluation=reply.evaluation,
        decision=reply.decision,
        transfer=reply.transfer,
    )


def _opened(r: Run, site: str, reply: EvaluateReply, digest: str) -> tuple[Histogram, str]:
    """The site's counts: signed by its own agent, of this study, model and noise. Raises CheckFailed RSD-1265."""
    data, what = reply.histogram.encode("utf-8"), f"the histogram of {site}"
    envelope = parse_envelope(data, what)
    histogram = load_model(Histogram, parse_canonical(envelope.payload, what), "RSD-1265", what)
    differ = histogram.differences(r.study, r.digest, site, digest)
    if differ or reply.site != site or canonical(histogram.as_json()) != envelope.payload:
        name, found, limit = differ[0] if differ else ("site", reply.site, site)
        raise CheckFailed(
            "RSD-1265", f"{what} is of another {name} than was asked for",
            rule="the counts are those that the signed study asks for", found=found, limit=limit,
            next="compare the installed versions",
        )  # fmt: skip
    r.anchor.statement(data, SCHEMA, what, role="agent", holder=site, at=parse_time(histogram.at), seen_at=now())
    return histogram, envelope.digest


def _missing(r: Run, site: str) -> EvaluationRow:
    """The row of a site that is not asked."""
    for causes in (r.state.left_out, r.state.absent):
        if site in causes:
            return _without(r, site, causes[site].error())
    return _without(r, site, PeerUnreachable("RSD-6105", f"site {site} was not connected when the run began"))


def _without(r: Run, site: str, error: ResidencyError) -> EvaluationRow:
    outcome: Literal["refused", "failed", "late"] = "failed"
    if isinstance(error, Refused):
        outcome = "refused"
    elif isinstance(error, PeerUnreachable):
        outcome = "late"
    return EvaluationRow(site=site, jurisdiction=_jurisdiction(r, site), outcome=outcome, reason=reason_of(error))


def _jurisdiction(r: Run, site: str) -> str:
    return next(s.jurisdiction for s in r.study.sites if s.name == site)
