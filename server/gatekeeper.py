"""Who may be sent the global model: decided before it leaves, for each site whose records went into it.

The operator decides nothing for a site; it applies the rules under which the sites' updates were given, and logs each
decision. A peer that any contributing site denies in its own logged decisions is left out as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from compliance.canonical import Json
from compliance.clock import now, rfc3339
from compliance.errors import Refused
from compliance.law.decide import Engine, builtin_packs
from compliance.law.model import Decision, Document, Guarantees, Party, Transfer
from compliance.log.store import LogStore
from compliance.messages import JoinReply
from compliance.roster import EntryRef
from compliance.study import Study


@dataclass(frozen=True)
class Verdict:
    """A site that may not be sent the model: why, and the entries that say so, in whose logs they stand."""

    site: str
    error: Refused
    entries: tuple[EntryRef, ...]


class Gatekeeper:
    """Decides and logs for one study. Origins are the jurisdictions of the sites that joined, and the operator's."""

    def __init__(self, study: Study, digest: str, log: LogStore) -> None:
        packs = builtin_packs()
        self._engine = Engine(packs, {name: pack.digest for name, pack in packs.items()})
        self._study, self._digest, self._log = study, digest, log

    def decide(self, exporter: Party, recipient: Party, round_: int) -> tuple[Decision, EntryRef]:
        """May the global model go from `exporter` to `recipient`? Logged, whichever way it falls."""
        study = self._study
        transfer = Transfer(
            artifact="aggregate",
            exporter=exporter,
            recipient=recipient,
            purpose=study.purpose,
            study=self._digest,
            documents=tuple(Document(**d.model_dump(exclude={"id", "title"})) for d in study.documents),
            guarantees=Guarantees(
                unit=study.privacy.unit,
                epsilon_milli=max(s.epsilon_milli for s in study.sites),
                inverse_delta=study.privacy.inverse_delta,
                min_sites=study.quorum.sites,
            ),
            at=rfc3339(now()),
        )
        decision = self._engine.decide(transfer)
        body: dict[str, Json] = {**decision.as_entry(), "round": round_, "peer": recipient.name}
        added = self._log.append("decision", body, self._digest)
        return decision, EntryRef(origin=self._log.origin, index=added.index, leaf=added.leaf_hash.hex())

    def judge(self, joined: dict[str, JoinReply]) -> tuple[dict[str, EntryRef], dict[str, Verdict]]:
        """For each joined site: the entry that allows sending it the model, or the verdict that leaves it out.

        Sites are judged in the order of the study. One that is left out no longer counts as an origin for the rest.
        """
        allowed: dict[str, EntryRef] = {}
        left_out: dict[str, Verdict] = {}
        operator = Party(name=self._study.operator.name, jurisdiction=self._study.operator.jurisdiction)
        for terms in self._study.sites:
            if terms.name not in joined:
                continue
            recipient = Party(name=terms.name, jurisdiction=terms.jurisdiction)
            decision, entry = self.decide(operator, recipient, 0)
            denials = _peer_denials(joined, terms.name)
            if decision.allow and not denials:
                allowed[terms.name] = entry
            else:
                left_out[terms.name] = _verdict(terms.name, decision, entry, denials)
        return allowed, left_out


def _peer_denials(joined: dict[str, JoinReply], peer: str) -> list[tuple[str, str, str, EntryRef]]:
    """(site, rule, sentence, entry) of each joined site whose own rules deny `peer` the model."""
    return [
        (site, d.rule, d.plain, d.entry)
        for site, reply in joined.items()
        for d in reply.decisions
        if d.peer == peer and d.artifact == "aggregate" and not d.allow
    ]


def _verdict(site: str, decision: Decision, entry: EntryRef, denials: list[tuple[str, str, str, EntryRef]]) -> Verdict:
    entries = tuple(e for *_, e in denials) + (() if decision.allow else (entry,))
    if decision.allow:
        by, rule, plain, _ = denials[0]
        found = f"denied by {by}"
    else:
        rule = f"{decision.rule}: {', '.join(decision.law) or ', '.join(decision.house)}"
        plain, found = decision.plain, "; ".join(decision.missing) or "deny"
    error = Refused(
        "RSD-3100",
        f"the global model may not go to {site}: {plain}",
        rule=rule,
        found=found,
        limit="allow by both evaluators, and by every contributing site",
        next=decision.would_allow or "ask the sites that deny it",
    )
    return Verdict(site, error, entries)
