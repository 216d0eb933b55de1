"""A study read under the law of its sites: what would leave, who comes to hold it, and what every rule says to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from compliance.canonical import canonical, sha256_hex
from compliance.law.counters import bucket
from compliance.law.decide import Engine
from compliance.law.facts import legs_of
from compliance.law.model import Count, Decision, Party, Transfer
from compliance.law.vocabulary import Artifact, CounterName, Via
from compliance.study import SiteTerms, Study
from compliance.study_transfer import parties, transfer_of

Outcome = Literal["allow", "held", "deny"]

_OF_ALL: tuple[Artifact, ...] = ("aggregate", "released_model")
_METADATA: tuple[Artifact, ...] = (
    *("dataset_descriptor", "conformance_report", "answer"),
    *("roster", "log_checkpoint", "log_export"),
)


@dataclass(frozen=True)
class Line:
    """One artifact for one holder: who it is and how it comes to them, and the decision on just that.

    `held_by`: who else would come to hold the same thing, and is denied it: then it goes to nobody.
    """

    artifact: Artifact
    holder: Party
    via: Via
    decision: Decision
    held_by: tuple[Party, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`held`: nothing objects to this holder, and nothing leaves because of another."""
        if not self.decision.allow:
            return "deny"
        return "held" if self.held_by else "allow"

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that say so."""
        return self.decision.legs[0].rules if self.decision.legs else (self.decision.rule,)


@dataclass(frozen=True)
class SiteReview:
    """Everything that one site would let out, and to whom."""

    site: SiteTerms
    lines: tuple[Line, ...]

    def of(self, outcome: Outcome) -> tuple[Line, ...]:
        """The lines that come out so."""
        return tuple(line for line in self.lines if line.outcome == outcome)


def review(study: Study, engine: Engine, sites: tuple[str, ...], at: str) -> tuple[SiteReview, ...]:
    """The named sites of the study under one engine. Persons are counted as if this study were the first."""
    chosen = [terms for terms in study.sites if terms.name in sites]
    return tuple(
        SiteReview(terms, tuple(line for sent in sendings(study, terms, at) for line in lines_of(sent, engine)))
        for terms in chosen
    )


def sendings(study: Study, terms: SiteTerms, at: str) -> Iterator[Transfer]:
    """Each thing that leaves the site, with all who come to hold it."""
    digest = sha256_hex(canonical(study.as_json()))
    known = parties(study)
    operator = known[study.operator.name]
    peers = tuple(party for name, party in known.items() if name not in {operator.name, terms.name})
    sent: list[tuple[Artifact, Party, tuple[Party, ...]]] = [("dp_update", operator, peers)]
    if study.evaluation is not None:
        sent.append(("metric", operator, peers))
    sent += [(artifact, peer, ()) for artifact in _OF_ALL for peer in (operator, *peers)]
    sent += [(artifact, operator, peers) for artifact in _METADATA]
    for artifact, recipient, onward in sent:
        counts = _counts(terms, study, (recipient, *onward))
        yield transfer_of(study, digest, terms.name, artifact, recipient, onward, counts=counts, at=at)


def lines_of(sent: Transfer, engine: Engine) -> Iterator[Line]:
    """Each holder decided as if nobody else came to hold it: the engine itself stops at the first denial."""
    legs = list(legs_of(sent))
    alone = [party.model_copy(update={"access": ()}) for party, _ in legs]
    decided = [engine.decide(sent.model_copy(update={"recipient": party, "onward": ()})) for party in alone]
    denied = tuple(party for party, decision in zip(alone, decided, strict=True) if not decision.allow)
    for (_, via), party, decision in zip(legs, alone, decided, strict=True):
        yield Line(sent.artifact, party, via, decision, tuple(other for other in denied if other != party))


def _counts(terms: SiteTerms, study: Study, holders: tuple[Party, ...]) -> tuple[Count, ...]:
    """As if nothing had left before: what a site has sent already is in its own counters, which stay there."""
    edge = bucket(terms.records_public)
    return tuple(
        Count(counter=counter, recipient=name, at_most=edge, categories=study.data_categories)
        for counter in get_args(CounterName)
        for name in ({p.name for p in holders} if counter == "us_12_months" else {"*"})
    )
