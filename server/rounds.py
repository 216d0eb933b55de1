"""The rounds of a run: send, gate, add, move the global model, write the roster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from compliance.canonical import Json, parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import PeerUnreachable, Refused, ResidencyError, RunFailed
from compliance.identity import Envelope, parse_envelope, seal
from compliance.messages import RoundReply, RoundRequest, decode, encode
from compliance.roster import Reason, Roster, RosterRow
from compliance.study import Aggregation
from compliance.trust.root import Anchor
from server.run_folder import damaged
from server.run_state import Cause
from strategies.fedadam import AdamRates, FedAdam
from strategies.fedavg import Accumulator, FedAvg, ServerRule
from strategies.wire import Reply, Request

if TYPE_CHECKING:
    from server.coordinator import Run

Vector = npt.NDArray[np.float32]


def server_rule(aggregation: Aggregation, d: int) -> ServerRule:
    """The rule that the study chose."""
    if aggregation.rule == "fedavg":
        return FedAvg()
    rates = AdamRates(
        aggregation.server_rate_micro, aggregation.beta1_micro, aggregation.beta2_micro, aggregation.tau_micro
    )
    return FedAdam(rates, d)


class Rounds:
    """Plays the rounds of one run, in order, from where its folder stands.

    The roster's file fixes a round: before it anything may be done again, after it nothing is decided again. What the
    roster speaks of (model, server rule) is on disk before it, its log entry follows, and only then anybody sees it.
    """

    def __init__(self, run: Run) -> None:
        """Raises InputError or CheckFailed RSD-8306 for a folder that is not as the run left it."""
        self._run = run
        self._d = run.folder.model_size()
        self._total = Accumulator({s.name: s.weight for s in run.study.sites}, self._d)
        self._rule = server_rule(run.study.aggregation, self._d)
        last = run.state.last_closed
        found = run.folder.roster(last) if last else None
        if last and found is None:
            raise damaged(f"the roster of round {last}", "no file", "a roster")
        if found is not None:
            self._rule.restore(run.folder.rule(last))
            self._flat = run.folder.snapshot(last, found[0].result_sha256)
        else:
            self._flat = np.zeros(self._d, dtype="<f4")  # heads and LoRA's B start at zero
            run.folder.write_snapshot(0, self._flat)

    def begin(self) -> None:
        """Fix who plays the next round: no site that was removed meanwhile. Raises RunFailed RSD-8200 below quorum."""
        r, state = self._run, self._run.state
        members, left_out = still_members(r)
        if len(members) < r.study.quorum.sites:
            reasons = {**state.absent, **left_out}
            told = "; ".join(f"{site}: {c.code} {c.message}" for site, c in sorted(reasons.items()))
            raise _below(f"too few sites are left for round {state.round + 1}: {told}", len(members), r)
        r.move("sent", round=state.round + 1, members=members, left_out=left_out)

    def play(self) -> None:
        """The round that was begun, to its roster, which is signed, logged and in the folder when this returns."""
        r, number = self._run, self._run.state.round
        fixed = r.folder.roster(number)
        if fixed is None:
            roster, envelope = self._settle(number)
        else:  # a crash came after the roster: it stands
            roster, envelope = fixed
            self._flat = r.folder.snapshot(number, roster.result_sha256)
            self._rule.restore(r.folder.rule(number))
        r.record("roster", {"round": number, "digest": envelope.digest})
        shown = [
            {"site": w.site, "outcome": w.outcome, "reason": w.reason.code if w.reason else ""} for w in roster.rows
        ]
        r.folder.event("round", round=number, of=r.study.training.rounds, sites=shown)
        r.move("closed")
        r.folder.forget_rule(number - 2)

    def _settle(self, number: int) -> tuple[Roster, Envelope]:
        """Ask the members, add what arrives, and write down what came of it; the roster last."""
        r, members = self._run, self._run.state.members
        base = sha256_hex(self._flat.data)
        message = RoundRequest(
            schema="residency.round/1",
            run=r.folder.run,
            study=r.digest,
            round=number,
            recipients=members,
            base_sha256=base,
        )
        r.record("transfer", *(self._transfer(site, number, base) for site in members))
        rows, flat = self._collect({site: Request("round", encode(message), self._flat) for site in members})
        roster = Roster(
            schema="residency.roster/1",
            study=r.digest,
            run=r.folder.run,
            round=number,
            unit=r.study.privacy.unit,
            adjacency="add_remove",
            at=rfc3339(now()),
            base_sha256=base,
            result_sha256=sha256_hex(flat.data),
            recipients=members,
            rows=rows,
        )
        r.folder.write_snapshot(number, flat)
        r.folder.write_rule(number, self._rule.state())
        envelope = seal(roster.as_json(), r.signer)
        r.folder.write_roster(number, envelope.encode())
        self._flat = flat
        return roster, envelope

    def _transfer(self, site: str, number: int, digest: str) -> dict[str, Json]:
        return {
            "artifact": "aggregate",
            "recipient": site,
            "round": number,
            "attempt": 1,
            "sha256": digest,
            "decision": self._run.state.allowed[site].index,
        }

    def _collect(self, requests: dict[str, Request]) -> tuple[tuple[RosterRow, ...], Vector]:
        """Add the updates as they arrive, then move the model; one row for each site of the study, and the model.

        A site that goes away is sent the request again when it is back, until the round's deadline.
        """
        r, total = self._run, self._total
        total.clear()
        rows: dict[str, RosterRow] = {}
        limit_s = float(r.study.round_deadline_s)
        for site, answer in r.answers(requests, limit_s, dict.fromkeys(requests, limit_s)):
            rows[site] = self._row(site, answer, total)
            r.folder.event("arrived", site=site, round=r.state.round, outcome=rows[site].outcome)
        flat = self._rule.apply(self._flat, total.mean().delta) if total.sites else self._flat
        return tuple(rows.get(s.name) or self._missing(s.name, s.jurisdiction) for s in r.study.sites), flat

    def _row(self, site: str, answer: Reply | ResidencyError, total: Accumulator) -> RosterRow:
        jurisdiction = next(s.jurisdiction for s in self._run.study.sites if s.name == site)
        if isinstance(answer, ResidencyError):
            return _without(site, jurisdiction, answer)
        try:
            reply, update = _contribution(site, answer)
            entries = (reply.charge, reply.commit, reply.decision, reply.transfer)
            self._run.desk.show(site, reply.offer, *entries)  # a log that does not continue covers nothing
            total.add(site, update)
        except ResidencyError as e:  # the site answered, and its answer is rejected here
            return RosterRow(site=site, jurisdiction=jurisdiction, outcome="failed", reason=reason_of(e))
        return RosterRow(
            site=site,
            jurisdiction=jurisdiction,
            outcome="contributed",
            attempt=reply.attempt,
            update_sha256=reply.update_sha256,
            charge=reply.charge,
            commit=reply.commit,
            decision=reply.decision,
            transfer=reply.transfer,
        )

    def _missing(self, site: str, jurisdiction: str) -> RosterRow:
        """The row of a site that takes no part in this round."""
        state = self._run.state
        if site in state.left_out:
            cause = state.left_out[site]
            reason = reason_of(cause.error())
            return RosterRow(
                site=site, jurisdiction=jurisdiction, outcome="refused", reason=reason, denied_by=cause.entries
            )
        gone = PeerUnreachable("RSD-6105", f"site {site} was not connected when the run began")
        return _without(site, jurisdiction, state.absent[site].error() if site in state.absent else gone)

    def check_quorum(self) -> None:
        """Raise RunFailed RSD-8200 if too few sites contributed to the round that was closed."""
        r, number = self._run, self._run.state.round
        found = r.folder.roster(number)
        rows = found[0].rows if found else ()
        contributed = sum(row.outcome == "contributed" for row in rows)
        if contributed < r.study.quorum.sites:
            told = "; ".join(f"{w.site}: {w.reason.code} {w.reason.message}" for w in rows if w.reason)
            raise _below(f"too few sites contributed to round {number}: {told}", contributed, r)


def still_members(r: Run) -> tuple[tuple[str, ...], dict[str, Cause]]:
    """The members but those who were removed meanwhile, and everybody who is left out, with the reason."""
    removed = {site: e for site in r.state.members if (e := r.standing.removed(site)) is not None}
    for site, error in removed.items():
        r.folder.event("removed", site=site, error=error.as_json())
    members = tuple(s for s in r.state.members if s not in removed)
    return members, {**r.state.left_out, **{site: Cause.of(e) for site, e in removed.items()}}


def _below(message: str, found: int, r: Run) -> RunFailed:
    return RunFailed(
        "RSD-8200",
        message,
        rule="study.quorum.sites",
        found=found,
        limit=r.study.quorum.sites,
        next=r.folder.after_failure,
    )


def _without(site: str, jurisdiction: str, error: ResidencyError) -> RosterRow:
    """The row of a site whose update is not in the sum, by the kind of error."""
    outcome: Literal["refused", "failed", "late"] = "failed"
    if isinstance(error, Refused):
        outcome = "refused"
    elif isinstance(error, PeerUnreachable):
        outcome = "late"
    return RosterRow(site=site, jurisdiction=jurisdiction, outcome=outcome, reason=reason_of(error))


def _contribution(site: str, answer: Reply) -> tuple[RoundReply, Vector]:
    reply = decode(RoundReply, answer.body, f"the reply of {site}")
    if answer.array is None or reply.site != site:
        raise RunFailed("RSD-8202", f"the reply of {site} holds no update of that site", found=reply.site, limit=site)
    digest = sha256_hex(answer.array.data)
    if digest != reply.update_sha256:
        raise RunFailed(
            "RSD-8203",
            f"the update of {site} is not the one that it committed",
            rule="the bytes that arrive are the bytes that were committed",
            found=digest[:12],
            limit=reply.update_sha256[:12],
            next="look for a fault in the connection",
        )
    return reply, answer.array


def reason_of(error: ResidencyError) -> Reason:
    """An error as it stands in a roster."""
    return Reason(code=error.code, rule=error.rule, message=error.message[:2000])


def merge_signatures(anchor: Anchor, roster: bytes, signed: dict[str, bytes]) -> bytes:
    """The roster with what each site added for itself: valid signatures by its own agent keys, and nothing else."""
    first = parse_envelope(roster, "roster")
    at = parse_time(str(parse_canonical(first.payload, "roster")["at"]))
    signatures = dict(first.signatures)
    for site, data in signed.items():
        other = parse_envelope(data, f"roster countersigned by {site}")
        if (other.payload_type, other.payload) == (first.payload_type, first.payload):
            own = {k.keyid for k in anchor.signers(other, "agent", site, at)}
            signatures.update({keyid: value for keyid, value in other.signatures if keyid in own})
    return Envelope(first.payload_type, first.payload, tuple(sorted(signatures.items()))).encode()
