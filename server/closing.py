"""Between rounds and after the last: rosters countersigned, logs cosigned, studies closed at the sites, evidence."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from compliance.canonical import canonical
from compliance.errors import ResidencyError
from compliance.identity import Envelope, parse_envelope
from compliance.log.alarms import SILENT
from compliance.log.evidence import LogEvidence, build_evidence, closing_body
from compliance.messages import CloseReply, CloseRequest, WitnessReply, WitnessRequest, decode, encode
from compliance.roster import Roster
from server import quorum
from server.grid import Answer
from server.rounds import merge_signatures
from server.run_folder import damaged
from strategies.wire import Request

if TYPE_CHECKING:
    from server.coordinator import Run

SHORT_LIMIT_S = 120.0
EVIDENCE_PATIENCE_S = 120.0  # an agent that is being restarted holds evidence without which there is no release


def witness(r: Run, members: tuple[str, ...], round_: int | None, *, outside: bool = True) -> None:
    """Have the members countersign the round's roster (None: no roster) and cosign each other's checkpoints.

    A contributor that is away is waited for: without its signature there is no release. Asked again after a crash, a
    site signs the same roster again, and no other. `outside`: what is shown now is shown to outside witnesses first.
    """
    r.desk.begin_turn()
    if outside:
        _ask_outside(r, at_once=round_ is None)
    found = _roster(r, round_) if round_ is not None else None
    text = found[1].encode().decode("utf-8") if found else None
    wanted = {w.site for w in found[0].rows if w.outcome == "contributed"} if found else set()
    requests = {site: _witness_request(r, site, text) for site in members}
    signed: dict[str, bytes] = {}
    answers = r.ask(requests, SHORT_LIMIT_S, dict.fromkeys(wanted, SHORT_LIMIT_S), to_the_end=True)
    for site, answer in answers.items():
        countersigned = _witnessed(r, site, answer)
        if countersigned is not None:
            signed[site] = countersigned
    if round_ is not None and text is not None:
        r.folder.write_roster(round_, merge_signatures(r.anchor, text.encode("utf-8"), signed))
    r.desk.tell_silence(members, r.since, SILENT + timedelta(seconds=r.study.round_deadline_s))


def _ask_outside(r: Run, *, at_once: bool) -> None:
    """The outside witnesses cosign what is shown; one that fails is an event, and stops nothing."""
    for address, error in r.desk.ask_outside(r.outside, at_once=at_once):
        r.folder.event("unwitnessed", witness=address, error=error.as_json())


def _witness_request(r: Run, site: str, roster: str | None) -> Request:
    message = WitnessRequest(
        schema="residency.witness/1",
        study=r.digest,
        roster=roster,
        offers=r.desk.offers_for(site),
        cosigned=r.desk.lines_for(site),
    )
    return Request("witness", encode(message))


def _witnessed(r: Run, site: str, answer: Answer) -> bytes | None:
    """Take a site's cosignatures; returns the roster that it countersigned. What is wrong becomes an event."""
    try:
        reply = decode(WitnessReply, body_of(answer), f"witness reply of {site}")
        if reply.roster is not None:
            parse_envelope(reply.roster.encode("utf-8"), f"roster countersigned by {site}")
    except ResidencyError as e:
        r.folder.event("unwitnessed", site=site, error=e.as_json())
        return None
    for error in (*(r.desk.try_take(site, line) for line in reply.cosigned), r.desk.try_show(site, reply.offer)):
        if error is not None:
            r.folder.event("unwitnessed", site=site, error=error.as_json())
    for refused in reply.refused:
        r.folder.event("unwitnessed", site=site, reason=refused)
    return reply.roster.encode("utf-8") if reply.roster is not None else None


def body_of(answer: Answer) -> bytes:
    """The body of an answer, or the error that stands for it is raised."""
    if isinstance(answer, ResidencyError):
        raise answer
    return answer.body


def close(r: Run) -> None:
    """Close at every site that may have joined, have the last checkpoints cosigned, and collect the evidence.

    Done again after a crash it gives the same: each log holds one closing entry, and evidence is written whole.
    """
    rosters = [_roster(r, number) for number in range(1, r.state.last_closed + 1)]
    digests = tuple(envelope.digest for _, envelope in rosters)
    members, others = r.state.members, tuple(r.state.left_out)
    if r.state.phase == "joining":  # cancelled while sites joined: who answered is not known
        others = tuple(s.name for s in r.study.sites)
    if r.state.last_closed == r.study.training.rounds and not r.cancelled():  # else there is no release
        r.gatekeeper.release({*r.state.members, *r.state.left_out})
    _record_close(r, digests)
    left_out = close_at(r, others, digests, 0.0)
    closed = close_at(r, members, digests, EVIDENCE_PATIENCE_S)
    for site, reply in {**closed, **left_out}.items():
        r.desk.try_show(site, reply.offer)
    if r.cancelled():
        members = tuple(closed)  # a site that did not answer is not waited for again
    gave = {row.site for roster, _ in rosters for row in roster.rows if row.outcome == "contributed"}
    shown = (*members, *(s for s in left_out if s in gave))  # removed after a contribution, and let in again
    witness(r, shown, None)  # they cosign the closed logs
    witness(r, shown, None, outside=False)  # and get their own cosignatures back
    replies = close_at(r, shown, digests, EVIDENCE_PATIENCE_S)
    texts = {site: reply.evidence for site, reply in replies.items()}
    _write_evidence(r, {**texts, r.anchor.trust.operator.name: own_evidence(r)})


def _write_evidence(r: Run, texts: dict[str, str]) -> None:
    """The evidence, with what the outside witnesses cosign of it; logs below the study's quorum are told."""
    held: dict[str, LogEvidence] = {}
    for member, text in texts.items():
        r.folder.write_evidence(member, text)
        try:
            held[member] = quorum.of_member(r.anchor.trust, member, text)
        except ResidencyError as e:
            r.folder.event("no_evidence", site=member, error=e.as_json())
    if r.cancelled():
        return
    trust, wanted = r.anchor.trust, r.study.quorum.witnesses
    cosigned, errors = quorum.completed(r.outside, trust, wanted, held)
    for address, error in errors:
        r.folder.event("unwitnessed", witness=address, error=error.as_json())
    for member, evidence in cosigned.items():
        if evidence != held[member]:
            r.folder.write_evidence(member, quorum.encoded(evidence))
    for member, error in quorum.shortfalls(trust, wanted, cosigned).items():
        r.folder.event("below_witness_quorum", site=member, error=error.as_json())


def _roster(r: Run, number: int) -> tuple[Roster, Envelope]:
    found = r.folder.roster(number)
    if found is None:
        raise damaged(f"the roster of round {number}", "no file", "the roster that was closed")
    return found


def _record_close(r: Run, rosters: tuple[str, ...]) -> None:
    """One closing entry for what the log holds of the study now."""
    held = r.log.entries(0, study=r.digest)
    if not held or held[-1].kind != "close" or tuple(held[-1].body["rosters"]) != rosters:
        r.record("close", closing_body(held, rosters))


def close_at(r: Run, sites: tuple[str, ...], rosters: tuple[str, ...], patience_s: float) -> dict[str, CloseReply]:
    """Close the study at `sites`, so that what they held and did not spend is free; the replies of those who did."""
    request = Request("close", encode(CloseRequest(schema="residency.close/1", study=r.digest, rosters=rosters)))
    limit_s = max(SHORT_LIMIT_S, patience_s, _busy_s(r))
    closed: dict[str, CloseReply] = {}
    answers = r.ask(dict.fromkeys(sites, request), limit_s, dict.fromkeys(sites, patience_s), to_the_end=True)
    for site, answer in answers.items():
        try:
            closed[site] = decode(CloseReply, body_of(answer), f"close reply of {site}")
        except ResidencyError as e:
            r.folder.event("no_evidence", site=site, error=e.as_json())
    return closed


def _busy_s(r: Run) -> float:
    """How long a site may still be at work on what a cancelled run asked of it; it answers afterwards."""
    return float(r.study.round_deadline_s) if r.cancelled() else 0.0


def own_evidence(r: Run) -> str:
    """The operator's own log, as evidence."""
    closed = max(e.index for e in r.log.entries(0, study=r.digest, kind="close"))
    indices = [e.index for e in r.log.entries(0, closed + 1, study=r.digest)]
    return canonical(build_evidence(r.log, indices).model_dump(mode="json")).decode("utf-8")
