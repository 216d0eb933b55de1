"""One run, from join to evidence, as steps that are each on disk before the next: a restart goes on where it stopped.

The server adds, records and relays; it decides nothing for a site. What is repeated after a crash gives the same
result: the sites answer a repeated question as the first, and a roster is fixed in the folder before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from compliance.canonical import Json
from compliance.clock import now
from compliance.counting import Tally
from compliance.errors import EnvironmentFault, PeerUnreachable, Refused, ResidencyError, RunFailed
from compliance.identity import Signer, load_signer
from compliance.log.store import Draft, LogStore
from compliance.log.witness import WitnessStore
from compliance.messages import JoinReply, JoinRequest, decode, encode
from compliance.study import Study, open_study
from compliance.trust.root import Anchor, load_anchor
from server import adoptions, evaluation, layouts
from server.closing import close, witness
from server.gatekeeper import Gatekeeper
from server.grid import Answer, FastGrid
from server.law import operator_engine
from server.members import Members
from server.outside_witnesses import OutsideWitnesses
from server.quorum import check_possible
from server.rounds import Rounds
from server.run_folder import RunFolder, active_run
from server.run_state import Cause, Phase, end_of
from server.witness_desk import WitnessDesk
from server.witness_gate import Cleared, WitnessGate, cleared_by
from strategies.wire import Request

JOIN_LIMIT_S = 900.0  # a site computes its frozen layers while it joins
JOIN_PATIENCE_S = 60.0  # for a site that is away when it is asked, or while it joins


class _Standing(Protocol):
    """Who may take part now."""

    def removed(self, site: str) -> Refused | None:
        """Why the site may not; None if it may."""


class Run:
    """What the steps of one run share."""

    def __init__(self, grid: FastGrid, home: Path, folder: RunFolder, stack: ExitStack) -> None:
        self.grid, self.home, self.folder = grid, home, folder
        self.state = folder.state()
        self.anchor: Anchor = load_anchor(home / "trust.json", now())
        self.signer: Signer = load_signer(home / "keys" / "operator.key")
        self.study: Study
        self.study, self.digest = open_study(self.anchor, folder.study().rstrip(b"\n"), "study.json", now())
        trust = self.anchor.trust
        origin = trust.log_origin(trust.operator.name)
        self.log: LogStore = stack.enter_context(LogStore.open(home / "log.db", origin, self.signer.private))
        name = trust.witness_name(trust.operator.name)
        witness_store = stack.enter_context(WitnessStore(home / "witness.db", name, self.signer.private))
        self.desk = WitnessDesk(self.anchor, self.log, witness_store, self.digest)
        self.since = now()
        members = Members(home)
        self.standing: _Standing = members
        self.nodes = folder.nodes()
        tally = Tally(home / "counters.db", self.log)
        self.law = adoptions.of_run(self.anchor, folder)
        engine = operator_engine(self.law.law_set if self.law else None)
        self.gatekeeper = Gatekeeper(self.study, self.digest, self.log, tally, engine)
        self.cleared: Cleared = self.state.cleared
        self.witness_gate = WitnessGate(
            lambda: members.usable().trust, self.study, self.gatekeeper, lambda: self.cleared
        )
        self.outside = OutsideWitnesses(home, trust, self.witness_gate)
        self._earlier = [(e.kind, e.body) for e in self.log.entries(0, study=self.digest)]

    def move(self, phase: Phase, **changes: object) -> None:
        """Take one step; it is on disk when this returns."""
        state = self.state.moved(phase, **changes)
        self.folder.write_state(state)
        self.state = state

    def record(self, kind: str, *bodies: dict[str, Json]) -> None:
        """Append to the operator's log what a process before this one has not: a step done again adds nothing."""
        self.log.append_many([Draft(kind, body, self.digest) for body in bodies if (kind, body) not in self._earlier])

    def cancelled(self) -> ResidencyError | None:
        """The answer of everybody who has not answered when the operator cancels; None as long as he does not."""
        cancel = self.folder.cancel()
        if cancel is None:
            return None
        return PeerUnreachable(
            "RSD-8303",
            "the run was cancelled before the answer came",
            rule="the operator may end a run",
            found="no answer",
            limit=f"cancelled at {cancel.at}",
        )

    def answers(
        self, requests: dict[str, Request], limit_s: float, patience_s: Mapping[str, float], *, to_the_end: bool = False
    ) -> Iterator[tuple[str, Answer]]:
        """Ask sites by name; each site's answer, or the error that stands for it, once, in the order of arrival.

        `patience_s`: for how long a site that is away is waited for. `to_the_end`: a cancelled run waits as well.
        """
        here = [site for site in requests if site in self.nodes]
        for site in requests.keys() - here:
            yield site, PeerUnreachable("RSD-6105", f"site {site} was not connected when the run began")
        names = {self.nodes[site]: site for site in here}
        patience = {self.nodes[site]: s for site, s in patience_s.items() if site in self.nodes}
        by_node = {self.nodes[site]: requests[site] for site in here}
        stop = _never if to_the_end else self.cancelled
        for node, answer in self.grid.ask(by_node, limit_s, patience, stop, names):
            yield names[node], answer

    def ask(
        self, requests: dict[str, Request], limit_s: float, patience_s: Mapping[str, float], *, to_the_end: bool = False
    ) -> dict[str, Answer]:
        """`answers`, all of them."""
        return dict(self.answers(requests, limit_s, patience_s, to_the_end=to_the_end))


def _never() -> None:
    """Nothing stops the asking."""


def run(grid: FastGrid, home: Path, study: str) -> None:
    """Coordinate the newest run of `study` from where its folder stands to its end; the folder tells how it ended.

    An error ends the run as failed, and is raised; but what is wrong with this machine or its connections
    (EnvironmentFault, PeerUnreachable, anything unforeseen) leaves the run as it is, to be gone on with.
    """
    folder = active_run(home, study)
    with folder.coordinating(), ExitStack() as stack:
        if folder.ended:
            return
        try:
            _run(Run(grid, home, folder, stack))
        except (EnvironmentFault, PeerUnreachable) as e:
            folder.event("interrupted", error=e.as_json())
            raise
        except ResidencyError as e:
            folder.event("failed", error=e.as_json())
            folder.finish("failed", folder.state().last_closed, end_of(e))
            raise


def _run(r: Run) -> None:
    if r.state.phase == "joining" and not r.cancelled():
        join(r)
    rounds: Rounds | None = None
    while r.state.phase not in {"joining", "closing"}:
        rounds = rounds or Rounds(r)
        step(r, rounds)
    close(r)
    cancel = r.folder.cancel()
    if cancel is None:
        r.folder.finish("finished", r.state.last_closed, None)
        return
    error = RunFailed(
        "RSD-8302",
        f"the run was cancelled: {cancel.reason}",
        rule="the operator may end a run",
        found=cancel.at,
        next="a study that was closed at its sites is over: propose a new study",
    )
    r.folder.finish("cancelled", r.state.last_closed, end_of(error))


def step(r: Run, rounds: Rounds) -> None:
    """One step from where the run stands; its result is on disk when this returns."""
    state = r.state
    if state.phase == "sent":
        rounds.play()
    elif state.phase == "closed":
        if not r.cancelled():
            rounds.check_quorum()
        witness(r, state.members, state.round)
        r.move("witnessed")
    elif r.cancelled():
        r.move("closing")
    elif state.phase == "evaluating":
        evaluation.evaluate(r)
    elif state.round == r.study.training.rounds:
        if r.study.evaluation is None:
            r.move("closing")
        else:
            evaluation.begin(r)
    else:
        rounds.begin()


def join(r: Run) -> None:
    """Ask every site of the study to join, and decide who may be sent the model. Raises RunFailed RSD-8200."""
    if r.law is not None:
        r.record("law", adoptions.body(r.law))
    joined, absent = _ask_to_join(r)
    if r.cancelled():
        return
    r.record("law", *adoptions.keep(r.folder, joined.values()))
    allowed, verdicts = r.gatekeeper.judge(joined)
    for name, verdict in verdicts.items():
        r.folder.event("refused", site=name, error=verdict.error.as_json())
    members = tuple(s.name for s in r.study.sites if s.name in allowed)
    left_out = {name: Cause.of(v.error, v.entries) for name, v in verdicts.items()}
    check_quorum(r, members, {**absent, **left_out}, "joined and may be sent the model")
    r.cleared = cleared_by(joined)
    check_possible(r.anchor.trust, members, r.study.quorum.witnesses, r.witness_gate.refused)
    r.folder.write_layout(joined[members[0]].layout)
    r.folder.event("joined", sites=list(members))
    r.move("joined", members=members, allowed=allowed, absent=absent, left_out=left_out, cleared=r.cleared)


def _ask_to_join(r: Run) -> tuple[dict[str, JoinReply], dict[str, Cause]]:
    """Who joined, and why the others did not. A removed site is not asked, nor one that may not be sent the study.

    Layouts must agree, whoever answers first: nobody is counted before all have answered.
    """
    absent: dict[str, Cause] = {}

    def away(site: str, e: ResidencyError) -> None:
        absent[site] = Cause.of(e)
        r.folder.event("absent", site=site, error=e.as_json())

    names = [s.name for s in r.study.sites]
    removed = {n: e for n in names if (e := r.standing.removed(n)) is not None}
    removed |= {n: e for n in names if n not in removed and (e := r.gatekeeper.closed_to(n)) is not None}
    asked = {n: _join_request(r, n) for n in names if n not in removed}
    answers = r.ask(asked, JOIN_LIMIT_S, dict.fromkeys(asked, JOIN_PATIENCE_S))
    replies: dict[str, JoinReply] = {}
    for site, answer in {**removed, **answers}.items():
        try:
            replies[site] = _reply(r, site, answer)
        except ResidencyError as e:
            away(site, e)
    layout, joined = layouts.agreed(replies), dict[str, JoinReply]()
    for site, reply in replies.items():
        try:
            layouts.check_agreed(reply, layout)
            r.desk.show(site, reply.offer)
            joined[site] = reply
        except ResidencyError as e:
            away(site, e)
    return joined, absent


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


def _reply(r: Run, site: str, answer: Answer) -> JoinReply:
    if isinstance(answer, ResidencyError):
        raise answer
    reply = decode(JoinReply, answer.body, f"join reply of {site}")
    if reply.site != site:
        raise RunFailed("RSD-8202", f"the reply of {site} is not of that site", found=reply.site, limit=site)
    layouts.check_reply(reply, r.study)
    adoptions.check(r.anchor, reply)
    return reply


def check_quorum(r: Run, members: tuple[str, ...], reasons: Mapping[str, Cause], what: str) -> None:
    """Raise RunFailed RSD-8200 below the study's quorum, with every other site's reason."""
    if len(members) >= r.study.quorum.sites:
        return
    told = "; ".join(f"{site}: {c.code} {c.message}" for site, c in sorted(reasons.items()))
    raise RunFailed(
        "RSD-8200",
        f"too few sites {what}: {told or 'no reason known'}",
        rule="study.quorum.sites",
        found=len(members),
        limit=r.study.quorum.sites,
        next=r.folder.after_failure,
    )
