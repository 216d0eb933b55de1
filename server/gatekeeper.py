"""Who may be sent what in a run: decided before it leaves, for each site whose records went into it.

The operator decides nothing for a site; it applies the rules under which the sites' updates were given, and logs each
decision. A peer that any contributing site denies in its own logged decisions is left out as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from compliance.canonical import Json, canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.counting import Tally
from compliance.errors import Refused
from compliance.law.alarm import sound
from compliance.law.decide import Engine
from compliance.law.model import Count, Decision, Party
from compliance.law.vocabulary import Artifact
from compliance.log.order import refuse_set_back
from compliance.log.store import LogStore
from compliance.messages import JoinReply
from compliance.release.bodies import decision_body
from compliance.roster import EntryRef
from compliance.study import SiteTerms, Study
from compliance.study_transfer import COUNTED, SHOWN, party, transfer_of
from server.law import denied

# What a site is sent besides the model: study and answers, rosters, checkpoints of the others' logs.
METADATA: Final[tuple[Artifact, ...]] = ("answer", "roster", "log_checkpoint")


@dataclass(frozen=True)
class Verdict:
    """A site that may not be sent the model: why, and the entries that say so, in whose logs they stand."""

    site: str
    error: Refused
    entries: tuple[EntryRef, ...]


class Gatekeeper:
    """Decides and logs for one study, from the operator to each site; counts the persons behind what it lets out."""

    def __init__(self, study: Study, digest: str, log: LogStore, tally: Tally, engine: Engine) -> None:
        self._study, self._digest, self._log, self._tally, self._engine = study, digest, log, tally, engine
        self._operator = party(study.operator)
        self._shown: dict[str, list[Json]] = {}  # outside witness -> the decision on it that stands in the log

    def decide(self, artifact: Artifact, recipient: Party, origins: Iterable[str] = ()) -> tuple[Decision, EntryRef]:
        """May `artifact`, made of the records of `origins`, go to `recipient`? Logged, whichever way it falls.

        Whom an ALLOW is about is counted before it is logged. Raises what `Tally` raises for counters that cannot be
        relied on, and Refused RSD-3065 for a clock that was set back.
        """
        study, at, counted = self._study, rfc3339(now()), artifact in COUNTED
        refuse_set_back(self._log, at)
        counts: tuple[Count, ...] = ()
        if counted:
            source, persons = self._persons(origins)
            counts = self._tally.counts(self._operator, (recipient,), source, persons, study.data_categories, at)
        told = transfer_of(study, self._digest, self._operator.name, artifact, recipient, counts=counts, at=at)
        decision = self._engine.decide(told)
        if counted and decision.allow:
            self._tally.record(decision, source, persons)
        return decision, self._logged(decision)

    def _logged(self, decision: Decision) -> EntryRef:
        body = decision_body(decision, 0, decision.transfer.recipient.name)
        added = self._log.append("decision", body, self._digest)
        sound(self._log, decision, added.index, self._digest)
        return EntryRef(origin=self._log.origin, index=added.index, leaf=added.leaf_hash.hex())

    def _persons(self, origins: Iterable[str]) -> tuple[str, int]:
        """What the counters call the records behind a model, and of how many persons they are at most.

        By the public counts of the sites; one extract of other sites is another population, and counts anew.
        """
        behind = sorted(set(origins))
        name = sha256_hex(canonical({"dataset": self._study.dataset, "sites": list(behind)}))[:32]
        return name, sum(s.records_public for s in self._study.sites if s.name in behind)

    def closed_to(self, site: str) -> Refused | None:
        """Why the operator may not even send `site` the study, rosters and checkpoints; None if it may."""
        for artifact in METADATA:
            decision, _ = self.decide(artifact, self._party(site))
            if not decision.allow:
                return denied(decision, f"{artifact} of {self._operator.name}")
        return None

    def may_show(self, witness: Party) -> Decision:
        """May the operator show checkpoints, its own and the sites', to this outside witness?

        Decided each time; logged before the first, and when it changes: not once a round. Raises Refused RSD-3065.
        """
        at = rfc3339(now())
        refuse_set_back(self._log, at)
        told = transfer_of(self._study, self._digest, self._operator.name, SHOWN, witness, at=at)
        decision = self._engine.decide(told)
        made = _gist(decision.as_entry())
        if witness.name not in self._shown:
            self._shown[witness.name] = self._last_shown(witness.name)
        if self._shown[witness.name] != made:
            self._logged(decision)
            self._shown[witness.name] = made
        return decision

    def _last_shown(self, witness: str) -> list[Json]:
        """What the log says that was decided last, by a process before this one; empty for nothing."""
        held = self._log.entries(0, study=self._digest, kind="decision")
        about = [e.body for e in held if e.body["peer"] == witness and e.body["transfer"]["artifact"] == SHOWN]
        return _gist(about[-1]) if about else []

    def judge(self, joined: dict[str, JoinReply]) -> tuple[dict[str, EntryRef], dict[str, Verdict]]:
        """For each joined site: the entry that allows sending it the model, or the verdict that leaves it out.

        Sites are judged in the order of the study; the records of all who joined count as being in the model.
        """
        allowed: dict[str, EntryRef] = {}
        left_out: dict[str, Verdict] = {}
        for terms in self._study.sites:
            if terms.name not in joined:
                continue
            decision, entry = self.decide("aggregate", party(terms), joined)
            denials = _peer_denials(joined, terms.name)
            if decision.allow and not denials:
                allowed[terms.name] = entry
            else:
                left_out[terms.name] = _verdict(terms.name, decision, entry, denials)
        return allowed, left_out

    def release(self, joined: Iterable[str]) -> None:
        """Decide, before there is a release, who of the study's sites may have it from the operator.

        `joined`: as `judge` had them, so that the same records count once. Done again after a crash it decides nothing
        twice.
        """
        held = self._log.entries(0, study=self._digest, kind="decision")
        done = {str(e.body["peer"]) for e in held if e.body["transfer"]["artifact"] == "released_model"}
        origins = tuple(joined)
        for terms in self._study.sites:
            if terms.name not in done:
                self.decide("released_model", party(terms), origins)

    def _party(self, site: str) -> Party:
        terms: SiteTerms = next(s for s in self._study.sites if s.name == site)
        return party(terms)


def _peer_denials(joined: dict[str, JoinReply], peer: str) -> list[tuple[str, str, str, EntryRef]]:
    """(site, rule, sentence, entry) of each joined site whose own rules deny `peer` the model."""
    return [
        (site, d.rule, d.plain, d.entry)
        for site, reply in joined.items()
        for d in reply.decisions
        if d.recipient.name == peer and d.artifact == "aggregate" and not d.allow
    ]


def _gist(body: Mapping[str, Any]) -> list[Json]:
    """What makes a decision another one: its outcome, its rule, the recipient, and the packs and regions behind it."""
    return [*(body[key] for key in ("allow", "rule", "packs", "regions", "law_set")), body["transfer"]["recipient"]]


def _verdict(site: str, decision: Decision, entry: EntryRef, denials: list[tuple[str, str, str, EntryRef]]) -> Verdict:
    entries = tuple(e for *_, e in denials) + (() if decision.allow else (entry,))
    if not decision.allow:
        return Verdict(site, denied(decision, "the global model"), entries)
    by, rule, plain, _ = denials[0]
    error = Refused(
        "RSD-3100",
        f"the global model may not go to {site}: {plain}",
        rule=rule,
        found=f"denied by {by}",
        limit="allow by both evaluators, and by every contributing site",
        next="ask the sites that deny it",
    )
    return Verdict(site, error, entries)
