"""One run, from join to evidence. The server adds, records and relays; it decides nothing for a site."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from compliance.canonical import Json, canonical
from compliance.clock import now
from compliance.errors import ResidencyError, RunFailed
from compliance.identity import Signer, load_signer, parse_envelope
from compliance.log.evidence import build_evidence, closing_body
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    WitnessReply,
    WitnessRequest,
    decode,
    encode,
)
from compliance.roster import EntryRef
from compliance.study import Study, open_study
from compliance.trust.root import Anchor, load_anchor
from server.gatekeeper import Gatekeeper
from server.grid import FastGrid
from server.rounds import Rounds, merge_signatures, round_of
from server.run_folder import RunFolder, active_run
from server.witness_desk import WitnessDesk
from strategies.wire import Reply, Request

JOIN_LIMIT_S = 900.0  # a site computes its frozen layers while it joins
SHORT_LIMIT_S = 120.0
EVIDENCE_LIMIT_S = 120.0
NOT_CONNECTED = "RSD-6105"
_RETRY_S = 1.0


class Run:
    """What the steps of one run share."""

    def __init__(self, grid: FastGrid, home: Path, folder: RunFolder, stack: ExitStack) -> None:
        self.grid, self.home, self.folder = grid, home, folder
        self.anchor: Anchor = load_anchor(home / "trust.json", now())
        self.signer: Signer = load_signer(home / "keys" / "operator.key")
        self.study: Study
        self.study, self.digest = open_study(self.anchor, folder.study().rstrip(b"\n"), "study.json", now())
        trust = self.anchor.trust
        origin = trust.log_origin(trust.operator.name)
        self.log: LogStore = stack.enter_context(LogStore.open(home / "log.db", origin, self.signer.private))
        name = trust.witness_name(trust.operator.name)
        witness = stack.enter_context(WitnessStore(home / "witness.db", name, self.signer.private))
        self.desk = WitnessDesk(self.anchor, self.log, witness)
        self.nodes = folder.nodes()
        self.absent: dict[str, ResidencyError] = {}
        self.left_out: dict[str, tuple[ResidencyError, tuple[EntryRef, ...]]] = {}

    def record(self, kind: str, body: dict[str, Json]) -> EntryRef:
        """Append to the operator's log; on disk when it returns."""
        added = self.log.append(kind, body, self.digest)
        return EntryRef(origin=self.log.origin, index=added.index, leaf=added.leaf_hash.hex())

    def ask(self, requests: dict[str, Request], limit_s: float) -> dict[str, Reply | ResidencyError]:
        """Ask sites by name; every site gets an answer or the error that stands for it."""
        names = {self.nodes[site]: site for site in requests}
        answers = self.grid.ask({self.nodes[site]: r for site, r in requests.items()}, limit_s)
        return {names[node]: answer for node, answer in answers}


def run(grid: FastGrid, home: Path, study: str) -> None:
    """Coordinate the run of `study` that was started last; its folder tells how it ended, and an error ends it."""
    folder = active_run(home, study)
    with ExitStack() as stack:
        try:
            _run(Run(grid, home, folder, stack))
        except ResidencyError as e:
            folder.event("failed", error=e.as_json())
            finish(folder, study, "failed", 0, e)
            raise


def _run(r: Run) -> None:
    joined = join(r)
    allowed, verdicts = Gatekeeper(r.study, r.digest, r.log).judge(joined)
    for name, verdict in verdicts.items():
        r.left_out[name] = (verdict.error, verdict.entries)
        r.folder.event("refused", site=name, error=verdict.error.as_json())
    members = tuple(s.name for s in r.study.sites if s.name in allowed)
    check_quorum(r, len(members), "joined and may be sent the model")
    r.folder.event("joined", sites=list(members))
    rounds = Rounds(r, members, allowed, joined[members[0]].layout)
    for number in range(1, r.study.training.rounds + 1):
        roster = rounds.play(number)
        witness(r, members, roster)
    close(r, members, rounds.rosters)
    finish(r.folder, r.digest, "finished", r.study.training.rounds, None)


def join(r: Run) -> dict[str, JoinReply]:
    """Ask every site of the study to join; a refusal is kept with its reason. Layouts must agree."""
    joined: dict[str, JoinReply] = {}
    asked = {s.name: _join_request(r, s.name) for s in r.study.sites if s.name in r.nodes}
    for site, answer in r.ask(asked, JOIN_LIMIT_S).items():
        try:
            joined[site] = _joined(r, site, answer, joined)
        except ResidencyError as e:
            r.absent[site] = e
            r.folder.event("absent", site=site, error=e.as_json())
    return joined


def _join_request(r: Run, site: str) -> Request:
    """The signed study, all answers, and what was last seen of the site's log, so that a restored site notices."""
    message = JoinRequest(
        schema="residency.join/1",
        run=r.folder.run,
        study=r.folder.study().decode("utf-8").rstrip("\n"),
        answers=r.folder.answers(),
        known=r.desk.last_note(site),
    )
    return Request("join", encode(message))


def _joined(r: Run, site: str, answer: Reply | ResidencyError, others: dict[str, JoinReply]) -> JoinReply:
    if isinstance(answer, ResidencyError):
        raise answer
    reply = decode(JoinReply, answer.body, f"join reply of {site}")
    if reply.site != site:
        raise RunFailed("RSD-8202", f"the reply of {site} is not of that site", found=reply.site, limit=site)
    first = next(iter(others.values()), None)
    if first is not None and reply.layout != first.layout:
        raise RunFailed(
            "RSD-8201",
            f"site {reply.site} trains other parameters than {first.site}",
            rule="the model's layout is the same at every site",
            found=f"{len(reply.layout)} arrays",
            limit=f"{len(first.layout)} arrays",
            next="compare the model folders and the installed versions",
        )
    r.desk.show(site, reply.offer)
    return reply


def check_quorum(r: Run, found: int, what: str) -> None:
    """Raise RunFailed RSD-8200 below the study's quorum, with every site's reason."""
    if found >= r.study.quorum.sites:
        return
    reasons = {**r.absent, **{name: error for name, (error, _) in r.left_out.items()}}
    told = "; ".join(f"{site}: {e.code} {e.message}" for site, e in sorted(reasons.items()))
    raise RunFailed(
        "RSD-8200",
        f"too few sites {what}: {told or 'no reason known'}",
        rule="study.quorum.sites",
        found=found,
        limit=r.study.quorum.sites,
        next="remove the reasons, then start a new run",
    )


def witness(r: Run, members: tuple[str, ...], roster: bytes | None) -> None:
    """Have the members countersign the roster and cosign each other's checkpoints."""
    text = roster.decode("utf-8") if roster is not None else None
    requests = {
        site: Request(
            "witness",
            encode(
                WitnessRequest(
                    schema="residency.witness/1",
                    study=r.digest,
                    roster=text,
                    offers=r.desk.offers_for(site),
                    cosigned=r.desk.lines_for(site),
                )
            ),
        )
        for site in members
    }
    rosters: dict[str, bytes] = {}
    for site, answer in r.ask(requests, SHORT_LIMIT_S).items():
        try:
            reply = decode(WitnessReply, body_of(answer), f"witness reply of {site}")
            if reply.roster is not None:
                parse_envelope(reply.roster.encode("utf-8"), f"roster countersigned by {site}")
        except ResidencyError as e:
            r.folder.event("unwitnessed", site=site, error=e.as_json())
            continue
        for error in (*(r.desk.try_take(site, line) for line in reply.cosigned), r.desk.try_show(site, reply.offer)):
            if error is not None:
                r.folder.event("unwitnessed", site=site, error=error.as_json())
        for refused in reply.refused:
            r.folder.event("unwitnessed", site=site, reason=refused)
        if reply.roster is not None:
            rosters[site] = reply.roster.encode("utf-8")
    if roster is not None:
        r.folder.write_roster(round_of(roster), merge_signatures(r.anchor, roster, rosters))


def body_of(answer: Reply | ResidencyError) -> bytes:
    """The body of an answer, or the error that stands for it is raised."""
    if isinstance(answer, ResidencyError):
        raise answer
    return answer.body


def close(r: Run, members: tuple[str, ...], rosters: tuple[str, ...]) -> None:
    """Close at every site that joined, have the last checkpoints cosigned, and collect the evidence of all logs."""
    r.record("close", closing_body(r.log.entries(0, study=r.digest), rosters))
    left_out = close_at(r, tuple(r.left_out), rosters)
    for site, reply in {**close_at(r, members, rosters, EVIDENCE_LIMIT_S), **left_out}.items():
        r.desk.try_show(site, reply.offer)
    witness(r, members, None)  # the members cosign the closed logs
    witness(r, members, None)  # and get their own cosignatures back
    for site, reply in close_at(r, members, rosters, EVIDENCE_LIMIT_S).items():
        r.folder.write_evidence(site, reply.evidence)
    r.folder.write_evidence(r.anchor.trust.operator.name, own_evidence(r))


def close_at(r: Run, sites: tuple[str, ...], rosters: tuple[str, ...], wait_s: float = 0.0) -> dict[str, CloseReply]:
    """Close the study at `sites`, so that what they held and did not spend is free; the replies of those who did.

    A site that is not connected is asked again for `wait_s`: an agent that is being restarted holds evidence without
    which there is no release.
    """
    request = Request("close", encode(CloseRequest(schema="residency.close/1", study=r.digest, rosters=rosters)))
    closed: dict[str, CloseReply] = {}
    missing: dict[str, ResidencyError] = {}
    asked, end = sites, time.monotonic() + wait_s
    while asked:
        for site, answer in r.ask(dict.fromkeys(asked, request), SHORT_LIMIT_S).items():
            try:
                closed[site] = decode(CloseReply, body_of(answer), f"close reply of {site}")
                missing.pop(site, None)
            except ResidencyError as e:
                missing[site] = e
        asked = tuple(s for s, e in missing.items() if e.code == NOT_CONNECTED and time.monotonic() < end)
        if asked:
            time.sleep(_RETRY_S)
    for site, error in missing.items():
        r.folder.event("no_evidence", site=site, error=error.as_json())
    return closed


def own_evidence(r: Run) -> str:
    """The operator's own log, as evidence."""
    closed = max(e.index for e in r.log.entries(0, study=r.digest, kind="close"))
    indices = [e.index for e in r.log.entries(0, closed + 1, study=r.digest)]
    return canonical(build_evidence(r.log, indices).model_dump(mode="json")).decode("utf-8")


def finish(folder: RunFolder, study: str, outcome: str, rounds: int, error: ResidencyError | None) -> None:
    """Write result.json, the last thing of a run."""
    folder.write_json(
        "result.json",
        {
            "schema": "residency.run/1",
            "run": folder.run,
            "study": study,
            "outcome": outcome,
            "rounds": rounds,
            "error": {**error.as_json(), "exit": str(error.exit_code)} if error else None,
        },
    )
    folder.event("ended", outcome=outcome)
