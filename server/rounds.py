"""The rounds of a run: send, gate, add, move the global model, write the roster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from compliance.canonical import parse_canonical, sha256_hex
from compliance.clock import now, parse_time, rfc3339
from compliance.errors import PeerUnreachable, Refused, ResidencyError, RunFailed
from compliance.identity import Envelope, parse_envelope, seal
from compliance.messages import LayoutEntry, RoundReply, RoundRequest, decode, encode
from compliance.roster import EntryRef, Reason, Roster, RosterRow
from compliance.study import Aggregation
from compliance.trust.root import Anchor
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
    """Plays the rounds of one run over a fixed set of members, in order."""

    def __init__(
        self, run: Run, members: tuple[str, ...], allowed: dict[str, EntryRef], layout: tuple[LayoutEntry, ...]
    ) -> None:
        self._run, self._members, self._allowed = run, members, allowed
        self._d = sum(int(np.prod(e.shape)) for e in layout)
        self._flat: Vector = np.zeros(self._d, dtype="<f4")  # heads and LoRA's B start at zero
        self._rule = server_rule(run.study.aggregation, self._d)
        self._rosters: list[str] = []
        run.folder.write_layout(layout)
        run.folder.write_snapshot(0, self._flat)

    @property
    def rosters(self) -> tuple[str, ...]:
        """Digests of the rosters so far."""
        return tuple(self._rosters)

    def play(self, number: int) -> bytes:
        """One round. Returns the roster signed by the operator; raises RunFailed RSD-8200 below quorum."""
        r = self._run
        base = sha256_hex(self._flat.tobytes())
        message = RoundRequest(
            schema="residency.round/1",
            run=r.folder.run,
            study=r.digest,
            round=number,
            recipients=self._members,
            base_sha256=base,
        )
        for site in self._members:
            self._log_transfer(site, number, base)
        requests = {site: Request("round", encode(message), self._flat) for site in self._members}
        rows = self._collect(requests)
        contributed = [row.site for row in rows if row.outcome == "contributed"]
        roster = Roster(
            schema="residency.roster/1",
            study=r.digest,
            run=r.folder.run,
            round=number,
            at=rfc3339(now()),
            base_sha256=base,
            result_sha256=sha256_hex(self._flat.tobytes()),
            recipients=self._members,
            rows=rows,
        )
        envelope = seal(roster.as_json(), r.signer)
        r.record("roster", {"round": number, "digest": envelope.digest})
        self._rosters.append(envelope.digest)
        r.folder.write_roster(number, envelope.encode())
        r.folder.write_snapshot(number, self._flat)
        shown = [{"site": w.site, "outcome": w.outcome, "reason": w.reason.code if w.reason else ""} for w in rows]
        r.folder.event("round", round=number, of=r.study.training.rounds, sites=shown)
        self._check_quorum(number, contributed, rows)
        return envelope.encode()

    def _log_transfer(self, site: str, number: int, digest: str) -> None:
        body = {
            "artifact": "aggregate",
            "recipient": site,
            "round": number,
            "attempt": 1,
            "sha256": digest,
            "decision": self._allowed[site].index,
        }
        self._run.record("transfer", body)

    def _collect(self, requests: dict[str, Request]) -> tuple[RosterRow, ...]:
        """Add the updates as they arrive, then move the global model; one row for each site of the study."""
        r = self._run
        total = Accumulator({s.name: s.weight for s in r.study.sites}, self._d)
        rows: dict[str, RosterRow] = {}
        names = {r.nodes[site]: site for site in requests}
        by_node = {r.nodes[site]: request for site, request in requests.items()}
        for node, answer in r.grid.ask(by_node, float(r.study.round_deadline_s)):
            rows[names[node]] = self._row(names[node], answer, total)
        if total.sites:
            self._flat = self._rule.apply(self._flat, total.mean().delta).astype("<f4")
        return tuple(rows.get(s.name) or self._missing(s.name, s.jurisdiction) for s in r.study.sites)

    def _row(self, site: str, answer: Reply | ResidencyError, total: Accumulator) -> RosterRow:
        jurisdiction = next(s.jurisdiction for s in self._run.study.sites if s.name == site)
        if isinstance(answer, ResidencyError):
            return _without(site, jurisdiction, answer)
        try:
            reply, update = _contribution(site, answer)
            self._run.desk.show(site, reply.offer)  # a log that does not continue covers nothing
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
        """The row of a site that takes no part in this run."""
        r = self._run
        if site in r.left_out:
            error, entries = r.left_out[site]
            return RosterRow(
                site=site, jurisdiction=jurisdiction, outcome="refused", reason=reason_of(error), denied_by=entries
            )
        gone = PeerUnreachable("RSD-6105", f"site {site} was not connected when the run began")
        return _without(site, jurisdiction, r.absent.get(site, gone))

    def _check_quorum(self, number: int, contributed: list[str], rows: tuple[RosterRow, ...]) -> None:
        quorum = self._run.study.quorum.sites
        if len(contributed) >= quorum:
            return
        told = "; ".join(f"{w.site}: {w.reason.code} {w.reason.message}" for w in rows if w.reason)
        raise RunFailed(
            "RSD-8200",
            f"too few sites contributed to round {number}: {told}",
            rule="study.quorum.sites",
            found=len(contributed),
            limit=quorum,
            next="remove the reasons, then start a new run",
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
    digest = sha256_hex(answer.array.tobytes())
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


def round_of(roster: bytes) -> int:
    """The round that a roster is of."""
    return int(parse_canonical(parse_envelope(roster, "roster").payload, "roster")["round"])
